"""Receive batch events as a webhook: python webhook.py PORT AUDIENCE SENDER. Needs: pip install google-auth requests.

AUDIENCE is the address of your webhook as you gave it to us. SENDER is the service account that signs our pushes.
Run it behind your own TLS: Pub/Sub pushes to https only.
"""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.auth.exceptions import GoogleAuthError, TransportError
from google.auth.transport.requests import Request
from google.oauth2 import id_token

MAX_BYTES = 1 << 20  # events are far smaller
KEYS_SECONDS = 3600  # Google publishes a new key hours before it signs with it
SKEW_SECONDS = 30  # clocks differ

seen = set()  # in production: a table whose key is the event id, written in the same transaction as your changes
lock = threading.Lock()
kept = {}  # Google's public keys, and until when to keep them


def google_keys(url, method="GET", **more):
    """Return Google's answer with its public keys; ask at most once an hour."""
    if time.monotonic() > kept.get("until", 0):
        answer = Request()(url, method, **more)
        if answer.status != 200:
            return answer
        kept.update(answer=answer, until=time.monotonic() + KEYS_SECONDS)
    return kept["answer"]


def verify(authorization, audience, sender):
    """Raise ValueError or GoogleAuthError unless Ruum sent this request, and to you."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer":
        raise ValueError("there is no bearer token")
    # This checks signature, expiry, issuer and audience.
    claims = id_token.verify_oauth2_token(token, google_keys, audience, clock_skew_in_seconds=SKEW_SECONDS)
    # Anyone with a Google account can get a token for your audience. Only this account is ours.
    if claims.get("email") != sender or claims.get("email_verified") is not True:
        raise ValueError("another account sent it")


def handle(kind, event_id, data):
    """Do what your CRM does with an event."""
    print(f"{event_id}: {kind} {data.get('outcome', '')}".rstrip(), flush=True)


class Webhook(BaseHTTPRequestHandler):
    """Answers one push."""

    audience = sender = ""
    timeout = 30  # seconds: a connection that sends nothing is closed

    def do_POST(self):
        self.send_response(self.answer())
        self.end_headers()

    def answer(self):
        """Return the HTTP status. Any other than 200, 201, 202 and 204 makes Pub/Sub deliver the event again."""
        try:
            verify(self.headers["authorization"], self.audience, self.sender)
        except TransportError:
            return 503  # Google's keys cannot be fetched now
        except (ValueError, GoogleAuthError):
            return 401
        size = int(self.headers["content-length"] or 0)
        if size > MAX_BYTES:
            return 413
        data, event_id = json.loads(self.rfile.read(size)), self.headers["ce-id"]
        with lock:
            if event_id not in seen:  # an event may be delivered more than once
                handle(self.headers["ce-type"], event_id, data)
                seen.add(event_id)
        return 204


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    port, Webhook.audience, Webhook.sender = sys.argv[1:]
    ThreadingHTTPServer(("127.0.0.1", int(port)), Webhook).serve_forever()
