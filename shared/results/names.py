"""Names of objects: where everything that belongs to a batch is stored, in one place."""

from __future__ import annotations

from shared.model import Batch, Image
from shared.untrusted.text import slug


def results_folder(batch: Batch) -> str:
    """Return `results/<client>/<batch>/`, with the batch id as in the manifest."""
    return f"results/{batch.client}/{batch.batch_id}/"


def round_folder(batch: Batch) -> str:
    """Return the folder of the reports of the batch's current round."""
    return f"{results_folder(batch)}round-{batch.round}/"


def closing_folder(batch: Batch) -> str:
    """Return where a closing stores what it has gathered until it is over. Not for customers."""
    return f"closing/{batch.id}/{batch.round}-{round((batch.closing_at or 0.0) * 1000)}/"


def status_name(batch: Batch) -> str:
    return results_folder(batch) + "status.json"


def picture_stem(image: Image) -> str:
    """Return `<index>-<propertyCode>`, or the index alone."""
    code = slug(image.property_code or "")
    return f"{image.index}-{code}" if code else str(image.index)


def work_folder(batch_id: str, index: int) -> str:
    return f"work/{batch_id}/{index}/"


def work_picture(image: Image, generation: int) -> str:
    """Return the name of a generated picture.

    The fence in it keeps a stale worker from touching its successor's pictures.
    """
    return f"{work_folder(image.batch, image.index)}{image.fence}-{generation}"


def errors_name(manifest_name: str) -> str:
    """Return where the problems of a rejected manifest are written, in the results bucket."""
    return manifest_name + ".errors.json"
