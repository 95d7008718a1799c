"""Door of RECONCILE. In: the schedule's request. Out: what was interrupted is continued; what was done, as JSON.

In: at /settle, the event that a batch has completed. Out: workers are stopped if nothing is open, and nothing else.

Promise: safe at any time and any number of times; a healthy backlog is left alone.
"""

from __future__ import annotations

import os

import flask
import functions_framework
import msgspec

from shared import telemetry
from shared.assembly import wiring
from shared.assembly.background import Background

telemetry.configure(os.environ)
_background = Background(lambda: wiring.google_rooms(os.environ))

SETTLE_PATH = "/settle"  # what terraform/pubsub.tf pushes to


@functions_framework.http
def reconcile(request: flask.Request) -> flask.Response:
    """Run once. An error is answered 500, and the schedule or the event comes again."""
    if request.path == SETTLE_PATH:
        answer = msgspec.json.encode({"instances": _background.run(lambda rooms: rooms.reconcile.settle())})
    else:
        answer = msgspec.json.encode(_background.run(lambda rooms: rooms.reconcile.run()))
    return flask.Response(answer, mimetype="application/json")
