"""Door of STAGE IMAGE. In: tasks, pulled for exactly the free slots. Out: verified pictures, settled images, letters.

Promise: after SIGTERM it pulls no more, lets images finish for `GRACE_SECONDS`, checkpoints and releases the others,
and exits 0 before Cloud Run kills it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal

from shared import telemetry
from shared.adapters.system_clock import SystemClock
from shared.assembly import wiring, worker
from shared.settings import from_environment

log = logging.getLogger(__name__)

# Cloud Run kills the process 10 s after SIGTERM, and we want to exit after 8 s. So beside this we need 1.5 s to release
# claims, 0.5 s to nack deliveries and 1 s for the last heartbeat, each bounded (shared/worker/subscriber.py,
# shared/assembly/worker.py).
GRACE_SECONDS = 5.0


async def main() -> None:
    """Work until SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings, clock = from_environment(os.environ), SystemClock()
    with telemetry.configuration_faults(log):
        on_google = wiring.google(clock, settings, os.environ)
        try:
            make_model = wiring.model_maker(settings.staging.model, os.environ.get("GEMINI_API_KEY"))
            await worker.work(on_google.backend, clock, settings, make_model, stop, grace_seconds=GRACE_SECONDS)
        finally:
            await on_google.aclose()


if __name__ == "__main__":
    telemetry.configure(os.environ)
    asyncio.run(main())
