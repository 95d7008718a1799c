"""Drop a manifest: python submit.py BUCKET CLIENT FILE. Needs: pip install google-cloud-storage."""

import sys
from pathlib import Path

from google.cloud import storage


def submit(bucket, client, file):
    """Upload the manifest into the client's folder and return its address. It is safe to do this twice."""
    name = f"manifests/{client}/{file.name}"
    storage.Client().bucket(bucket).blob(name).upload_from_filename(file)
    return f"gs://{bucket}/{name}"


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    print(submit(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
