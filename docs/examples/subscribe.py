"""Receive batch events: python subscribe.py PROJECT SUBSCRIPTION. Needs: pip install google-cloud-pubsub."""

import json
import sys

from google.api_core.exceptions import DeadlineExceeded
from google.cloud import pubsub_v1

seen = set()  # in production: a table whose key is the event id, written in the same transaction as your changes


def handle(kind, event_id, data):
    """Do what your CRM does with an event."""
    if kind == "ruum.batch.completed":
        counts, reports = data["counts"], data["reports"]
        print(f"{data['batchId']}: {counts['completed']} of {data['total']} staged, {counts['failed']} failed")
        print(f"  pictures and errors: {reports['results.jsonl']['uri']}")
    elif kind == "ruum.batch.rejected":
        print(f"{data['manifest']}: rejected (problems: {data['problems']}): {data['firstProblems'][0]}")
    else:
        print(f"{event_id}: {kind}")  # an unknown type is no error: new ones may be added


def main(project, subscription):
    subscriber = pubsub_v1.SubscriberClient()
    path = subscriber.subscription_path(project, subscription)
    while True:
        try:
            received = subscriber.pull(subscription=path, max_messages=100, timeout=30).received_messages
        except DeadlineExceeded:
            continue  # no event for half a minute
        for message in received:
            attributes = message.message.attributes
            event_id = attributes["ce-id"]
            if event_id not in seen:  # an event may be delivered more than once
                handle(attributes["ce-type"], event_id, json.loads(message.message.data))
                seen.add(event_id)
            sys.stdout.flush()
        if received:  # acknowledge last: an event that was not handled is delivered again
            subscriber.acknowledge(subscription=path, ack_ids=[message.ack_id for message in received])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        pass  # an event that was not acknowledged is delivered again
