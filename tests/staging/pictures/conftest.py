"""For all tests of pictures: what the product sets in Pillow does not stay."""

from __future__ import annotations

import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def pixel_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The product sets Pillow's limit for the whole process, which is a subprocess of its own; here it must not stay."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
