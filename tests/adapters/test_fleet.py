"""The fleet's size: how many workers are wanted, and Cloud Run's worker pool over its REST API on a local server."""

from __future__ import annotations

import asyncio
import json
import math
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud.run_v2.services.worker_pools.transports import WorkerPoolsRestTransport
from hypothesis import given
from hypothesis import strategies as st

from shared.adapters.google.errors import DEADLINE_SECONDS
from shared.adapters.google.fleet import WorkerPoolFleet, worker_pools_client
from shared.decisions import forecast
from shared.decisions.forecast import Capacity, instances_wanted
from shared.errors import ConfigurationError, ErrorCode, RuumError, WorldError
from shared.settings import FleetRules, Settings

# --- how many


def wanted(backlog: int, per_second: float, image_seconds: float = 50.0, each: int = 50, most: int = 4) -> int:
    rules = FleetRules(images_per_instance=each, max_instances=most)
    return instances_wanted(backlog, Capacity(per_second, "m"), image_seconds, rules)


@pytest.mark.parametrize(
    ("backlog", "per_second", "instances"),
    [
        (0, 1.0, 0),
        (1, 1.0, 1),
        (50, 1.0, 1),
        (51, 1.0, 1),  # the quota keeps 50 in flight: a second worker would wait
        (10_000, 1.0, 1),  # "60/min needs 50 in flight, one instance"
        (10_000, 1.02, 2),
        (50, 4.0, 1),
        (51, 4.0, 2),
        (100, 4.0, 2),
        (101, 4.0, 3),
        (10_000, 4.0, 4),
        (10_000, 100.0, 4),  # never more than the settings allow
        (10_000, 0.001, 1),  # the slowest quota needs a worker all the same
    ],
)
def test_by_hand(backlog: int, per_second: float, instances: int) -> None:
    assert wanted(backlog, per_second) == instances


def test_the_products_own_numbers_want_one_worker() -> None:
    settings = Settings(fleet=FleetRules(pool="p"))
    capacity = forecast.capacity(settings, {}, forecast.calls_by_model(settings), 0.0)
    assert capacity.images_per_second == 1.0
    for backlog in (1, 100, 100_000):
        assert instances_wanted(backlog, capacity, settings.typical.image_seconds, settings.fleet) == 1


@given(
    st.integers(0, 200_000), st.floats(1e-6, 1e4), st.floats(0.1, 1e4), st.integers(1, 1000), st.integers(1, 100)
)  # fmt: skip
def test_enough_and_no_more(backlog: int, rate: float, seconds: float, each: int, most: int) -> None:
    found = wanted(backlog, rate, seconds, each, most)
    useful = min(backlog, rate * seconds)
    assert 0 <= found <= most
    assert (found == 0) == (backlog == 0)
    assert found == most or found * each >= useful, "enough for all that can be in flight"
    assert found == 0 or (found - 1) * each < useful, "and each one of them is needed"


@given(
    st.integers(0, 100_000), st.integers(0, 1000), st.floats(1e-3, 1e3), st.floats(1, 10), st.integers(1, 500),
    st.integers(1, 100),
)  # fmt: skip
def test_more_work_or_quota_never_wants_fewer(
    backlog: int, more: int, rate: float, factor: float, each: int, most: int
) -> None:
    here = wanted(backlog, rate, 50.0, each, most)
    assert wanted(backlog + more, rate, 50.0, each, most) >= here
    assert wanted(backlog, rate * factor, 50.0, each, most) >= here
    assert wanted(backlog, rate, 50.0 * factor, each, most) >= here
    assert wanted(backlog, rate, 50.0, each, most + 1) >= here
    assert wanted(backlog, rate, 50.0, each + 1, most) <= here


def test_every_quota_wants_what_paper_wants() -> None:
    """Exhaustively, in fractions: a quota that fills its workers exactly starts no other one for a rounding error."""
    wrong = {
        (per_minute, seconds, each): (found, exact)
        for per_minute in range(1, 301)
        for seconds in (10, 25, 30, 50, 60, 100, 120)
        for each in (10, 25, 50)
        if (found := wanted(10_000, per_minute / 60, float(seconds), each, most=100))
        != (exact := min(100, math.ceil(Fraction(per_minute * seconds, 60 * each))))
    }
    assert wrong == {}


# --- the worker pool

