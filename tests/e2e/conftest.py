"""A folder with small photos and a manifest, and the command line as a user runs it: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

RUUM = str(Path(sys.executable).with_name("ruum-batch"))


def photo(path: Path, seed: int, size: tuple[int, int] = (640, 480)) -> None:
    """A plain empty room: wall, floor, window; each seed has its own colours."""
    width, height = size
    picture = Image.new("RGB", size, (200 - seed % 40, 190, 180 + seed % 50))
    draw = ImageDraw.Draw(picture)
    draw.polygon([(0, height), (0, height * 3 // 4), (width // 3, height * 3 // 5), (width * 3 // 4, height * 3 // 5),
                  (width, height * 4 // 5), (width, height)], fill=(140, 100 + seed % 30, 60))  # fmt: skip
    draw.rectangle((width * 2 // 5, height // 6, width * 3 // 5, height * 2 // 5), fill=(240, 250, 255))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, "JPEG", quality=90)


def manifest(folder: Path, urls: list[str], name: str = "batch.json", **header: str) -> Path:
    """A manifest of these photos in `folder`."""
    fields = {"clientName": "acme", "batchId": "b1", "designStyle": "modern", "roomType": "living_room", **header}
    images = [{"url": url, "propertyCode": f"APT {index}"} for index, url in enumerate(urls)]
    path = folder / name
    path.write_text(json.dumps({**{k: v for k, v in fields.items() if v}, "images": images}))
    return path


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without any key or setting of ours, so that no test can ever spend money."""
    keys = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RUUM_") and name not in keys}
    return {**kept, **more}


def ruum(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `ruum-batch` to its end."""
    return subprocess.run(
        [RUUM, *map(str, arguments)],
        cwd=cwd,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three photos in photos/."""
    for index in range(3):
        photo(tmp_path / "photos" / f"{index}.jpg", index)
    return tmp_path
