"""`submit`, `watch`, `results`: hand a batch to a stack or project, follow it, and copy its results here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops import show, words
from ops.cli_common import (
    OK,
    REJECTED,
    SOME_FAILED,
    BatchArgument,
    DataOption,
    JsonFlag,
    ManifestPath,
    ProjectOption,
    YesFlag,
    with_target,
)

if TYPE_CHECKING:
    from ops.remote import Awaited
    from ops.target import Target
    from shared.manifest.model import Manifest
    from shared.model import Batch, Counts


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(epilog="Example: ruum-batch submit samples/batch.json --watch")(submit)
    app.command(epilog="Example: ruum-batch watch acme.demo")(watch)
    app.command(epilog="Example: ruum-batch results acme.demo --out staged")(results)


def submit(
    manifest: ManifestPath,
    project: ProjectOption = None,
    watch_it: Annotated[bool, typer.Option("--watch", help="Follow the batch until it is done.")] = False,
    yes: YesFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Upload a manifest and its photos to a stack or project.

    Asks when photos are missing. If nobody answers, nothing is uploaded; --yes submits the batch without them.
    """
    from ops import manifest_file

    settings = manifest_file.settings_here()
    content = manifest_file.content(manifest, settings, as_json=as_json)

    async def work(target: Target) -> int:
        found = _checked(target, manifest, content, as_json=as_json)
        _ask_for_missing(await _without_known_paths(target, found), manifest, yes=yes)
        return await _submit(target, manifest, content, found, watch_it=watch_it, as_json=as_json)

    with_target(work, None, project, need_google=True)


def _checked(target: Target, manifest: Path, content: bytes, *, as_json: bool) -> Manifest:
    """Return the manifest, read by the target's own rules. A bad one ends the command with its problems."""
    from ops import manifest_file, remote

    def read(client: str | None) -> tuple[Manifest | None, Any]:
        rules = remote.submit_rules(target, manifest, client)
        return manifest_file.checked(content, manifest.name, target.settings, rules)

    found, problems = read(None)
    if found is not None:
        found, problems = read(found.client)
    if found is None:
        manifest_file.rejected(manifest, problems, None, as_json=as_json)
    return found


async def _without_known_paths(target: Target, found: Manifest) -> Manifest:
    """Drop the rows of a failed.csv whose photos already lie beside the batch's own manifest: those are used."""
    import msgspec

    known = await target.backend.store.batch(found.batch) if found.is_retry else None
    bucket, objects = target.settings.buckets.intake, target.backend.objects
    if known is None or not known.manifest.base.startswith(f"gs://{bucket}/"):
        return found
    folder = known.manifest.base.removeprefix(f"gs://{bucket}/")
    there = {image.path for image in found.images if image.path and await objects.stat(bucket, folder + image.path)}
    return msgspec.structs.replace(found, images=tuple(image for image in found.images if image.path not in there))


def _ask_for_missing(found: Manifest, manifest: Path, *, yes: bool) -> None:
    from ops import photos

    absent = photos.missing(found)
    if absent:
        text = photos.sentence(absent, manifest.parent.resolve())
        photos.ask_to_go_on(text, "Submit the batch without them?", yes=yes, refuse=True)


async def _submit(
    target: Target, manifest: Path, content: bytes, found: Manifest, *, watch_it: bool, as_json: bool
) -> int:
    from ops import remote

    def uploaded(done: int, total: int) -> None:
        if done == total or done % 100 == 0:
            show.err.print(f"{done} of {words.count(total, 'photo')} uploaded")

    known = await target.backend.store.batch(found.batch)
    batch_id = await remote.submit(target, manifest, content, found, uploaded)
    same = known is not None and known.manifest.sha256 == found.sha256
    if known is not None and same and not as_json:
        show.out.print(_as_before(target, known))
    if watch_it:
        uri = target.backend.objects.uri(target.settings.buckets.intake, remote.manifest_name(found, manifest, content))
        new_round = known.round if known is not None and not same and not known.is_open else 0
        return await follow(target, batch_id, as_json=as_json, awaited=remote.Awaited(round=new_round, uri=uri))
    if as_json:
        show.as_json({"batchId": batch_id, "total": len(found.images), "knownBefore": same})
    elif not same:
        show.out.print(f"submitted as {batch_id}; follow it with: ruum-batch watch {batch_id}{target.options}")
    return OK


