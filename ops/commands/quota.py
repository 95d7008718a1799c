"""`quota` and `set-quota`: what the vendors allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops import show, words
from ops.cli_common import OK, WRONG_USAGE, DataOption, JsonFlag, ProjectOption, fail, with_target

if TYPE_CHECKING:
    from ops.target import Target
    from shared.decisions.quota import Ledger
    from shared.settings import Limit


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(epilog="Example: ruum-batch quota")(quota)
    app.command("set-quota", epilog="Example: ruum-batch set-quota gemini-nano-banana-2.1 --per-minute 120")(set_quota)


def quota(
    every: Annotated[bool, typer.Option("--all", help="Also models that this configuration does not use.")] = False,
    data: DataOption = None,
    project: ProjectOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the limit, use, waiting calls and circuit of each model in use.

    Circuit: "ok" lets calls through; "OPEN" lets none through while the vendor is failing, and tries again by itself.
    """

    async def work(target: Target) -> int:
        from shared.decisions.forecast import calls_by_model

        in_use = set(calls_by_model(target.settings))
        rows = [_row(target, *await _ledger_now(target, name)) for name in target.settings.limits]
        if as_json:
            show.as_json({"models": rows})
            return OK
        busy = [row for row in rows if row["used"] or row["waiting"] or row["circuit"] != "closed" or row["changed"]]
        shown = [row for row in rows if every or row["model"] in in_use or row in busy]
        _show(shown)
        if target.data is not None and target.free:
            show.out.print("the last run here used the preview model, which needs no quota")
        if not every and len(shown) < len(rows):
            show.out.print(f"{words.count(len(rows) - len(shown), 'model')} not in use: --all")
        return OK

    with_target(work, data, project)


def _show(rows: list[dict[str, Any]]) -> None:
    table = [["MODEL", "LIMIT", "USED", "WAITING", "CIRCUIT", ""]]
    for row in rows:
        circuit = {"closed": "ok", "open": "OPEN", "half_open": "TESTING"}[row["circuit"]]
        notes = []
        if row["openUntil"]:
            notes.append(f"tries again at {row['openUntil']}")
        if row["rate"] < 1:
            notes.append(f"slow mode at {row['rate']:.0%}")
        if row["daySpentUntil"]:
            notes.append(f"the day's quota is used up until {row['daySpentUntil']}")
        if row["changed"]:
            notes.append("set by set-quota")
        table.append([row["model"], limit_shown(row["perMinute"], row["concurrent"]), str(row["used"]),
                      str(row["waiting"]), circuit, ", ".join(notes)])  # fmt: skip
    show.table(table, right=frozenset({2, 3}))


def limit_shown(per_minute: int | None, concurrent: int | None) -> str:
    """`60/min`, `10 at once`, both, or `none`."""
    parts = [f"{per_minute}/min"] if per_minute else []
    parts += [f"{concurrent} at once"] if concurrent else []
    return ", ".join(parts) or "none"


async def _ledger_now(target: Target, model: str) -> tuple[Ledger, float]:
    """A ledger and the server's time, which its times are of: this machine's clock may be off."""
    from shared.decisions.quota import Ledger
    from shared.model import Refusal

    seen: list[tuple[Ledger, float]] = []

    def look(known: Ledger | None, now: float) -> Refusal:
        seen[:] = [(known or Ledger(id=model), now)]
        return Refusal.UNCHANGED

    await target.backend.store.change_record(Ledger, model, look, target.clock.token())
    return seen[0]


def _row(target: Target, ledger: Ledger, now: float) -> dict[str, Any]:
    from shared import decisions
    from shared.events import iso

    ledger = decisions.quota.recovered(ledger, now)
    limit = ledger.limit or target.settings.limits[ledger.id]
    return {
        "model": ledger.id,
        "perMinute": limit.per_minute,
        "concurrent": limit.concurrent,
        "changed": ledger.limit is not None,
        "used": decisions.quota.used(ledger, now)
        if limit.per_minute
        else sum(slot.until > now for slot in ledger.slots),
        "waiting": sum(waiter.count for waiter in ledger.waiters.values() if waiter.until > now),
        "rate": ledger.rate,
        "circuit": ledger.circuit.value,
        "openUntil": iso(ledger.open_until) if ledger.open_until > now else None,
        "daySpentUntil": iso(ledger.day_spent_until) if ledger.day_spent_until > now else None,
    }


def set_quota(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model id, as `quota` lists them.")],
    per_minute: Annotated[int | None, typer.Option(min=1, metavar="N", help="Calls a minute.")] = None,
    concurrent: Annotated[int | None, typer.Option(min=1, metavar="N", help="Calls at once.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Go back to the limit in the settings.")] = False,
    data: DataOption = None,
    project: ProjectOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Change a model's limit while everything runs. Says what it was and what it is now."""

    async def work(target: Target) -> int:
        from shared import decisions
        from shared.decisions.quota import Ledger
        from shared.settings import Limit
        from shared.worker.quota import QuotaEvents

        if model not in target.settings.limits:
            fail(f"{model} has no limit to change (there are: {', '.join(target.settings.limits)})", WRONG_USAGE)
        if reset == bool(per_minute or concurrent):
            now, _ = await _ledger_now(target, model)
            has = _limit(now.limit or target.settings.limits[model])
            fail(f"say --per-minute, --concurrent or --reset; {model} has {has}", WRONG_USAGE)
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
