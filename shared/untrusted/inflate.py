"""Unpacks compressed bytes within a limit, piece by piece: a bomb of gigabytes is never in memory as a whole."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from shared.errors import Unusable

_PIECE_BYTES: Final = 256 * 1024
_CODINGS: Final = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
_GZIP_MAGIC: Final = b"\x1f\x8b"


class TooLarge(Unusable):
    """The bytes unpack to more than is allowed."""


class NotCompressed(Unusable):
    """The bytes are not what their label says."""


class Inflate:
    """Unpacks gzip (also with several members) or deflate (with zlib's frame, or raw, as some servers send it)."""

    def __init__(self, coding: str) -> None:
        self._gzip = coding == "gzip"
        self._inflating = self._new(zlib.MAX_WBITS)
        self._started = False

    def _new(self, bits: int) -> zlib._Decompress:
        return zlib.decompressobj(bits | 16 if self._gzip else bits)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the unpacked bytes of `data`, in pieces of bounded size. Raises `NotCompressed`."""
        if not self._started and data:
            self._started = True
            if not self._gzip and not _has_zlib_frame(data):
                self._inflating = self._new(-zlib.MAX_WBITS)
        while data:
            if self._inflating.eof:
                if not self._gzip or not data.startswith(_GZIP_MAGIC):
                    return  # padding after the end, which tape writers and some servers add
                self._inflating = self._new(zlib.MAX_WBITS)
            try:
                piece = self._inflating.decompress(data, _PIECE_BYTES)
            except zlib.error as error:
                raise NotCompressed(str(error)) from None
            if piece:
                yield piece
            data = self._inflating.unconsumed_tail or self._inflating.unused_data

    def end(self) -> None:
        """Raise `NotCompressed` when the data ended too early."""
        if self._started and not self._inflating.eof:
            raise NotCompressed("it ends too early")


def _has_zlib_frame(data: bytes) -> bool:
    return data[0] & 0x0F == 8 and (len(data) < 2 or (data[0] * 256 + data[1]) % 31 == 0)


def codings_of(content_encoding: str) -> list[str]:
    """Return the compressions named in a Content-Encoding that can be unpacked here, in the order they were applied.

    Anything else ("identity", "utf-8", "binary", "none", nothing) counts as no compression.
    """
    words = [word.strip().lower() for word in content_encoding.split(",")]
    return [_CODINGS[word] for word in words if word in _CODINGS]


class Unpacking:
    """Unpacks pieces by `codings` (gzip, deflate; in the order they were applied) into at most `max_bytes`.

    It never holds more than that and one piece per coding. `feed` and `end` raise `TooLarge` or `NotCompressed`.
    """

    def __init__(self, codings: Iterable[str], max_bytes: int) -> None:
        self._layers = [Inflate(coding) for coding in codings][::-1]
        self._max_bytes = max_bytes
        self._whole = bytearray()

    def feed(self, piece: bytes) -> None:
        """Take a piece as it was received."""
        self._feed(piece, 0)

    def _feed(self, piece: bytes, depth: int) -> None:
        if depth < len(self._layers):
            for inner in self._layers[depth].feed(piece):
                self._feed(inner, depth + 1)
            return
        self._whole += piece
        if len(self._whole) > self._max_bytes:
            raise TooLarge

    def end(self) -> bytes:
        """Return everything, unpacked."""
        for layer in self._layers:
            layer.end()
        return bytes(self._whole)
