"""A vendor on loopback that speaks generateContent and answers as the real one was reported to: python vendor.py CASE

Prints its port, then one JSON line a call: the seconds, the step, and the generation config it was sent.
CASE: fenced, refused-once, blocked-other-once, credits-spent, outage, square-once, sound.
"""

from __future__ import annotations

import base64
import http.server
import io
import json
import socketserver
import sys
import time
from typing import Any

from PIL import Image, ImageDraw

CASE = sys.argv[1]
OUTAGE_SECONDS = 90.0
ROOM = {
    "summary": "An empty room.",
    "floor": [{"x": 0.05, "y": 0.95}, {"x": 0.3, "y": 0.6}, {"x": 0.7, "y": 0.6}, {"x": 0.95, "y": 0.95}],
    "vanishing_point": {"x": 0.5, "y": 0.45},
    "openings": [],
    "light": {"direction": "left", "brightness": 0.7, "temperature_kelvin": 5600},
    "palette": ["#f4f1ec"],
    "must_not_change": [],
}
GOOD = {"structure_kept": 0.96, "realism": 0.92, "style_fit": 0.9, "defects": []}
calls = {"analyse": 0, "generate": 0, "verify": 0}
began = time.monotonic()


def picture(width: int = 1200, height: int = 900) -> bytes:
    """A coloured band along each edge: what is cut away can be seen. Red left, blue right, green above, yellow below."""
    drawn = Image.new("RGB", (width, height), (210, 200, 190))
    draw = ImageDraw.Draw(drawn)
    draw.rectangle([0, 0, width // 12, height], fill=(220, 30, 30))
    draw.rectangle([width - width // 12, 0, width, height], fill=(30, 30, 220))
    draw.rectangle([0, 0, width, height // 8], fill=(30, 200, 30))
    draw.rectangle([0, height - height // 8, width, height], fill=(230, 200, 30))
    out = io.BytesIO()
    drawn.save(out, "JPEG", quality=92)
    return out.getvalue()


def said(parts: list[dict[str, Any]], finish: str = "STOP") -> tuple[int, dict[str, Any]]:
    usage = {"promptTokenCount": 1000, "candidatesTokenCount": 1600, "totalTokenCount": 2600}
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": finish, "index": 0}
    return 200, {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "m"}


def refused(code: int, status: str, message: str) -> tuple[int, dict[str, Any]]:
    return code, {"error": {"code": code, "message": message, "status": status}}


def drawn(width: int = 1200, height: int = 900) -> tuple[int, dict[str, Any]]:
    return said([{"inlineData": {"mimeType": "image/jpeg", "data": base64.b64encode(picture(width, height)).decode()}}])


def answer(step: str, number: int) -> tuple[int, dict[str, Any]]:
    first = number == 1
    if CASE == "credits-spent":
        return refused(
            429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted. Please manage your project and billing."
        )
    if CASE == "outage" and time.monotonic() - began < OUTAGE_SECONDS:
        return refused(503, "UNAVAILABLE", "The model is overloaded. Please try again later.")
    if step == "generate":
        if CASE == "refused-once" and first:
            return said([], "IMAGE_SAFETY")
        if CASE == "blocked-other-once" and first:
            return 200, {"promptFeedback": {"blockReason": "OTHER"}, "usageMetadata": {"promptTokenCount": 1000}}
        return drawn(1024, 1024) if CASE == "square-once" and first else drawn()
    text = json.dumps(ROOM if step == "analyse" else GOOD)
    return said([{"text": f"```json\n{text}\n```" if CASE == "fenced" else text}])


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        config = asked.get("generationConfig", {})
        schema = config.pop("responseSchema", None) or config.pop("responseJsonSchema", None) or {}
        drawing = "IMAGE" in config.get("responseModalities", [])
        step = "generate" if drawing else "analyse" if "floor" in schema.get("properties", {}) else "verify"
        calls[step] += 1
        print(json.dumps({"at": round(time.monotonic() - began, 1), "step": step, "config": config}), flush=True)
        status, body = answer(step, calls[step])
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Vendor(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


if __name__ == "__main__":
    vendor = Vendor(("127.0.0.1", 0), Handler)
    print(vendor.server_address[1], flush=True)
    vendor.serve_forever()
