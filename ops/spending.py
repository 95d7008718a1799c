"""Estimate what a command would spend, and ask before it spends more than a little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ops import asking, words
from ops.cli_common import WRONG_USAGE, fail
from shared.decisions import forecast
from shared.model import ImageState
from shared.settings import Settings
from shared.vendors import spec_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ops.target import Target
    from shared.lifecycle.replay import Plan
    from shared.manifest.model import Manifest
    from shared.model import Image
    from shared.ports import BatchStore

# A command spends up to this much without a question: four pictures, enough for a first try.
ASK_ABOVE_USD: Final = 0.25
ASK_ABOVE_IMAGES: Final = 100  # a replay of more images asks even if it is free: it is a lot of work


async def of_run(store: BatchStore, settings: Settings, found: Manifest) -> tuple[int, float]:
    """Return (images to buy, US dollars) of a manifest. Finished, repeated and already staged images cost nothing."""
    if spec_of(settings).free:
        return 0, 0.0
    done: set[int] = set()
    half: set[int] = set()
    if await store.batch(found.batch) is not None:
        async for image in store.images(found.batch):
            if image.state not in (ImageState.QUEUED, ImageState.PROCESSING):
                done.add(image.index)
            elif image.checkpoint is not None and image.checkpoint.picture is not None:
                half.add(image.index)
    wishes = {
        (image.source, image.room_type, image.design_style) if found.cache else (index,)
        for index, image in enumerate(found.images)
        if index not in done and index not in half
    }
    return len(wishes) + len(half), len(wishes) * forecast.cost_per_image_usd(settings)


async def of_replay(target: Target, plans: Sequence[Plan], codes: tuple[str, ...]) -> float:
    """Return the US dollars that replaying the failed images would cost. Pictures that are paid for are not counted."""
    if target.free or spec_of(target.settings).free or not target.somebody_works():
        return 0.0  # in a data folder without a run, the next run prints its cost and asks
    price, cost = forecast.cost_per_image_usd(target.settings), 0.0
    for plan in plans:
        async for image in target.backend.store.images(plan.batch, ImageState.FAILED):
            if (not codes or (image.error is not None and image.error.code in codes)) and not _picture_is_paid(image):
                cost += price
    return cost


def _picture_is_paid(image: Image) -> bool:
    return image.checkpoint is not None and image.checkpoint.picture is not None


def key_named(environ: Mapping[str, str]) -> str:
    """Return the name of the variable whose key is used, for the estimate's line."""
    from ops.local import KEY_VARIABLES

    return next((name for name in KEY_VARIABLES if environ.get(name)), "no key")


def sure(question: str, *, yes: bool, otherwise: str = "not done") -> None:
    """Ask, unless `yes`. If the answer is no, or nobody can answer, end the command."""
    if yes:
        return
    if asking.can_answer():
        if asking.confirm(question):
            return
        fail(otherwise, WRONG_USAGE)
    fail(f"{question} {otherwise[:1].upper()}{otherwise[1:]}: nobody could answer. Pass --yes to confirm", WRONG_USAGE)


def about(usd: float) -> str:
    """Return, say, `about $8.50`."""
    return f"about {words.money(usd)}"
