"""A photo host on loopback that answers as hosts in the field do: python photo_host.py room.jpg

Prints its port. Each case is an address http://127.0.0.1:PORT/<case>/a.jpg; see README.md for what must happen.
"""

from __future__ import annotations

import gzip
import socketserver
import sys
import threading
import time
from pathlib import Path

PHOTO = Path(sys.argv[1]).read_bytes()
A_WHILE, SO_MANY = 12.0, 3  # the host of /limited/ gives so many photos in a while, then asks to wait
_given: list[float] = []
_lock = threading.Lock()

Answer = tuple[str, list[bytes], bytes]
TYPE = b"Content-Type: image/jpeg"
ENCODINGS = {"encoding-empty": b"", "encoding-utf-8": b"UTF-8", "encoding-binary": b"binary", "encoding-none": b"none"}


def answer(case: str, path: str, headers: dict[str, str]) -> Answer:
    if case in ENCODINGS:  # names no compression at all: what object stores keep when a client set it by mistake
        return "200 OK", [TYPE, b"Content-Encoding: " + ENCODINGS[case]], PHOTO
    if case == "encoding-gzip":  # stored compressed, and sent so to everybody
        return "200 OK", [TYPE, b"Content-Encoding: gzip"], gzip.compress(PHOTO)
    if case == "moved-utf-8":  # the address is written as it is, not percent-encoded
        return "302 Found", ["Location: /fotos/salão/sala.jpg".encode()], b""
    if path == "/fotos/sal%C3%A3o/sala.jpg":
        return "200 OK", [TYPE], PHOTO
    if case == "signature-expired":
        body = b"<?xml version='1.0'?><Error><Code>ExpiredToken</Code><Message>Invalid argument.</Message></Error>"
        return "400 Bad Request", [b"Content-Type: application/xml"], body
    if case == "negotiates":  # an answer only for those who name a type it has
        named = any(kind in headers.get("accept", "") for kind in ("image/jpeg", "*/*"))
        return ("200 OK", [TYPE], PHOTO) if named else ("406 Not Acceptable", [], b"")
    if case == "limited":
        with _lock:
            now = time.monotonic()
            _given[:] = [at for at in _given if at > now - A_WHILE]
            if len(_given) >= SO_MANY:
                wait = int(A_WHILE - (now - _given[0])) + 1
                return "429 Too Many Requests", [b"Retry-After: %d" % wait], b""
            _given.append(now)
        return "200 OK", [TYPE], PHOTO
    return "404 Not Found", [], b""


class Handler(socketserver.StreamRequestHandler):
    timeout = 30

    def handle(self) -> None:
        line = self.rfile.readline()
        headers: dict[str, str] = {}
        while raw := self.rfile.readline().strip():
            name, _, value = raw.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        if not line:
            return
        path = line.split(b" ")[1].decode("latin-1").partition("?")[0]
        status, lines, body = answer(path.split("/")[1], path, headers)
        lines = [f"HTTP/1.1 {status}".encode(), *lines, b"Content-Length: %d" % len(body), b"Connection: close"]
        self.wfile.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)


class Host(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = allow_reuse_address = True
    request_queue_size = 200


if __name__ == "__main__":
    host = Host(("127.0.0.1", 0), Handler)
    print(host.server_address[1], flush=True)
    host.serve_forever()
