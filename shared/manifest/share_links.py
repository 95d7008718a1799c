"""Links by which people share photos: pages for browsers, most of which have a direct address to the photo itself.

Addresses as of November 2026; where a service has none for a program, the manifest is refused with what to do instead.
"""

from __future__ import annotations

import base64
import re
from typing import Final
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

from shared.errors import SharedPage

_DRIVE_ID: Final = r"[A-Za-z0-9_-]{10,}"
_DRIVE_FILE: Final = re.compile(rf"/(?:file/(?:u/\d+/)?d|a/[^/]+/file/d|thumbnail/d)/({_DRIVE_ID})")
_PUBLIC: Final = "share the photo itself, or copy it to a web address of your own"
# Hosts whose links lead to a page and to no photo that a program may fetch: (what it is, what to do).
_PAGES: Final = {
    "photos.app.goo.gl": ("a Google Photos album", _PUBLIC),
    "photos.google.com": ("a Google Photos page", _PUBLIC),
    "goo.gl": ("a short link that Google has switched off", _PUBLIC),
    "icloud.com": ("an iCloud page", _PUBLIC),
    "share.icloud.com": ("an iCloud page", _PUBLIC),
    "we.tl": ("a WeTransfer download page, which ends after days", _PUBLIC),
    "wetransfer.com": ("a WeTransfer download page, which ends after days", _PUBLIC),
    "1fichier.com": ("a download page", _PUBLIC),
    "mega.nz": ("a MEGA page, which only its own program can read", _PUBLIC),
    "instagram.com": ("an Instagram page", _PUBLIC),
    "facebook.com": ("a Facebook page", _PUBLIC),
    "pinterest.com": ("a Pinterest page", _PUBLIC),
    "canva.com": ("a Canva page", _PUBLIC),
    "drive.google.com": ("a Google Drive page that is no single file", "the link of the photo itself: …/file/d/…"),
    "docs.google.com": ("a Google document", _PUBLIC),
    "onedrive.live.com": ("a OneDrive folder or page", "the link of the photo itself"),
    "1drv.ms": ("a OneDrive folder or page", "the link of the photo itself"),
    "dropbox.com": ("a Dropbox folder or page", "the link of the photo itself"),
}


def direct(url: str) -> str:
    """Return the address of the photo itself for a share link, and any other address as it is. Raises `SharedPage`."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").removeprefix("www.")
    except ValueError:
        return url
    found = None
    if host in ("drive.google.com", "docs.google.com"):
        found = _drive(parts.path, parts.query)
    elif host == "dropbox.com":
        found = _dropbox(url)
    elif host in ("1drv.ms", "onedrive.live.com"):
        found = _onedrive(url, parts.path)
    elif host.endswith(".sharepoint.com"):
        return _sharepoint(url)
    elif host == "github.com" and "/blob/" in parts.path:
        return url.replace("github.com", "raw.githubusercontent.com", 1).replace("/blob/", "/", 1)
    if found is not None:
        return found
    for page, (kind, instead) in _PAGES.items():
        if host == page or host.endswith("." + page):
            raise SharedPage(kind, instead)
    return url


def _drive(path: str, query: str) -> str | None:
    named = _DRIVE_FILE.match(path)
    identity = named[1] if named else next(iter(parse_qs(query).get("id", [])), "")
    single = named or path in ("/open", "/uc", "/thumbnail")
    if not single or not re.fullmatch(_DRIVE_ID, identity):
        return None
    key = next(iter(parse_qs(query).get("resourcekey", [])), "")
    more = {"resourcekey": key} if key else {}
    return "https://drive.usercontent.google.com/download?" + urlencode({"id": identity, "export": "download", **more})


def _dropbox(url: str) -> str | None:
    parts = urlsplit(url)
    if not re.match(r"/(s|scl/fi)/", parts.path):
        return None
    kept = [(name, value) for name, value in parse_qsl(parts.query) if name not in ("dl", "raw")]
    return urlunsplit(parts._replace(query=urlencode([*kept, ("dl", "1")]), fragment=""))


def _onedrive(url: str, path: str) -> str | None:
    """By Microsoft's own rule for sharing links: learn.microsoft.com, "Accessing shared DriveItems", encoding."""
    if path in ("", "/") or re.match(r"/(f|o)/", path):
        return None  # 1drv.ms/f/… is a folder
    coded = base64.urlsafe_b64encode(url.encode()).decode().rstrip("=")
    return f"https://api.onedrive.com/v1.0/shares/u!{coded}/root/content"


def _sharepoint(url: str) -> str:
    parts = urlsplit(url)
    if re.match(r"/:f:/", parts.path):
        raise SharedPage("a SharePoint or OneDrive folder", "the link of the photo itself")
    if not re.match(r"/:[a-z]:/", parts.path):
        return url
    kept = [(name, value) for name, value in parse_qsl(parts.query) if name != "download"]
    return urlunsplit(parts._replace(query=urlencode([*kept, ("download", "1")])))
