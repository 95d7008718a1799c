"""Names of objects: where everything of a batch lies, in one place."""

from __future__ import annotations

from shared.model import Batch, Image
from shared.untrusted.text import slug


def results_folder(batch: Batch) -> str:
    """`results/<client>/<batch>/`: the batch id without the client it begins with."""
    return f"results/{batch.client}/{batch.batch_id}/"


def round_folder(batch: Batch) -> str:
    """Where the reports of the batch's present round lie."""
    return f"{results_folder(batch)}round-{batch.round}/"


def closing_folder(batch: Batch) -> str:
    """Where a closing keeps what it has gathered, until it is over; nobody's to read."""
    return f"closing/{batch.id}/{batch.round}-{round((batch.closing_at or 0.0) * 1000)}/"


def status_name(batch: Batch) -> str:
    return results_folder(batch) + "status.json"


def picture_stem(image: Image) -> str:
    """`<index>-<propertyCode>`, or the index alone."""
    code = slug(image.property_code or "")
    return f"{image.index}-{code}" if code else str(image.index)


def work_folder(batch_id: str, index: int) -> str:
    return f"work/{batch_id}/{index}/"


def work_picture(image: Image, generation: int) -> str:
    """A generated picture; the fence in its name keeps a stale worker from touching its successor's."""
    return f"{work_folder(image.batch, image.index)}{image.fence}-{generation}"


def errors_name(manifest_name: str) -> str:
    """Where the problems of a rejected manifest are written, in the results bucket."""
    return manifest_name + ".errors.json"
