"""For all pictures of the field: Pillow's own limit, as a worker sets it."""

from __future__ import annotations

import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def pixel_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The product sets Pillow's limit for its whole process. Here the limit must not outlast a test."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
