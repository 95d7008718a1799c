"""`image`: everything about one image."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops import show, words
from ops.cli_common import OK, WRONG_USAGE, BatchArgument, DataOption, JsonFlag, ProjectOption, fail, with_target

if TYPE_CHECKING:
    from ops.target import Target
    from shared.model import Batch, Image, Worker
    from shared.queries.images import Story


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog="Example: ruum-batch image acme.demo 17")(image)


def image(
    batch: BatchArgument,
    index: Annotated[int, typer.Argument(min=0, metavar="INDEX", help="Its position in the manifest, counted from 0.")],
    data: DataOption = None,
    project: ProjectOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show everything about one image.

    Lists its source, attempts, error, calls and cost, the worker that holds it, and its picture.
    """

    async def work(target: Target) -> int:
        import msgspec

        from ops import remote
        from shared.queries.images import story

        known = await remote.batch_of(target, batch)
        answer = await story(target.pipeline, known, index)
        if answer is None:
            last = f"0 to {known.total - 1}" if known.total else "none: its manifest was rejected"
            fail(f"{batch} has no image {index} (its images are {last})", WRONG_USAGE)
        found, holder = answer.image, answer.holder
        if as_json:
            document = msgspec.to_builtins(found)
            document.pop("token", None)
            show.as_json(document | {
                "costUsd": found.cost_micro_usd / 1e6, "batchControl": known.control.value,
                "trace": answer.trace, "holder": msgspec.to_builtins(holder),
            })  # fmt: skip
        else:
            for line in _story(target, known, answer):
                show.out.print(line)
        return OK

    with_target(work, data, project)


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _story(target: Target, batch: Batch, answer: Story) -> list[str]:
    from ops.commands import submit
    from shared.manifest.sources import shown
    from shared.queries import failures

    found, holder = answer.image, answer.holder
    tries = f"{words.count(found.attempts, 'failed attempt')}, {words.count(found.crashes, 'crash')}"
    code = f", {found.property_code}" if found.property_code else ""
    lines = [
        f"{found.batch} image {found.index}{code}: {found.state.value}",
        f"  source    {shown(found.source, batch.manifest.base)}  ({found.source})",
        f"  wanted    {found.room_type}, {found.design_style}, tier {found.tier.value}",
        f"  created   {_moment(found.created_at)}",
        f"  tries     round {found.round}, {tries}",
        *_trials(found),
    ]
    if found.error:
        what = "failed" if found.state.value == "failed" else "last try"
        lines.append(f"  {what:<9} {found.error.code}: {found.error.message}")
        lines.append(f"            {failures.advice(found.error.code)}")
    lines += _calls(found)
    if found.settled_at:
        lines.append(f"  ended     {_moment(found.settled_at)}")
    if found.output:
        lines.append(f"  picture   {submit.results_place(target, found.output.picture)}"
                     + (" (from the cache)" if found.cached else ""))  # fmt: skip
    lines.append(f"  now       {_now(target, batch, found, holder)}")
    lines.append(f"  in logs   trace {answer.trace}")
    return lines


def _trials(found: Image) -> list[str]:
    """Say what is known of an image that workers have died with; nothing for most images."""
    from shared import decisions

    trials, lines = found.trials, []
    if trials.deaths or trials.passed:
        where = f", the last one in step {trials.step}" if trials.step else ""
        died, passed = words.count(trials.deaths, "worker"), words.count(trials.passed, "trial")
        lines.append(f"  alone     {died} died while holding only this image{where}; {passed} passed")
    if decisions.image.is_suspect(found) and found.settled_at is None:
        age = words.duration(decisions.image.TRIAL_AFTER_SECONDS)
        lines.append(f"  suspect   it will be tried alone, by a worker that has been alive for {age}")
    return lines


def _calls(found: Image) -> list[str]:
    if not found.calls:
        return ["  calls     none paid for"]
    lines = [f"  calls     {len(found.calls)}, {words.money(found.cost_micro_usd / 1e6)} in all rounds"]
    for call in found.calls:
        tokens = f"{call.input_tokens} + {call.output_tokens} tokens"
        lines.append(f"            {call.step:<8} {call.model}  {tokens}  {call.duration_ms / 1000:.1f} s  "
                     f"${call.cost_micro_usd / 1e6:.4f}{' (estimated)' if call.estimated else ''}")  # fmt: skip
    return lines


def _now(target: Target, batch: Batch, found: Image, holder: Worker | None) -> str:
    from shared import decisions
    from shared.model import Control, image_key

    state: Any = found.state.value
    if found.settled_at and state in ("completed", "failed", "cancelled"):
        return f"nothing is left to do; {'`retry-failed` gives it a new round' if state == 'failed' else 'it is kept'}"
    if found.claim is not None:
        alive = decisions.image.claim_is_alive(found, holder, target.clock.now())
        since = words.ago(target.clock.now() - found.claim.at)
        waited = holder.waited_seconds.get(image_key(found.batch, found.index), 0.0) if holder else 0.0
        quota = f", {words.duration(waited)} of that waiting for quota" if waited >= 1 else ""
        life = "" if alive else "; that worker is dead, and another will take over the image"
        return f"held by {found.claim.worker} for {since}{quota}{life}"
    if batch.control is Control.PAUSED:
        return "queued; its batch is paused"
    if not target.somebody_works():
        return "queued; nothing is running in this data folder"
    return "queued"
