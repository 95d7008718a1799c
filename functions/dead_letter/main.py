"""Door of DEAD LETTER. In: a message on the dead-letter topic. Out: its image settled, or given a fresh task.

Promise: letters may come twice or much later. Returning acks the message; raising makes it come again.
"""

from __future__ import annotations

import base64
import binascii
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
def dead_letter(event: CloudEvent) -> None:
    """Handle one letter."""
    try:
        message = (event.get_data() or {})["message"]
        data = base64.b64decode(message.get("data", ""), validate=True)
        attributes = dict(message.get("attributes") or {})
    except (TypeError, KeyError, AttributeError, ValueError, binascii.Error):
        log.warning("dropped an event without a message: %s", event.get("id"))
        return
    _background.run(lambda rooms: rooms.dead_letter.handle(data, attributes))
