"""`quota` and `set-quota`: what the vendors allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ops import show, words
from ops.cli_common import OK, WRONG_USAGE, DataOption, JsonFlag, ProjectOption, fail, with_target

if TYPE_CHECKING:
    from ops.target import Target
    from shared.queries.quota import ModelQuota
    from shared.settings import Limit


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(epilog="Example: ruum-batch quota")(quota)
    app.command("set-quota", epilog="Example: ruum-batch set-quota gemini-nano-banana-2.1 --per-minute 120")(set_quota)


def quota(
    every: Annotated[bool, typer.Option("--all", help="Include models that this configuration does not use.")] = False,
    data: DataOption = None,
    project: ProjectOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show each model's limit, use, waiting calls and circuit.

    Circuit: "ok" lets calls through; "OPEN" lets none through while the vendor is failing, and tries again by itself.
    """

    async def work(target: Target) -> int:
        import msgspec

        from shared.decisions.forecast import calls_by_model
        from shared.queries.quota import of_models

        in_use = set(calls_by_model(target.settings))
        rows = await of_models(target.pipeline)
        if as_json:
            show.as_json({"models": msgspec.to_builtins(rows)})
            return OK
        busy = [row for row in rows if row.used or row.waiting or row.circuit != "closed" or row.changed]
        shown = [row for row in rows if every or row.model in in_use or row in busy]
        _show(shown)
        if target.data is not None and target.free:
            show.out.print("the last run here used the preview model, which needs no quota")
        if not every and len(shown) < len(rows):
            show.out.print(f"{words.count(len(rows) - len(shown), 'model')} not in use; --all lists every model")
        return OK

    with_target(work, data, project)


def _show(rows: list[ModelQuota]) -> None:
    table = [["MODEL", "LIMIT", "USED", "WAITING", "CIRCUIT", ""]]
    for row in rows:
        circuit = {"closed": "ok", "open": "OPEN", "half_open": "TESTING"}[row.circuit]
        notes = []
        if row.open_until:
            notes.append(f"tries again at {row.open_until}")
        if row.rate < 1:
            notes.append(f"slow mode at {row.rate:.0%}")
        if row.day_spent_until:
            notes.append(f"the day's quota is used up until {row.day_spent_until}")
        if row.changed:
            notes.append("set by set-quota")
        table.append([row.model, limit_shown(row.per_minute, row.concurrent), str(row.used),
                      str(row.waiting), circuit, ", ".join(notes)])  # fmt: skip
    show.table(table, right=frozenset({2, 3}))


def limit_shown(per_minute: int | None, concurrent: int | None) -> str:
    """Return a limit in words: `60/min`, `10 at once`, both, or `none`."""
    parts = [f"{per_minute}/min"] if per_minute else []
    parts += [f"{concurrent} at once"] if concurrent else []
    return ", ".join(parts) or "none"


def set_quota(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model id, as `quota` lists them.")],
    per_minute: Annotated[int | None, typer.Option(min=1, metavar="N", help="Calls a minute.")] = None,
    concurrent: Annotated[int | None, typer.Option(min=1, metavar="N", help="Calls at once.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Go back to the limit in the settings.")] = False,
    data: DataOption = None,
    project: ProjectOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Change a model's limit without a restart. Prints the old and the new limit."""

    async def work(target: Target) -> int:
        from shared import decisions
        from shared.decisions.quota import Ledger
        from shared.queries.quota import ledger_now
        from shared.settings import Limit
        from shared.worker.quota import QuotaEvents

        if model not in target.settings.limits:
            fail(f"{model} has no limit to change (models: {', '.join(target.settings.limits)})", WRONG_USAGE)
        if reset == bool(per_minute or concurrent):
            now, _ = await ledger_now(target.pipeline, model)
            has = _limit(now.limit or target.settings.limits[model])
            fail(f"pass --per-minute, --concurrent or --reset; the limit of {model} is {has}", WRONG_USAGE)
        limit = None if reset else Limit(per_minute=per_minute, concurrent=concurrent)
        seen: list[Ledger] = []

        def decide(known: Ledger | None, _: float) -> Ledger:
            seen[:] = [known or Ledger(id=model)]
            return decisions.quota.set_limit(seen[0], limit)

        written = await target.backend.store.change_record(Ledger, model, decide, target.clock.token())
        if isinstance(written, Ledger):
            events = QuotaEvents(target.backend.queue, target.clock, target.settings.limits)
            await events.tell(seen[0], written)
        own = target.settings.limits[model]
        before, after = seen[0].limit or own, limit or own
        if as_json:
            show.as_json({"model": model, "before": _plain(before), "after": _plain(after), "reset": reset})
        else:
            show.out.print(f"{model}: {_limit(before)} → {_limit(after)}{' (as in the settings)' if reset else ''}")
        return OK

    with_target(work, data, project)


def _limit(limit: Limit) -> str:
    return limit_shown(limit.per_minute, limit.concurrent)


def _plain(limit: Limit) -> dict[str, int | None]:
    return {"perMinute": limit.per_minute, "concurrent": limit.concurrent}