def _as_before(target: Target, known: Batch) -> str:
    state = known.outcome.replace("_", " ")
    if known.is_open:
        return f"{known.id} was already submitted: {state}. To follow it: ruum-batch watch {known.id}{target.options}"
    again = f"; ruum-batch retry-failed {known.id}{target.options} gives its failures a new round"
    return f"{known.id} is the same batch as before: {state}. Nothing new is staged" + (
        again if "failures" in state else ""
    )


def watch(
    batch: BatchArgument, data: DataOption = None, project: ProjectOption = None, as_json: JsonFlag = False
) -> None:
    """Follow a batch to its end.

    Ends earlier when the batch is paused or nothing is working on it. Exit codes as for run.
    """
    with_target(lambda target: follow(target, batch, as_json=as_json), data, project)


async def follow(target: Target, batch_id: str, *, as_json: bool, awaited: Awaited | None = None) -> int:
    """Follow a batch to its end. Returns the exit code."""
    import asyncio

    from ops import batch_lookup, remote

    progress = show.BatchProgress()
    waits = _Waits(target, progress)

    async def not_yet() -> None:
        known = [known.id for known in await target.backend.store.batches()]
        there = batch_lookup.listed(known)
        limit = words.duration(remote.APPEAR_SECONDS)
        show.err.print(f"no batch {batch_id} in {target.where} yet; waiting up to {limit} (batches here: {there})")

    try:
        with progress:
            batch, counts = await remote.watch(
                target, batch_id, progress.show, awaited=awaited, look=waits.look, not_yet=not_yet
            )
    except asyncio.CancelledError:  # Ctrl-C
        show.goodbye(
            f"no longer watching; {batch_id} continues. To watch it again: ruum-batch watch {batch_id}{target.options}"
        )
        raise
    return await ended(target, batch, counts, as_json=as_json, standing_still=waits.standing_still)


class _Waits:
    """Says what a batch is waiting for while it is followed. Ends the following when only a person can help."""

    EVERY_SECONDS = 3.0

    def __init__(self, target: Target, progress: show.BatchProgress) -> None:
        self._target = target
        self._progress = progress
        self._looked_at = -self.EVERY_SECONDS
        self._moved_at = target.clock.monotonic()
        self._settled = -1
        self.standing_still: str | None = None

    async def look(self, batch: Batch, counts: Counts) -> bool:
        """Return whether to stop following."""
        from ops import waiting
        from shared.model import Control

        now = self._target.clock.monotonic()
        if counts.settled != self._settled:
            self._settled, self._moved_at = counts.settled, now
        if batch.control is Control.PAUSED and counts.open and batch.is_open:
            return True
        if now - self._looked_at < self.EVERY_SECONDS or not batch.is_open:
            return False
        self._looked_at = now
        waits = await waiting.of_batch(self._target, batch)
        nobody = next((wait for wait in waits if wait.kind == "nobody"), None)
        if nobody is not None and self._target.data is not None:
            again = await self._target.backend.store.batch(batch.id)  # it may have closed just now, and its run ended
            if again is not None and again.is_open:
                self.standing_still = nobody.sentence
                return True
        self._progress.waits = waits[0].short if waits else ""
        self._progress.stuck = any(wait.serious for wait in waits)
        long_still = now - self._moved_at >= 10.0  # starting workers, and a picture, take that long
        said = next((wait for wait in waits if wait.serious and (wait.kind != "nobody" or long_still)), None)
        if said is None and waits and long_still:
            said = waits[0]
        self._progress.say_once(said.sentence if said else None, about=said.about if said else None)
        return False


