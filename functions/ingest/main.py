"""Door of INGEST. In: a Storage object was finalized in the intake bucket. Out: a batch, its images, one task each.

Promise: the same object again is the same batch. Returning acks the event; raising makes it come again.
"""

from __future__ import annotations

import logging
import os

import functions_framework
from cloudevents.http import CloudEvent

from shared import telemetry
from shared.assembly import wiring
from shared.assembly.background import Background

log = logging.getLogger(__name__)
telemetry.configure(os.environ)
_background = Background(lambda: wiring.google_rooms(os.environ))


@functions_framework.cloud_event
def ingest(event: CloudEvent) -> None:
    """Ingest one object."""
    data = event.get_data()
    if not isinstance(data, dict) or not isinstance(data.get("bucket"), str) or not isinstance(data.get("name"), str):
        log.error("dropped an event that names no object: %s", event.get("id"))
        return
    _background.run(lambda rooms: rooms.ingest.handle(data["bucket"], data["name"]))
