"""The preview model: a stand-in for trying the system without a key, a network or a bill. It says so on every picture.

It works on the real photo. *Analyse* measures camera, walls, doors and windows by lines (`measuring`, `geometry`,
`openings`). *Generate* places furniture by rules in metres (`layout`, `rooms`), builds it from parametric shapes
(`furniture`, `meshes`, `families`), lights it with the photo itself (`light`) and draws it (`renderer`); every pixel
outside furniture and shadow stays the photo's. *Verify* measures what changed, and where (`checking`). numpy and Pillow
only; plain functions on bytes that run in the picture subprocesses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from shared.answers import Analysis, Verdict
from shared.errors import ImageRejected, WorldError
from shared.model import Usage
from shared.ports import Answer, Photo, Request
from shared.staging.pool import PicturePool
from shared.staging.preview.checking import compare
from shared.staging.preview.measuring import measure
from shared.staging.preview.staging import LABEL, furnish

__all__ = ["LABEL", "NAME", "PROMPTS", "PreviewModel", "compare", "furnish", "measure"]

NAME: Final = "preview"
PROMPTS: Final = "preview-3"  # it reads no prompts; the version tells pictures of different drawing code apart


class PreviewModel:
    """Implements `shared.ports.StagingModel` with the functions of this package, run in the picture subprocesses."""

    def __init__(self, pool: PicturePool) -> None:
        self._run: Callable[..., Any] = pool.run

    @property
    def prompts(self) -> str:
        return PROMPTS

    @property
    def text_model(self) -> str:
        return NAME

    @property
    def image_model(self) -> str:
        return NAME

    async def analyse(self, photo: Photo, request: Request) -> Answer[Analysis]:
        return Answer(await self._run(ImageRejected, measure, photo.jpeg, request.room_type), Usage(NAME))

    async def generate(
        self, photo: Photo, analysis: Analysis, request: Request, defects: Sequence[str]
    ) -> Answer[bytes]:
        work = self._run(WorldError, furnish, photo.jpeg, analysis, request.room_type, request.design_style)
        return Answer(await work, Usage(NAME))

    async def verify(self, photo: Photo, picture: bytes, analysis: Analysis, request: Request) -> Answer[Verdict]:
        work = self._run(WorldError, compare, photo.jpeg, picture, analysis, request.room_type, request.design_style)
        return Answer(await work, Usage(NAME))

    async def aclose(self) -> None:
        """Nothing is open: the subprocesses are their owner's."""
