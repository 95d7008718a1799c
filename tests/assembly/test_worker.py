"""One worker as the door and `run` start it: what it says of itself while it works, halts and stops."""

from __future__ import annotations

import asyncio
from typing import Any

from shared.assembly import worker
from shared.errors import ConfigurationError
from shared.model import Worker
from shared.ports import Backend
from tests.harness.fakes import spec as usual_spec
from tests.harness.world import SETTINGS, World, virtual

REASON = "the service account may not pull"


@virtual
async def test_a_halt_is_in_the_heartbeat_until_it_is_over(world: World) -> None:
    """Commands and `health` go by it: nothing else shows that workers live and do nothing."""
    beats: list[Worker] = []
    refused = True

    class Store:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.store, name)

        async def beat(self, beat: Worker) -> None:
            beats.append(beat)
            await world.store.beat(beat)

    class Queue:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.queue, name)

        async def pull(self, *asked: Any) -> Any:
            if refused:
                raise ConfigurationError(REASON)
            return await world.queue.pull(*asked)

    backend: Any = Backend(Store(), Queue(), world.objects)  # type: ignore[arg-type]
    stop, every = asyncio.Event(), SETTINGS.worker.heartbeat_seconds

    class Model:
        spec = usual_spec()

        async def aclose(self) -> None: ...

    making: Any = lambda _settings, _pool: Model()
    working = asyncio.create_task(worker.work(backend, world.clock, SETTINGS, making, stop, grace_seconds=1.0))
    await world.clock.sleep(2 * every)
    assert not beats[0].halted
    assert REASON in beats[-1].halted
    refused = False
    await world.clock.sleep(SETTINGS.worker.halt_seconds + 2 * every)
    assert not beats[-1].halted
    stop.set()
    await working
    assert beats[-1].stopped
