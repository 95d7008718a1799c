"""Rules on where a manifest may take photos from. Pure functions of addresses, used before anything is fetched."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit

import msgspec

from shared.errors import BadSource, SharedPage
from shared.manifest.share_links import direct
from shared.manifest.tables import is_null
from shared.untrusted.text import is_hostile

_NOT_IN_HOSTS = frozenset(' \\<>"{}|^`')
# "www.photos.example/a.jpg", "photos.example.com.br/a.jpg", "https:/photos.example/a.jpg": a web address whose
# beginning was lost. In practice no folder has such a name.
_WEB_LIKE = re.compile(
    r"(?:https?:/?)?(?:www\.[^/\s]+\.[^/\s]+|(?:[a-z0-9-]+\.)+(?:com|net|org|info|biz|app|dev|io|cloud|site|online|imb|"
    r"co|me|tv|[a-z]{2,3}\.[a-z]{2}))(?::\d+)?(?:/|$)|https?:",
    re.IGNORECASE,
)
_NO_HOSTS = frozenset({"null", "undefined", "none", "nan"})
_SEVERAL = re.compile(r"[,;|\s]\s*https?://", re.IGNORECASE)
_BRACKETS = re.compile(r"\[[0-9A-Fa-f:.]+\](:\d*)?")


class SourceRules(msgspec.Struct, frozen=True, kw_only=True):
    """The addresses that one manifest may name.

    `base` is the URI of the manifest's folder, ending in "/". Relative paths start there and may not leave it.
    `gs_prefixes` are the `gs://bucket/prefix` addresses that its client may read. `folders` are the local folders that
    absolute paths may be in (on one machine only; empty in the cloud).
    """

    base: str
    allow_http: bool = False
    gs_prefixes: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


ALLOWED = "an https address, gs:// in an allowed bucket, or a path beside the manifest"


def resolve(url: str, rules: SourceRules) -> str:
    """Return the absolute URI (https, gs or file) of a manifest's `url`. Raises `BadSource`."""
    if is_hostile(url):
        raise BadSource("contains control characters", ALLOWED)
    if url != url.strip() or not url:
        raise BadSource("is empty or has spaces around it", ALLOWED)
    scheme, separator, _ = url.partition("://")
    if separator:
        return _absolute(scheme.lower(), url, rules)
    return _local(url, rules)


def as_written(source: str, base: str) -> str:
    """Return an absolute address as a manifest in the folder `base` can write it: as a relative path if possible."""
    if not base or not source.startswith(base):
        return source
    path = source.removeprefix(base)
    path = unquote(path) if base.startswith("file:") else path
    try:
        same = resolve(path, SourceRules(base=base)) == source
    except BadSource:
        return source
    return path if same and "://" not in path and not is_null(path) else source


def _absolute(scheme: str, url: str, rules: SourceRules) -> str:
    if scheme == "https" or (scheme == "http" and rules.allow_http):
        return _web(scheme + url[len(scheme) :])
    if scheme == "http":
        raise BadSource("is plain http, which can be read and altered on the way", "https")
    if scheme == "gs":
        if _escapes(url.removeprefix("gs://")):
            raise BadSource("leaves its folder", ALLOWED)
        if not any(url.startswith(prefix.rstrip("/") + "/") for prefix in rules.gs_prefixes):
            raise BadSource(
                "is not in a bucket this client may read", ", ".join(rules.gs_prefixes) or "no gs:// address"
            )
        return url
    if scheme == "file" and rules.folders:
        try:
            parts = urlsplit(url)
        except ValueError:
            raise BadSource("is not an address", ALLOWED) from None
        path = unquote(parts.path)
        if parts.netloc or is_hostile(path):
            raise BadSource("is not an address of a file here", ALLOWED)
        return _in_folders(Path(path), rules.folders)
    raise BadSource(f"has the scheme {scheme[:20]!r}", ALLOWED)


def _web(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port  # urlsplit checks the port only when it is read
    except ValueError:
        raise BadSource("is not an address", ALLOWED) from None
    if not parts.hostname:
        raise BadSource("has no host", ALLOWED)
    if parts.hostname in _NO_HOSTS:
        raise BadSource("has a word for nothing as its host", ALLOWED)
    if _SEVERAL.search(url):
        raise BadSource("contains more than one address", "one photo for each image")
    brackets_bad = "[" in parts.netloc and not _BRACKETS.fullmatch(parts.netloc.rpartition("@")[2])
    if brackets_bad or not parts.netloc.isprintable() or not _NOT_IN_HOSTS.isdisjoint(parts.netloc):
        raise BadSource("has no valid host", ALLOWED)
    if parts.username is not None or parts.password is not None:
        raise BadSource("contains a user name or password", "an address without credentials")
    try:
        direct(url)
    except SharedPage as page:
        raise BadSource(f"is {page.kind}, not a photo", page.instead) from None
    return url


def _escapes(path: str) -> bool:
    """Return whether a path, taken literally or after percent-decoding, has a part that leads upwards."""
    return any(".." in PurePosixPath(form).parts or "\\" in form for form in (path, unquote(path)))


def _local(path: str, rules: SourceRules) -> str:
    if path.startswith("//") or _WEB_LIKE.match(path):
        raise BadSource("looks like a web address without its beginning", f"https://{path.lstrip('/')[:200]}")
    if path.startswith("/"):
        if not rules.folders:
            raise BadSource("is an absolute path", ALLOWED)
        return _in_folders(Path(path), rules.folders)
    if "\\" in path or re.match(r"[A-Za-z]:", path):
        raise BadSource(
            "is a path as Windows writes it", "a path relative to the manifest's folder, with / between folders"
        )
    if _escapes(path) or ":" in path.split("/", 1)[0]:
        raise BadSource("leaves the manifest's folder", "a path beside the manifest, with forward slashes")
    if not rules.base:
        raise BadSource("is a path, but the manifest has no folder", ALLOWED)
    clean = PurePosixPath(path).as_posix()
    if clean == ".":
        raise BadSource("is the folder itself", ALLOWED)
    return rules.base + (quote(clean) if rules.base.startswith("file:") else clean)


def _in_folders(path: Path, folders: Sequence[str]) -> str:
    if ".." in path.parts or not any(path.is_relative_to(folder) for folder in folders):
        raise BadSource("is outside the folders photos may come from", "a file below " + " or ".join(folders))
    return path.as_uri()


def shown(source: str, base: str) -> str:
    """Return an address for people: relative to the manifest's folder if it is below that."""
    if source.startswith(base):
        return unquote(source.removeprefix(base)) if base.startswith("file:") else source.removeprefix(base)
    return source.partition("?")[0]  # a signed link's signature is long, and a secret
