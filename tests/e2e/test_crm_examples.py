"""The guide's two programs as a customer runs them: on a live stack, each event twice, each told once."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from google.api_core.exceptions import DeadlineExceeded
from google.pubsub_v1 import PubsubMessage, SubscriberAsyncClient

from ops.stack import PROJECT, Options, subscription_request
from shared.adapters.google import clients
from shared.messages import structured
from shared.topology import EVENTS_SUBSCRIPTION, EVENTS_TOPIC, topology
from tests.e2e import test_stack
from tests.e2e.conftest import clean_environment
from tests.e2e.test_stack import World, batch_of, run

pytestmark = test_stack.pytestmark

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
ACK_SECONDS = 10  # the shortest Pub/Sub takes: what a program did not acknowledge comes again within it
BAD = b'{"clientName": "acme", "images": [{"url": "http://x/y.jpg"}, {}]}'
WANTED = {"ruum.batch.accepted", "ruum.batch.rejected", "ruum.batch.completed"}
NODE = shutil.which("node")
COMMANDS = {"python": [sys.executable, "subscribe.py"], **({"node": [NODE, "subscribe.mjs"]} if NODE else {})}
# A shell's background job has Ctrl-C ignored, and its children inherit that: Python then never hears of it.
HEARS_CTRL_C = (
    sys.executable,
    "-c",
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])",
)
ENDS = {"python": signal.SIGINT, "node": signal.SIGTERM}  # Ctrl-C, and what a service manager sends


class Program:
    """A subscriber of a customer's, in a process of its own; killed at the end of the test, however that comes."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        self.name = name
        self.subscription = f"ruum-batch-events-acme-{name}"
        self.lines: list[str] = []
        self._environment = dict(environment)
        self._said = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *HEARS_CTRL_C,
            *COMMANDS[self.name],
            PROJECT,
            self.subscription,
            cwd=EXAMPLES,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await asyncio.gather(self._process.wait(), self._reading)
        if error is not None:
            print(f"{self.name}:", *self.lines, sep="\n  ")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            async with self._said:
                self.lines.append(line.decode().rstrip("\n"))
                self._said.notify_all()
        async with self._said:
            self._said.notify_all()

    async def says(self, line: str) -> None:
        """Wait for a line of its."""
        async with asyncio.timeout(60), self._said:
            await self._said.wait_for(lambda: line in self.lines or self._process.returncode is not None)
        assert line in self.lines, f"{self.name} ended with {self._process.returncode} before it said {line!r}"

    async def end(self) -> None:
        """Ask it to end, as its user does."""
        assert self._process.returncode is None, f"{self.name} ended by itself: {self._process.returncode}"
        how = ENDS[self.name]
        self._process.send_signal(how)
        async with asyncio.timeout(40):  # a pull under way may take its 30 s
            code = await self._process.wait()
        assert code in (0, -how, 128 + how), f"{self.name} ended with {code}"


async def twice(here: World) -> list[dict[str, object]]:
    """Publish every event again under its own id, until all that must come have; each event once, in the order they came."""
    events: dict[str, dict[str, object]] = {}
    publisher, _ = clients.pubsub_clients(here.stack.environment)
    try:
        async with asyncio.timeout(test_stack.BATCH_SECONDS):
            while not WANTED <= {event["type"] for event in events.values()}:
                for found in await here.queue.pull(EVENTS_SUBSCRIPTION, 100, 2.0):
                    identity = found.attributes["ce-id"]
                    if identity not in events:
                        events[identity] = structured(dict(found.attributes), found.data)
                        copy = PubsubMessage(data=found.data, attributes=dict(found.attributes))
                        await publisher.publish(topic=f"projects/{PROJECT}/topics/{EVENTS_TOPIC}", messages=[copy])
                    await here.queue.ack(EVENTS_SUBSCRIPTION, [found.ack_id])
    finally:
        await publisher.transport.close()
    return list(events.values())