async def ended(
    target: Target, batch: Batch, counts: Counts, *, as_json: bool, standing_still: str | None = None
) -> int:
    """Say how a batch ended, and what to do next. Returns the exit code."""
    import msgspec

    from ops import failure_lines, local, run_notes, waiting
    from shared.model import BatchState, Control
    from shared.queries import failures
    from shared.results import names

    if batch.state is BatchState.REJECTED:
        return await _rejected(target, batch, as_json=as_json)
    cost = batch.completion.cost_usd if batch.completion else 0.0
    folder = results_place(target, names.results_folder(batch).rstrip("/"))
    done = local.summary(batch, counts, cost, folder)
    groups = await failures.of(target.backend.store, batch)
    done["failures"] = [msgspec.to_builtins(group) for group in groups]
    if as_json:
        show.as_json(done)
    if batch.state is BatchState.CLOSED:
        if not as_json:
            show.summary_lines(done, groups)
            for line in next_steps(target, batch, groups):
                show.out.print(line)
        return OK if counts.completed == batch.total else SOME_FAILED
    state = f"{counts.settled} of {batch.total} finished"
    if batch.control is Control.PAUSED:
        show.err.print(f"{batch.id} is paused with {state}: {waiting.reason_of(batch)}")
        same = None if target.data is None or target.somebody_works() else run_notes.run_command(target.data, batch)
        for line in [*failure_lines.lines(groups), *waiting.paused_lines(target.options, batch, goes_on=same)]:
            show.err.print(line)
    else:
        show.err.print(f"{batch.id} makes no progress, with {state}. {standing_still or ''}".rstrip())
    return SOME_FAILED


def results_place(target: Target, name: str) -> str:
    """Return where people find an object or folder of the results: a path on this machine, else an address."""
    from urllib.parse import unquote

    uri = target.backend.objects.uri(target.settings.buckets.results, name)
    return unquote(uri.removeprefix("file://")) if uri.startswith("file://") else uri


def next_steps(target: Target, batch: Batch, groups: list[Any]) -> list[str]:
    """Return the commands to run after failures, wherever the batch is."""
    from ops import failure_lines, run_notes
    from shared.results import names

    retry = f"ruum-batch retry-failed {batch.id}{target.options}"
    failed_csv = names.round_folder(batch) + "failed.csv"
    if target.data is not None:
        out = run_notes.results_of(target.data)
        again = run_notes.run_command(target.data, batch, out / failed_csv)
        if not target.somebody_works():
            retry += f", then: {run_notes.run_command(target.data, batch)}"
    else:
        project = target.options
        again = f"ruum-batch results {batch.id}{project}, then: ruum-batch submit staged/{failed_csv}{project}"
    return failure_lines.next_steps(groups, again=again, retry=retry)


async def _rejected(target: Target, batch: Batch, *, as_json: bool) -> int:
    from ops import remote

    listed = await remote.first_problems(target, batch)
    problems, where = listed or ([], None)
    if as_json:
        show.as_json({"batchId": batch.id, "state": "rejected", "manifest": batch.manifest.uri,
                      "problems": batch.problems, "firstProblems": problems[:10], "errors": where})  # fmt: skip
        return REJECTED
    show.err.print(f"{batch.id}: rejected, {words.count(batch.problems, 'problem')} in {batch.manifest.uri}")
    for problem in problems[:10]:
        show.err.print(f"  {problem}")
    if where:
        show.err.print(f"All of them as JSON: {where}" if batch.problems > 1 else f"The same as JSON: {where}")
    return REJECTED


def results(
    batch: BatchArgument,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to copy results/ into.")] = Path("staged"),
    data: DataOption = None,
    project: ProjectOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Copy a batch's pictures and reports to this machine."""

    async def work(target: Target) -> int:
        from ops import remote
        from shared.model import BatchState

        fetched = 0

        def count(done: int) -> None:
            nonlocal fetched
            fetched = done

        known = await remote.batch_of(target, batch)
        if known.state is BatchState.REJECTED:
            return await _rejected(target, known, as_json=as_json)
        folder = await remote.fetch_results(target, batch, out, count)
        still = (await target.backend.store.counts(batch)).open if known.is_open else 0
        if as_json:
            show.as_json({"batchId": batch, "files": fetched, "resultsDir": str(folder), "stillOpen": still})
        else:
            show.out.print(f"{words.count(fetched, 'file')} in {folder}")
        if still:
            show.err.print(f"{words.count(still, 'image')} {words.are(still)} not finished yet; more files will follow")
        return OK

    with_target(work, data, project)
