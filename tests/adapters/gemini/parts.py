"""The Gemini adapter before a local Gemini that answers what it is told, and answers to tell it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Awaitable, Callable
from typing import Any

from PIL import Image

from ops.local_stack.gemini_server import ROOM, Fault, GeminiServer, Plan, Step
from shared.adapters.google.gemini import GeminiModel
from shared.errors import ErrorCode, RuumError, WorldError
from shared.ports import Answer, Photo, Request
from shared.settings import Gemini, Settings

KEY = "test-key"
SETTINGS = Gemini()
STEPS: tuple[Step, ...] = ("analyse", "generate", "verify")
REQUEST = Request(room_type="living_room", design_style="modern")


def jpeg(width: int = 80, height: int = 60, colour: tuple[int, int, int] = (222, 210, 190)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "JPEG")
    return buffer.getvalue()


PHOTO = Photo(jpeg=jpeg(), width=80, height=60, sha256="0")


async def ask(model: GeminiModel, step: Step, photo: Photo = PHOTO, defects: tuple[str, ...] = ()) -> Answer[Any]:
    if step == "analyse":
        return await model.analyse(photo, REQUEST)
    if step == "generate":
        return await model.generate(photo, ROOM, REQUEST, defects)
    return await model.verify(photo, jpeg(colour=(1, 2, 3)), ROOM, REQUEST)


class Canned:
    """Answers every request with the same status and body, and keeps what it was sent."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b"{}"
        self.heads: list[str] = []
        self.bodies: list[dict[str, Any]] = []

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = int(next(line for line in head.lower().splitlines() if line.startswith("content-length:"))[15:])
        self.heads.append(head)
        self.bodies.append(json.loads(await reader.readexactly(length)))
        lines = f"HTTP/1.1 {self.status} Said\r\nContent-Length: {len(self.body)}\r\nConnection: close\r\n\r\n"
        writer.write(lines.encode() + self.body)
        await writer.drain()
        writer.close()


class Rig:
    """One event loop with both servers and the models that ask them; clients are dear, so all tests share them."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self.server = GeminiServer(Plan(key=KEY))
        self.canned = Canned()
        self._base = runner.run(self.server.start())
        self._canned_base = runner.run(self.canned.start())
        self._models: dict[tuple[Any, ...], GeminiModel] = {}

    def model(self, key: str = KEY, *, canned: bool = False, base_url: str = "", **settings: Any) -> GeminiModel:
        known = (key, canned, base_url, *settings.items())
        if known not in self._models:
            base = base_url or (self._canned_base if canned else self._base)
            self._models[known] = GeminiModel(key, Settings(gemini=Gemini(base_url=base, **settings)))
        return self._models[known]

    def run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        async def body() -> Any:
            return await work()

        return self._runner.run(body())

    def call(self, step: Step, fault: Fault | None = None, **options: Any) -> Answer[Any] | RuumError:
        """What one call gives or raises; the server must have been asked exactly once.

        A call whose deadline ends may not have got that far: on a busy machine a tenth of a second is soon over.
        """
        self.server.calls.clear()
        self.server.plan.script = [fault]
        model = self.model(**options)
        fewest = 1
        try:
            return self.run(lambda: ask(model, step))
        except RuumError as error:
            fewest = int(not (isinstance(error, WorldError) and error.code == ErrorCode.VENDOR_TIMEOUT))
            return error
        finally:
            asked = len(self.server.calls)
            assert fewest <= asked <= 1, f"asked {asked} times: a repeated request is billed twice"

    def said(self, status: int, body: Any, step: Step = "analyse", **options: Any) -> Answer[Any] | RuumError:
        """The same with the canned server."""
        self.canned.status = status
        self.canned.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.canned.heads.clear()
        self.canned.bodies.clear()
        model = self.model(canned=True, **options)
        try:
            return self.run(lambda: ask(model, step))
        except RuumError as error:
            return error
        finally:
            assert len(self.canned.heads) == 1

    def close(self) -> None:
        for model in self._models.values():
            self._runner.run(model.aclose())
        self._runner.run(self.server.stop())
        self._runner.run(self.canned.stop())


def answer(result: Answer[Any] | RuumError) -> Answer[Any]:
    assert isinstance(result, Answer), repr(result)
    return result


def error_body(code: int, status: str, message: str = "no", *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


def picture_part(data: bytes, **more: Any) -> dict[str, Any]:
    return {"inlineData": {"mimeType": "image/jpeg", "data": base64.b64encode(data).decode()}, **more}


def candidate(parts: list[dict[str, Any]] | None, reason: str = "STOP", **usage: int) -> dict[str, Any]:
    content = {} if parts is None else {"content": {"role": "model", "parts": parts}}
    return {"candidates": [{**content, "finishReason": reason, "index": 0}], "usageMetadata": usage}
