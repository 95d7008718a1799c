"""Door of RECONCILE. In: the schedule's request. Out: interrupted work is finished; the answer lists it as JSON.

In: at /settle, the event that a batch has completed. Out: workers are stopped if nothing is open, and nothing else.

Promise: safe to run at any time, any number of times. A healthy backlog is left alone.
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
    """Run once. An error is answered with 500; then the next scheduled run, or the event again, retries it."""
    if request.path == SETTLE_PATH:
        answer = msgspec.json.encode({"instances": _background.run(lambda rooms: rooms.reconcile.settle())})
    else:
        answer = msgspec.json.encode(_background.run(lambda rooms: rooms.reconcile.run()))
    return flask.Response(answer, mimetype="application/json")
