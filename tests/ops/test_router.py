"""What stands in for Eventarc: it survives a queue that does not answer, and no event waits for another."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ops.local_stack.router import AT_ONCE, STORAGE_EVENTS, Router
from ops.local_stack.stack import Options, Stack
from shared.errors import ErrorCode, WorldError
from shared.ports import Delivery

MAX_SECONDS = 20.0  # the router's own pauses are of a fifth of a second


class Events:
    """A queue of bucket notifications whose calls fail as often as they are told to. What is not acked comes again."""

    def __init__(self, manifests: Sequence[str], fail: Sequence[str] = ()) -> None:
        self.fail = list(fail)
        self.acked: set[str] = set()
        self.settled = asyncio.Event()
        self._all = set(manifests)
        self._waiting: asyncio.Queue[str] = asyncio.Queue()
        for name in manifests:
            self._waiting.put_nowait(name)

    def _meet(self, call: str) -> None:
        if call in self.fail:
            self.fail.remove(call)
            raise WorldError(ErrorCode.STORAGE_UNAVAILABLE, "broken by the test")

    async def pull(self, subscription: str, most: int, wait_seconds: float) -> list[Delivery]:
        if subscription != STORAGE_EVENTS:
            await asyncio.Event().wait()
        self._meet("pull")
        names = [await self._waiting.get()]
        while len(names) < most and not self._waiting.empty():
            names.append(self._waiting.get_nowait())
        return [self._delivery(name) for name in names]

    @staticmethod
    def _delivery(name: str) -> Delivery:
        attributes = {"bucketId": "intake", "objectId": name, "eventType": "OBJECT_FINALIZE"}
        return Delivery(name, name, json.dumps({"name": name}).encode(), attributes, 1, 0.0)

    async def ack(self, subscription: str, ack_ids: Sequence[str]) -> None:
        await self._settle("ack", ack_ids)
        self.acked |= set(ack_ids)
        if self.acked == self._all:
            self.settled.set()

    async def nack(self, subscription: str, ack_ids: Sequence[str]) -> None:
        await self._settle("nack", ack_ids)
        for name in ack_ids:
            self._waiting.put_nowait(name)

    async def _settle(self, call: str, ack_ids: Sequence[str]) -> None:
        try:
            self._meet(call)
        except WorldError:
            for name in ack_ids:  # its lease runs out
                self._waiting.put_nowait(name)
            raise


@asynccontextmanager
async def running(queue: Events, door: Callable[[str], Awaitable[int]]) -> AsyncIterator[asyncio.Task[None]]:
    """A router whose ingest answers as `door` says."""

    async def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(await door(json.loads(request.content)["name"]))

    doors = dict.fromkeys(("ingest", "aggregate", "dead_letter"), "http://door.test/")
    router: Any = Router(queue, "p", "intake", doors)  # type: ignore[arg-type]
    await router._client.aclose()
    router._client = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    task = asyncio.create_task(router.run(0))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("fail", [["pull"], ["pull", "pull"], ["ack"], ["nack"], ["ack", "pull", "nack"]])
def test_a_queue_that_does_not_answer_ends_nothing(fail: list[str]) -> None:
    async def main() -> None:
        queue = Events(["a.json", "b.json"], fail)
        answers = [500] if "nack" in fail else []

        async def door(name: str) -> int:
            return answers.pop() if answers else 200

        async with running(queue, door) as task, asyncio.timeout(MAX_SECONDS):
            await queue.settled.wait()
            assert not task.done()
        assert queue.fail == []

    asyncio.run(main())


def test_a_slow_ingest_holds_back_no_other_manifest() -> None:
    async def main() -> None:
        names = [f"{number}.json" for number in range(3 * AT_ONCE)]
        queue, go_on = Events(names), asyncio.Event()
        others, served = asyncio.Event(), set[str]()

        async def door(name: str) -> int:
            if name == "0.json":
                await go_on.wait()
            served.add(name)
            if len(served) == len(names) - 1:
                others.set()
            return 200

        async with running(queue, door), asyncio.timeout(MAX_SECONDS):
            await others.wait()
            assert "0.json" not in queue.acked
            go_on.set()
            await queue.settled.wait()

    asyncio.run(main())


def test_a_stack_whose_router_has_ended_says_so(tmp_path: Path) -> None:
    """Its processes live on, and nothing would carry an event any more."""

    async def main() -> str:
        stack: Any = Stack(tmp_path, Options(), lambda name, line: None)
        stack.processes.ended = asyncio.Event().wait  # they live for ever

        async def fails() -> None:
            raise RuntimeError("broken by the test")

        stack._router = asyncio.create_task(fails())
        async with asyncio.timeout(MAX_SECONDS):
            found: str = await stack.ended()
        await asyncio.gather(stack._router, return_exceptions=True)
        return found

    assert asyncio.run(main()) == "the router"
