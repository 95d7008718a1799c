"""Fetch a round's pictures: python results.py BUCKET BATCH ROUND FOLDER. Needs: pip install google-cloud-storage.

BATCH and ROUND are the batchId and round of the completed event, such as acme.first-1 and 1.
"""

import hashlib
import json
import sys
from pathlib import Path

from google.cloud import storage


def fetch(bucket, batch, number, folder):
    """Write every staged picture into the folder, and print what became of each image."""
    folder.mkdir(parents=True, exist_ok=True)
    client, _, name = batch.partition(".")
    lines = bucket.blob(f"results/{client}/{name}/round-{number}/results.jsonl").download_as_bytes().splitlines()
    for image in map(json.loads, lines):
        if image["state"] == "completed":
            picture = bucket.blob(image["output"]).download_as_bytes()  # output is relative to the results bucket
            if hashlib.sha256(picture).hexdigest() != image["sha256"]:
                raise ValueError(f"{image['output']} is not the picture of this report")
            (folder / Path(image["output"]).name).write_bytes(picture)
            print(f"{image['index']} {image['propertyCode']}: {Path(image['output']).name}")
        elif image["state"] == "failed":
            print(f"{image['index']} {image['propertyCode']}: {image['error']['code']}: {image['error']['message']}")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    fetch(storage.Client().bucket(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
