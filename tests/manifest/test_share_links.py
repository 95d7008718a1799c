"""Links by which people share photos: which lead to the photo, which to a page, which are none."""

from __future__ import annotations

import base64
import json

import pytest

from shared.errors import ManifestRejected, SharedPage
from shared.manifest.reader import read
from shared.manifest.share_links import direct
from shared.manifest.sources import SourceRules
from shared.settings import ManifestLimits

ID = "1aBcD_efGhIjKlMnOpQrStUvWxYz-0123"
DRIVE = f"https://drive.usercontent.google.com/download?id={ID}&export=download"
ONE = "https://1drv.ms/i/s!AkFvPzExample?e=abc"
DIRECT = [
    (f"https://drive.google.com/file/d/{ID}/view?usp=sharing", DRIVE), (f"https://drive.google.com/file/d/{ID}/view", DRIVE),
    (f"https://drive.google.com/file/d/{ID}/edit?usp=drivesdk", DRIVE), (f"https://drive.google.com/file/d/{ID}", DRIVE),
    (f"https://drive.google.com/file/u/1/d/{ID}/view", DRIVE), (f"https://drive.google.com/open?id={ID}", DRIVE),
    (f"https://drive.google.com/uc?id={ID}&export=view", DRIVE), (f"https://drive.google.com/uc?export=download&id={ID}", DRIVE),
    (f"https://drive.google.com/thumbnail?id={ID}&sz=w1000", DRIVE), (f"https://docs.google.com/uc?id={ID}", DRIVE),
    (f"https://drive.google.com/file/d/{ID}/view?resourcekey=0-abc", DRIVE + "&resourcekey=0-abc"),
    ("https://www.dropbox.com/s/abc123/sala.jpg?dl=0", "https://www.dropbox.com/s/abc123/sala.jpg?dl=1"),
    ("https://www.dropbox.com/s/abc123/sala.jpg", "https://www.dropbox.com/s/abc123/sala.jpg?dl=1"),
    ("https://www.dropbox.com/scl/fi/abc/sala.jpg?rlkey=k1&st=x&dl=0", "https://www.dropbox.com/scl/fi/abc/sala.jpg?rlkey=k1&st=x&dl=1"),
    ("https://dropbox.com/scl/fi/abc/s.jpg?rlkey=k1&raw=1#x", "https://dropbox.com/scl/fi/abc/s.jpg?rlkey=k1&dl=1"),
    ("https://firma-my.sharepoint.com/:i:/g/personal/x/EabC?e=1", "https://firma-my.sharepoint.com/:i:/g/personal/x/EabC?e=1&download=1"),
    ("https://github.com/acme/fotos/blob/main/a.jpg", "https://raw.githubusercontent.com/acme/fotos/main/a.jpg"),
]  # fmt: skip
PAGES = [
    f"https://drive.google.com/drive/folders/{ID}", f"https://drive.google.com/drive/u/0/folders/{ID}?usp=sharing", "https://drive.google.com/",
    f"https://docs.google.com/document/d/{ID}/edit", "https://photos.app.goo.gl/abc", "https://photos.google.com/share/abc",
    "https://www.dropbox.com/scl/fo/abc/h?rlkey=x&dl=0", "https://www.dropbox.com/sh/abc/def", "https://www.dropbox.com/home",
    "https://share.icloud.com/photos/0abc", "https://www.icloud.com/photos/#0abc", "https://we.tl/t-abc", "https://wetransfer.com/downloads/abc",
    "https://acme.wetransfer.com/downloads/abc", "https://1drv.ms/f/s!abc", "https://firma.sharepoint.com/:f:/s/x/EabC",
    "https://mega.nz/file/abc", "https://www.instagram.com/p/abc/", "https://www.facebook.com/photo?fbid=1", "https://www.canva.com/design/x",
]  # fmt: skip
OTHERS = [
    "https://photos.example/a.jpg", "https://lh3.googleusercontent.com/d/" + ID, "https://dl.dropboxusercontent.com/s/abc/a.jpg",
    "https://content.dropboxapi.com/x", "https://drive.google.com.evil.example/file/d/" + ID, "https://notdropbox.com/s/a/b",
    "https://storage.googleapis.com/b/a.jpg", "https://firma.sharepoint.com/sites/x/a.jpg", "https://[::1", "gs://b/a.jpg", "",
]  # fmt: skip


@pytest.mark.parametrize(("link", "expected"), DIRECT)
def test_a_link_to_one_photo_leads_to_it(link: str, expected: str) -> None:
    assert direct(link) == expected
    assert direct(expected) == expected, "and an address that is direct stays"


def test_onedrive_by_microsofts_own_rule() -> None:
    found = direct(ONE)
    coded = found.removeprefix("https://api.onedrive.com/v1.0/shares/u!").removesuffix("/root/content")
    assert base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)).decode() == ONE


@pytest.mark.parametrize("link", PAGES)
def test_a_page_is_known_and_refused_before_anything_starts(link: str) -> None:
    with pytest.raises(SharedPage):
        direct(link)
    manifest = {"clientName": "a", "roomType": "den", "designStyle": "boho", "images": [{"url": link}]}
    import io

    with pytest.raises(ManifestRejected) as caught:
        read(io.BytesIO(json.dumps(manifest).encode()), "a.json", ManifestLimits(), SourceRules(base="gs://b/"))
    (problem,) = caught.value.problems
    assert problem.field == "url"
    assert "not a photo" in problem.reason
    assert problem.allowed


@pytest.mark.parametrize("link", OTHERS)
def test_other_addresses_stay_as_they_are(link: str) -> None:
    assert direct(link) == link