POOL = "projects/p-1/locations/us-central1/workerPools/stage-image"
STATUS = {
    400: "FAILED_PRECONDITION",
    403: "PERMISSION_DENIED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}
OPERATION = {"name": "projects/p-1/locations/us-central1/operations/1"}


class Asked:
    """One request as it came."""

    def __init__(self, method: str, path: str, body: bytes) -> None:
        parts = urlsplit(path)
        self.method = method
        self.path = parts.path
        self.query = {name: values for name, values in parse_qs(parts.query).items() if not name.startswith("$")}
        self.body = json.loads(body) if body else None


class CloudRun(ThreadingHTTPServer):
    """A worker pool behind Cloud Run's addresses. `will` holds the status codes of the next answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[Asked] = []
        self.will: list[int] = []
        self.pool: dict[str, Any] = {"name": POOL, "scaling": {"manualInstanceCount": 3}}

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: CloudRun
    protocol_version: ClassVar[str] = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.asked.append(Asked(self.command, self.path, body))
        status = self.server.will.pop(0) if self.server.will else 200
        if status != 200:
            answer: Any = {
                "error": {"code": status, "message": "secret details of the vendor", "status": STATUS.get(status, "")}
            }
        elif self.command == "GET":
            answer = self.server.pool
        else:
            answer = OPERATION
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PATCH = do_POST = do_PUT = do_DELETE = _answer


class QuickClock:
    """Sleeping takes no time and moves the clock."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.random = random.Random(0)

    def now(self) -> float:
        return sum(self.slept)

    monotonic = now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def token(self) -> str:
        return "t"


@contextmanager
def serving() -> Iterator[CloudRun]:
    server = CloudRun()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def cloud_run() -> Iterator[CloudRun]:
    with serving() as server:
        yield server


class On:
    """The product's adapter on a host; `call` runs one method on a loop of its own."""

    def __init__(self, host: str) -> None:
        self.clock = QuickClock()
        self.transport = WorkerPoolsRestTransport(host=host, url_scheme="http", credentials=AnonymousCredentials())
        self.fleet = WorkerPoolFleet(worker_pools_client(self.transport), POOL, self.clock)

    def call(self, work: Callable[[WorkerPoolFleet], Any]) -> Any:
        async def main() -> Any:
            return await work(self.fleet)

        try:
            return asyncio.run(main())
        finally:
            self.transport.close()


def instances(fleet: WorkerPoolFleet) -> Any:
    return fleet.instances()


def scale(fleet: WorkerPoolFleet) -> Any:
    return fleet.scale(2)


def test_the_number_is_read(cloud_run: CloudRun) -> None:
    assert On(cloud_run.host).call(instances) == 3
    (asked,) = cloud_run.asked
    assert (asked.method, asked.path, asked.query, asked.body) == ("GET", f"/v2/{POOL}", {}, None)


@pytest.mark.parametrize("scaling", [None, {}, {"manualInstanceCount": 0}], ids=["unset", "empty", "zero"])
def test_a_pool_without_a_number_has_none(cloud_run: CloudRun, scaling: dict[str, int] | None) -> None:
    cloud_run.pool = {"name": POOL} if scaling is None else {"name": POOL, "scaling": scaling}
    found = On(cloud_run.host).call(instances)
    assert found == 0
    assert type(found) is int


@pytest.mark.parametrize("count", [0, 1, 4])
def test_the_number_is_set_and_nothing_else(cloud_run: CloudRun, count: int) -> None:
    """Zero is told too, not left out as a default; the mask keeps image, settings and secrets as they are."""
    assert On(cloud_run.host).call(lambda fleet: fleet.scale(count)) is None
    (asked,) = cloud_run.asked
    assert (asked.method, asked.path) == ("PATCH", f"/v2/{POOL}")
    assert asked.query == {"updateMask": ["scaling.manualInstanceCount"]}
    assert asked.body == {"scaling": {"manualInstanceCount": count}}  # the pool's name is in the path


def test_setting_it_does_not_wait_for_the_workers(cloud_run: CloudRun) -> None:
    """Cloud Run answers with an operation under way: it is not polled."""
    On(cloud_run.host).call(scale)
    assert [asked.method for asked in cloud_run.asked] == ["PATCH"]


@pytest.mark.parametrize("work", [instances, scale], ids=["read", "set"])
@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_is_ours_to_mend(cloud_run: CloudRun, status: int, work: Callable[[WorkerPoolFleet], Any]) -> None:
    cloud_run.will = [status] * 100
    on = On(cloud_run.host)
    with pytest.raises(ConfigurationError) as raised:
        on.call(work)
    assert POOL in str(raised.value)
    assert "secret" not in str(raised.value)
    assert (len(cloud_run.asked), on.clock.slept) == (1, [])


@pytest.mark.parametrize("work", [instances, scale], ids=["read", "set"])
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_passes_is_tried_again(cloud_run: CloudRun, status: int, work: Callable[[WorkerPoolFleet], Any]) -> None:
    cloud_run.will = [status, status]
    on = On(cloud_run.host)
    assert on.call(work) == (3 if work is instances else None)
    assert len(cloud_run.asked) == 3
    assert len(on.clock.slept) == 2
    assert 0 < on.clock.slept[0] < on.clock.slept[1]
    assert len({(asked.method, asked.path, str(asked.query), str(asked.body)) for asked in cloud_run.asked}) == 1


@pytest.mark.parametrize("work", [instances, scale], ids=["read", "set"])
def test_what_does_not_pass_is_the_worlds_fault(cloud_run: CloudRun, work: Callable[[WorkerPoolFleet], Any]) -> None:
    cloud_run.will = [503] * 1000
    on = On(cloud_run.host)
    with pytest.raises(WorldError) as raised:
        on.call(work)
    assert raised.value.code is ErrorCode.STORAGE_UNAVAILABLE
    assert 5 <= len(cloud_run.asked) <= 50
    assert on.clock.now() <= DEADLINE_SECONDS + 8


def test_a_host_that_is_away_is_the_worlds_fault() -> None:
    with serving() as server:
        host = server.host
    with pytest.raises(WorldError):
        On(host).call(instances)


@pytest.mark.parametrize(
    ("work", "status"), [(instances, 400), (scale, 400), (scale, 409)], ids=["read-400", "set-400", "set-409"]
)
def test_any_answer_is_an_error_of_ours(
    cloud_run: CloudRun, status: int, work: Callable[[WorkerPoolFleet], Any]
) -> None:
    """`Scaling.wake` promises never to raise, and catches what a port may raise: 400 for a pool that does not scale by
    hand, 409 while another door's update of the pool is under way.
    """
    cloud_run.will = [status] * 1000
    with pytest.raises(RuumError):
        On(cloud_run.host).call(work)


def test_another_update_under_way_is_waited_for(cloud_run: CloudRun) -> None:
    cloud_run.will = [409, 409]
    On(cloud_run.host).call(scale)
    assert [asked.method for asked in cloud_run.asked] == ["PATCH"] * 3
