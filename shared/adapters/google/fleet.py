"""The Fleet as a Cloud Run worker pool with manual scaling."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from google.api_core import exceptions
from google.cloud.run_v2 import GetWorkerPoolRequest, UpdateWorkerPoolRequest, WorkerPool, WorkerPoolsClient
from google.cloud.run_v2.services.worker_pools.transports import WorkerPoolsRestTransport
from google.cloud.run_v2.types import WorkerPoolScaling
from google.protobuf.field_mask_pb2 import FieldMask

from shared.adapters.google.errors import CALL_SECONDS, configuration, retried
from shared.ports import Clock

R = TypeVar("R")

_SCALING: Final = "scaling.manual_instance_count"


def worker_pools_client(transport: WorkerPoolsRestTransport | None = None) -> WorkerPoolsClient:
    """Return Cloud Run's own client, over REST."""
    return WorkerPoolsClient(transport=transport or WorkerPoolsRestTransport())


class WorkerPoolFleet:
    """The `shared.ports.Fleet`. `pool` is `projects/<p>/locations/<region>/workerPools/<name>`.

    The client is synchronous (REST) and runs on a thread: two calls per batch do not justify a gRPC channel.
    """

    def __init__(self, client: WorkerPoolsClient, pool: str, clock: Clock) -> None:
        self._client = client
        self._pool = pool
        self._clock = clock

    async def instances(self) -> int:
        request = GetWorkerPoolRequest(name=self._pool)
        found = await self._call(lambda: self._client.get_worker_pool(request, retry=None, timeout=CALL_SECONDS))
        return int(found.scaling.manual_instance_count)

    async def scale(self, instances: int) -> None:
        pool = WorkerPool(name=self._pool, scaling=WorkerPoolScaling(manual_instance_count=instances))
        request = UpdateWorkerPoolRequest(worker_pool=pool, update_mask=FieldMask(paths=[_SCALING]))
        # Do not wait for the operation: the instances start while we continue.
        await self._call(lambda: self._client.update_worker_pool(request, retry=None, timeout=CALL_SECONDS))

    async def _call(self, call: Callable[[], R]) -> R:
        def work() -> R:
            try:
                return call()
            except exceptions.Conflict as error:  # another change is in progress; REST has no "aborted" for it
                raise exceptions.Aborted(str(error)) from error  # type: ignore[no-untyped-call]

        try:
            return await retried(self._pool, lambda: asyncio.to_thread(work), self._clock)
        except exceptions.GoogleAPICallError as error:  # not transient, no missing permission: our request is wrong
            raise configuration(self._pool, error) from error
