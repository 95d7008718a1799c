"""Door of RECONCILE. In: the schedule's request. Out: what was left lying about carried on; what was done, as JSON.

Promise: safe at any time and as often as one likes; a healthy backlog is left alone. Workers are sent home when nothing
is open.
"""

from __future__ import annotations

import os

import flask
import functions_framework
import msgspec

from shared import telemetry, wiring
from shared.background import Background

telemetry.configure(os.environ)
_background = Background(lambda: wiring.google_rooms(os.environ))


@functions_framework.http
def reconcile(_: flask.Request) -> flask.Response:
    """Run once. An error is answered 500, and the schedule comes again."""
    report = _background.run(lambda rooms: rooms.reconcile.run())
    return flask.Response(msgspec.json.encode(report), mimetype="application/json")
