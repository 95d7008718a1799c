"""A small object store on loopback (JSON API, metadata and media) with objects that were uploaded compressed.

python storage_objects.py prints its port. Bucket `intake`:
    manifests/acme/plain.json       a manifest
    manifests/acme/compressed.json  the same, stored with Content-Encoding gzip: clients are served it decompressed
    manifests/acme/bomb.json        1.5 MB stored, 1.5 GB decompressed
    photos/acme/bomb.jpg            the same bytes under a photo's name
"""

from __future__ import annotations

import base64
import gzip
import http.server
import json
import struct
from urllib.parse import unquote

import google_crc32c

MANIFEST = json.dumps({
    "clientName": "acme", "designStyle": "modern", "roomType": "living_room", "images": [{"url": "https://h.example/a.jpg"}],
}).encode()  # fmt: skip
BOMB = gzip.compress(bytes(1_500_000_000), 9)
OBJECTS = {
    "manifests/acme/plain.json": (MANIFEST, ""),
    "manifests/acme/compressed.json": (gzip.compress(MANIFEST), "gzip"),
    "manifests/acme/bomb.json": (BOMB, "gzip"),
    "photos/acme/bomb.jpg": (BOMB, "gzip"),
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        name = unquote(path.partition("/o/")[2])
        if name not in OBJECTS:
            self._send(404, b"")
            return
        data, encoding = OBJECTS[name]
        crc = base64.b64encode(struct.pack(">I", google_crc32c.value(data))).decode()
        if path.startswith("/download/"):
            marks = [("X-Goog-Hash", f"crc32c={crc}"), ("X-Goog-Generation", "1")]
            marks.append(("X-Goog-Stored-Content-Encoding", encoding or "identity"))
            if encoding:
                marks.append(("Content-Encoding", encoding))
            self._send(200, data, *marks)
            return
        about = {
            "name": name,
            "bucket": "intake",
            "generation": "1",
            "metageneration": "1",
            "size": str(len(data)),
            "crc32c": crc,
        }
        about |= {"updated": "2026-01-01T00:00:00Z"} | ({"contentEncoding": encoding} if encoding else {})
        self._send(200, json.dumps(about).encode(), ("Content-Type", "application/json"))


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
