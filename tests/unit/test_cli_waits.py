"""What is said of a photo host that asked to wait."""

from __future__ import annotations

from ops import waiting
from shared.hosts import HostLedger, refused
from shared.ledger import Grant
from shared.model import Tier
from shared.settings import Settings
from tests.clocks import VirtualClock, run_virtual
from tests.rooms.parts import World


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
