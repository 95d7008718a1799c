"""What is said while a batch runs: of a photo host that asked to wait, of what its calls have cost."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace
from typing import Any

import pytest

from ops import show, staging_run, waiting
from ops.noted_model import NotedModel, Notes
from shared.decisions.money import cost_micro_usd
from shared.decisions.quota import Circuit, Grant, Ledger
from shared.model import Counts, Tier, Usage
from shared.ports import Answer
from shared.settings import Settings, StagingRules
from shared.vendors import spec_of
from shared.worker.hosts import HostLedger, refused
from tests.clocks import VirtualClock, run_virtual
from tests.harness.world import World


def test_a_host_that_limits_is_named() -> None:
    async def main(clock: VirtualClock) -> None:
        world = World(clock)
        grant = Grant(id="g", tier=Tier.NORMAL, start=0.0, epoch=0)
        now = clock.now()
        ledger = refused(HostLedger(id="host:photos.example"), grant, 90.0, now)
        await world.store.change_record(HostLedger, ledger.id, lambda _, __: ledger, "t")
        (wait,) = await waiting.of_models(world.store, Settings(), now)
        assert wait.kind == "host"
        assert wait.sentence.startswith("photos.example asked us to wait until ")
        assert not wait.serious
        assert await waiting.of_models(world.store, Settings(), now + 100) == []

    run_virtual(main)


@pytest.mark.parametrize("model", ["preview", "gemini"])
def test_a_run_shows_a_host_that_limits_whatever_the_model(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The preview asks no vendor: a circuit that an earlier run left open is nothing it waits for."""
    monkeypatch.setattr(show.BatchProgress, "show", lambda *_: None)

    async def main(clock: VirtualClock) -> None:
        world = World(clock)
        grant, now = Grant(id="g", tier=Tier.NORMAL, start=0.0, epoch=0), clock.now()
        host = refused(HostLedger(id="host:photos.example"), grant, 90.0, now)
        await world.store.change_record(HostLedger, host.id, lambda _, __: host, "t")
        settings = Settings(staging=StagingRules(model=model))  # type: ignore[arg-type]
        away = Ledger(id=settings.gemini.image_model, circuit=Circuit.OPEN, open_until=now + 60)
        await world.store.change_record(Ledger, away.id, lambda _, __: away, "t")
        order: Any = SimpleNamespace(model=model, settings=settings)
        running: Any = staging_run._Run(order)
        running._here, running._now, running._looked_at = SimpleNamespace(store=world.store), clock.now, -math.inf
        await running._look(await world.batch(1), Counts(queued=1))
        shown = running._progress.waits
        assert ("photos.example" in shown) is (model == "preview"), shown
        assert ("does not answer" in shown) is (model == "gemini"), shown
        assert running._progress.stuck is (model == "gemini")

    run_virtual(main)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("step", ["analyse", "generate", "verify"])
def test_a_call_of_unknown_use_is_not_shown_as_free(step: str, told: bool) -> None:
    """The sum beside the bar is the one that the images' own bills come to."""
    settings = Settings()
    model = settings.gemini.image_model if step == "generate" else settings.gemini.text_model
    usage = Usage(model, 700, 90) if told else Usage(model, reported=False)

    class Model:
        spec = spec_of(settings)

        def __getattr__(self, name: str) -> Any:
            async def answered(*_: Any) -> Answer[Any]:
                return Answer(None, usage)

            return answered

    notes = Notes()
    noted: Any = NotedModel(Model(), notes, settings)  # type: ignore[arg-type]
    arguments = {"analyse": 2, "generate": 4, "verify": 4}[step]
    asyncio.run(getattr(noted, step)(*[None] * arguments))
    used = Usage(model, 700, 90) if told else spec_of(settings).step(step).usual
    assert notes.cost_micro_usd == cost_micro_usd(settings.prices, used) > 0
