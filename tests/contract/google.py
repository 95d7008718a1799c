"""The Google backend on its emulators, for the contract suites: one set of emulators per test process."""

from __future__ import annotations

import asyncio
import atexit
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final

import httpx2
import msgspec

from ops import errors
from ops.local_stack import emulators
from ops.local_stack.stack import PROJECT, subscription_request
from shared.adapters.google import clients
from shared.adapters.system_clock import SystemClock
from shared.assembly import wiring
from shared.settings import Settings
from shared.topology import Policy, topology
from tests.contract.backends import BUCKETS, Backend

# The shortest Pub/Sub takes; the product's own are longer, and waiting for them would be all that these tests do.
SHORT: Final = {"ack_deadline_seconds": 10, "retry_minimum_seconds": 1, "retry_maximum_seconds": 5}


def missing() -> str | None:
    """Why the emulators cannot be started, or None."""
    try:
        emulators.pubsub_command(1)
        emulators.firestore_command(1)
        emulators.storage_command(1, None, "p", "t")
    except errors.Missing as error:
        return str(error)
    return None


@cache
def _started() -> dict[str, str]:
    """Start the emulators once; the environment that leads to them. They end with this process."""
    ports = emulators.free_ports(3)
    commands = [
        emulators.pubsub_command(ports[0]),
        emulators.firestore_command(ports[1]),
        emulators.storage_command(ports[2], None, PROJECT, "notifications"),
    ]
    environment = {
        "GOOGLE_CLOUD_PROJECT": PROJECT,
        clients.PUBSUB_EMULATOR: f"127.0.0.1:{ports[0]}",
        clients.FIRESTORE_EMULATOR: f"127.0.0.1:{ports[1]}",
        clients.STORAGE_EMULATOR: f"http://127.0.0.1:{ports[2]}",
    }
    for command in commands:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **environment}
        )
        atexit.register(process.wait)
        atexit.register(process.kill)
    for url in (
        f"http://127.0.0.1:{ports[0]}",
        f"http://127.0.0.1:{ports[1]}",
        f"http://127.0.0.1:{ports[2]}/storage/v1/b",
    ):
        _wait_for(url)
    storage = clients.storage_client(PROJECT, environment)
    for bucket in BUCKETS:
        storage.bucket(bucket).create()
    storage.close()
    return environment


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + emulators.READY_SECONDS
    with httpx2.Client(trust_env=False) as client:
        while True:
            try:
                if client.get(url, timeout=2).status_code < 500:
                    return
            except httpx2.HTTPError:
                pass
            assert time.monotonic() < deadline, f"{url} is not ready"
            time.sleep(0.05)


def short(policy: Policy) -> Policy:
    """The policy as these tests have it: soon over."""
    fewest = None if policy.max_deliveries is None else 5  # Pub/Sub's own minimum
    return msgspec.structs.replace(policy, **SHORT, max_deliveries=fewest)


class _Google(Backend):
    def policy(self, subscription: str) -> Policy:
        return short(super().policy(subscription))


async def _make_topics(environment: dict[str, str]) -> None:
    """Empty topics and subscriptions: what other tests left goes with the emulator's reset."""
    async with httpx2.AsyncClient(trust_env=False) as client:
        (await client.post(f"http://{environment[clients.PUBSUB_EMULATOR]}/reset")).raise_for_status()
    publisher, subscriber = clients.pubsub_clients(environment)
    known = topology()
    for topic in (*known.topics, "notifications"):
        await publisher.create_topic(name=f"projects/{PROJECT}/topics/{topic}")
    for topic in known.topics:
        for name, policy in known.subscriptions(topic).items():
            await subscriber.create_subscription(request=subscription_request(topic, name, short(policy)))
    await publisher.transport.close()
    await subscriber.transport.close()


@contextmanager
def google(name: str) -> Iterator[Backend]:
    """The backend with empty queues."""
    environment = _started()
    clock = SystemClock()
    with asyncio.Runner() as runner:

        async def opened() -> wiring.OnGoogle:
            await _make_topics(environment)
            return wiring.google(clock, Settings(), environment)

        parts = runner.run(opened())
        try:
            yield _Google(name, parts.store, parts.queue, parts.objects, clock, runner)
        finally:
            runner.run(parts.aclose())
