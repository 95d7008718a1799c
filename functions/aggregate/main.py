"""Door of AGGREGATE. In: an image document was updated. Out: exact counts, progress, and the batch's completion.

Promise: events may come twice, late and out of order. Returning acks the event; raising makes it come again.
"""

from __future__ import annotations

import logging
import os

import functions_framework
from cloudevents.http import CloudEvent

from shared import telemetry
from shared.adapters.google.events import image_changed
from shared.assembly import wiring
from shared.assembly.background import Background
from shared.errors import NotAnImageChange

log = logging.getLogger(__name__)
telemetry.configure(os.environ)
_background = Background(lambda: wiring.google_rooms(os.environ))


@functions_framework.cloud_event
def aggregate(event: CloudEvent) -> None:
    """Fold one image's change into the counts."""
    try:
        change = image_changed(event.get_data())
    except NotAnImageChange as error:
        log.warning("dropped an event that is not an image's change: %s: %s", event.get("id"), error)
        return
    _background.run(lambda rooms: rooms.aggregate.handle(change))