async def told(here: World, programs: list[Program], identity: str) -> None:
    """A last event of a kind that no program knows: wait until each has said that it came."""
    publisher, _ = clients.pubsub_clients(here.stack.environment)
    attributes = {"ce-id": identity, "ce-type": "ruum.batch.imagined", "client": "acme"}
    message = PubsubMessage(data=b'{"more": 1}', attributes=attributes)
    await publisher.publish(topic=f"projects/{PROJECT}/topics/{EVENTS_TOPIC}", messages=[message])
    await publisher.transport.close()
    for program in programs:
        await program.says(f"{identity}: ruum.batch.imagined")


async def left(subscriber: SubscriberAsyncClient, subscription: str) -> set[str]:
    """The ids of what was not acknowledged: it comes again within the deadline."""
    path = f"projects/{PROJECT}/subscriptions/{subscription}"
    found: set[str] = set()
    try:
        async with asyncio.timeout(ACK_SECONDS + 3):
            while True:
                try:
                    pulled = await subscriber.pull(subscription=path, max_messages=100, timeout=ACK_SECONDS + 3)
                except DeadlineExceeded:
                    continue
                found |= {one.message.attributes["ce-id"] for one in pulled.received_messages}
    except TimeoutError:
        return found


def test_the_guides_programs_tell_each_event_once(tmp_path: Path) -> None:
    assert NODE or os.environ.get("CI") != "true", "node is not installed: sudo apt-get install nodejs"
    batch = batch_of(tmp_path, 2, "photos/none.jpg")

    async def scenario(here: World) -> None:
        host = here.stack.environment[clients.PUBSUB_EMULATOR]
        environment = clean_environment(PUBSUB_EMULATOR_HOST=host)
        for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "PYTHONPATH"):
            environment.pop(name, None)
        publisher, subscriber = clients.pubsub_clients(here.stack.environment)
        async with AsyncExitStack() as running:
            running.push_async_callback(publisher.transport.close)
            running.push_async_callback(subscriber.transport.close)
            programs = [Program(name, environment) for name in COMMANDS]
            for program in programs:
                request = subscription_request(EVENTS_TOPIC, program.subscription, topology().policies["keep"])
                request |= {"ack_deadline_seconds": ACK_SECONDS, "filter": 'attributes.client = "acme"'}
                await subscriber.create_subscription(request=request)
                await running.enter_async_context(program)
            bad = "manifests/acme/bad.json"
            await here.target.backend.objects.put("intake", bad, BAD, content_type="application/json")
            await here.submit(batch)
            events = await twice(here)
            # The second comes after the first was acknowledged, with everything before it: the programs pull in turns.
            await told(here, programs, "first")
            await told(here, programs, "second")
            for program in programs:
                await program.end()
            unacked = await asyncio.gather(*(left(subscriber, program.subscription) for program in programs))
        data = {str(event["type"]): event["data"] for event in events}
        completed, rejected = data["ruum.batch.completed"], data["ruum.batch.rejected"]
        assert isinstance(completed, dict)
        assert isinstance(rejected, dict)
        assert rejected["problems"] > 1
        completion = [
            "acme.b1: 2 of 3 staged, 1 failed",
            f"  pictures and errors: {completed['reports']['results.jsonl']['uri']}",
        ]
        rejection = (
            f"{here.target.backend.objects.uri('intake', bad)}: {rejected['problems']} problems, "
            f"the first: {rejected['firstProblems'][0]}"
        )
        known = ("ruum.batch.completed", "ruum.batch.rejected")
        others = [f"{event['id']}: {event['type']}" for event in events if event["type"] not in known]
        ends = [f"{identity}: ruum.batch.imagined" for identity in ("first", "second")]
        for program in programs:
            assert set(Counter(program.lines).values()) == {1}, f"{program.name} told an event twice"
            more = set(program.lines) - {*completion, rejection, *others, *ends}
            assert {*completion, rejection, *others, *ends} <= set(program.lines), program.name
            # Progress may come behind the completion, and then behind our look at the events too.
            assert all(line.endswith(": ruum.batch.progress") for line in more), (program.name, more)
            at = program.lines.index(completion[0])
            assert program.lines[at + 1] == completion[1], program.name
        for program, ids in zip(programs, unacked, strict=True):
            assert ids <= {"second"}, f"{program.name} left {ids} unacknowledged"

    run(tmp_path, Options(), scenario)
    if NODE is None:
        pytest.skip("not run: node is not installed, so only the Python program was; sudo apt-get install nodejs")
