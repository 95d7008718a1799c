"""The Fleet as a Cloud Run worker pool with manual scaling."""

from __future__ import annotations

import asyncio
from typing import Final

from google.cloud.run_v2 import GetWorkerPoolRequest, UpdateWorkerPoolRequest, WorkerPool, WorkerPoolsClient
from google.cloud.run_v2.services.worker_pools.transports import WorkerPoolsRestTransport
from google.cloud.run_v2.types import WorkerPoolScaling
from google.protobuf.field_mask_pb2 import FieldMask

from shared.adapters.google.errors import CALL_SECONDS, retried
from shared.ports import Clock

_SCALING: Final = "scaling.manual_instance_count"


def worker_pools_client(transport: WorkerPoolsRestTransport | None = None) -> WorkerPoolsClient:
    """Cloud Run's own client, over REST."""
    return WorkerPoolsClient(transport=transport or WorkerPoolsRestTransport())


class WorkerPoolFleet:
    """See `shared.ports.Fleet`. `pool` is `projects/<p>/locations/<region>/workerPools/<name>`.

    The client is synchronous (REST): two calls a batch are not worth a gRPC channel, and run on a thread.
    """

    def __init__(self, client: WorkerPoolsClient, pool: str, clock: Clock) -> None:
        self._client = client
        self._pool = pool
        self._clock = clock

    async def instances(self) -> int:
        request = GetWorkerPoolRequest(name=self._pool)

        def call() -> WorkerPool:
            return self._client.get_worker_pool(request, retry=None, timeout=CALL_SECONDS)

        found = await retried(self._pool, lambda: asyncio.to_thread(call), self._clock)
        return int(found.scaling.manual_instance_count)

    async def scale(self, instances: int) -> None:
        pool = WorkerPool(name=self._pool, scaling=WorkerPoolScaling(manual_instance_count=instances))
        request = UpdateWorkerPoolRequest(worker_pool=pool, update_mask=FieldMask(paths=[_SCALING]))

        def call() -> object:
            # Not awaited to its end: the instances start while we go on.
            return self._client.update_worker_pool(request, retry=None, timeout=CALL_SECONDS)

        await retried(self._pool, lambda: asyncio.to_thread(call), self._clock)
