"""What the tests of STAGE IMAGE share: states, errors as steps raise them, and short words to look at what is left."""

from __future__ import annotations

from shared.errors import ErrorCode, ImageRejected, WorldError
from shared.model import Image, ImageState
from tests.harness.world import World

QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = ImageState
PAID = ("analyse", "generate", "verify")
WORLD = WorldError(ErrorCode.VENDOR_BAD_ANSWER, "the vendor answers nonsense")


def rejected(code: ErrorCode = ErrorCode.NOT_A_PICTURE) -> ImageRejected:
    return ImageRejected(code, "look at this")


async def no_trace(world: World) -> None:
    """Nothing was said on the dead-letter topic."""
    assert await world.letters() == []


def kinds(images: Image) -> list[str]:
    return [call.step for call in images.calls]
