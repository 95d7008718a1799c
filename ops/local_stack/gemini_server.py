"""A local Gemini: real HTTP on loopback, the part of `generateContent` that staging uses, and every fault on demand.

    POST /v1/models/{model}:generateContent    (or /v1beta) what the google-genai client calls
    GET  /stats                                the calls so far, counted
    POST /plan                                 change per_minute, per_day, latency or rates while running

The server checks a call's key, model and quota. Then the call gets its fault, if the plan has one, or its answer.
Start it by hand with (it prints its base URL first):
`python -m ops.local_stack.gemini_server --latency 0.1 --per-minute 600 --fault 503=0.05`
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import random
import re
import signal
import socket
import struct
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Final, Literal, get_args
from urllib.parse import unquote

from PIL import Image, ImageDraw

from shared.answers import Analysis, Light, Opening, Point, Verdict

Json = dict[str, Any]
Step = Literal["analyse", "generate", "verify", "other"]
Fault = Literal[
    "500", "503", "429", "429_day", "429_bare", "401", "403", "404_model",  # refused with the error envelope
    "safety", "image_safety", "prohibited_content", "no_image", "image_other", "recitation", "blocked",  # 200, no parts
    "malformed_json", "bad_base64", "empty", "schema_mismatch", "max_tokens", "truncated_picture",  # 200, unusable
    "reset", "truncated_body", "hang",  # the connection fails: perhaps billed
    "low_quality",  # a valid answer, but the picture is bad
]  # fmt: skip
STEPS: Final[tuple[Step, ...]] = get_args(Step)
FAULTS: Final[tuple[Fault, ...]] = get_args(Fault)
FINISH: Final = ("safety", "image_safety", "prohibited_content", "no_image", "image_other", "recitation")
TEXT: Final[tuple[Step, ...]] = ("analyse", "verify")
ONLY_AT: Final[dict[Fault, tuple[Step, ...]]] = {  # every other fault can happen at any step
    "schema_mismatch": TEXT, "truncated_picture": ("generate",), "low_quality": ("verify",)}  # fmt: skip
STATUS: Final = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
                 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE"}  # fmt: skip
REFUSALS: Final[dict[Fault | None, tuple[int, str]]] = {
    "500": (500, "An internal error has occurred. Please retry."),
    "503": (503, "The model is overloaded. Please try again later."),
    "429_bare": (429, "Resource exhausted. Please try again later."),
    "401": (401, "Request had invalid authentication credentials."),
    "403": (403, "The caller does not have permission."),
    "404_model": (404, "The model is not found, or is not supported for generateContent."),
}
PER_MINUTE: Final = "GenerateRequestsPerMinutePerProjectPerModel"
PER_DAY: Final = "GenerateRequestsPerDayPerProjectPerModel"
OUTPUT_TOKENS: Final = {"1K": 1120, "2K": 1680, "4K": 3780}  # a picture's, by the price list
PICTURE_TOKENS: Final = 1120  # a picture's in the prompt
HEAD_BYTES: Final = 64 * 1024  # longest request line and headers; the client sends less than 1 KiB
BODY_BYTES: Final = 32 * 1024 * 1024  # two photos of 10 MB in base64 fit
GENERATE: Final = re.compile(r"/v1(?:beta)?/models/([^/:]+):generateContent")
GOOD: Final = Verdict(structure_kept=0.96, realism=0.92, style_fit=0.9, defects=[])
BAD: Final = Verdict(structure_kept=0.2, realism=0.3, style_fit=0.4, defects=["window walled up", "sofa floats"])
ROOM: Final = Analysis(
    summary="An empty room with an oak floor, white walls and one window.",
    floor=[Point(x=0.05, y=0.95), Point(x=0.3, y=0.6), Point(x=0.7, y=0.6), Point(x=0.95, y=0.95)],
    vanishing_point=Point(x=0.5, y=0.45),
    openings=[Opening(kind="window", left=0.4, top=0.2, right=0.6, bottom=0.5)],
    light=Light(direction="left", brightness=0.7, temperature_kelvin=5600),
    palette=["#f4f1ec", "#b08d57"],
    must_not_change=["the window in the far wall"],
)


@dataclass
class Plan:
    """How the server behaves. Every field may be changed while it runs.

    Limits are calls admitted per model in any 60 s (`per_minute`) or 24 h (`per_day`); "*" stands for every model not
    named. `latency` is the mean in seconds, for all steps or by step; a pause is uniform within `jitter` (a fraction)
    of it. The next fault comes from the step's script, else from `script` (None there is a valid answer), else it is
    drawn by `rates` (chances 0 to 1 per call). Raises `ValueError` or `TypeError` for values that make no sense.
    """

    key: str = "test-key"
    models: set[str] | None = None  # None: any
    per_minute: dict[str, int] | None = None
    per_day: dict[str, int] | None = None
    latency: float | dict[Step, float] = 0.0
    jitter: float = 0.5
    script: list[Fault | None] = field(default_factory=list)
    step_script: dict[Step, list[Fault | None]] = field(default_factory=dict)
    rates: dict[Fault, float] = field(default_factory=dict)
    thoughts: bool = False  # put a thought with a picture of its own before each picture
    seed: int = 0

    def __post_init__(self) -> None:
        latency = self.latency if isinstance(self.latency, dict) else dict.fromkeys(STEPS, self.latency)
        faults = {*self.rates, *self.script, *(fault for script in self.step_script.values() for fault in script)}
        if unknown := {*map(str, faults), *latency, *self.step_script} - {*FAULTS, *STEPS, "None"}:
            raise ValueError(f"{sorted(unknown)} is none of the faults {FAULTS} or steps {STEPS}")
        if min([0, *self.rates.values()]) < 0 or sum(self.rates.values()) > 1 + 1e-9:
            raise ValueError("rates are chances from 0 to 1, and so is their sum")
        if min([0, *latency.values(), *(self.per_minute or {}).values(), *(self.per_day or {}).values()]) < 0:
            raise ValueError("latency in seconds and limits in calls are not negative")


@dataclass
class Call:
    """One call as the server saw it. `at` is its arrival in seconds of the server's clock.

    `status` stays None while the call is in progress, and if no status was ever sent. `answered`: a complete 200 was
    sent to a client that was still connected. A status 200 without it was wasted work, which the vendor bills as well.
    `store` is the request's value, None if it had none.
    """

    model: str
    at: float
    step: Step = "other"
    store: bool | None = None
    fault: Fault | None = None
    status: int | None = None
    answered: bool = False


class _Refused(Exception):
    """An answer in the vendor's error envelope; `details` are (google.rpc type, fields)."""

    def __init__(self, code: int, message: str, *details: tuple[str, Json]) -> None:
        super().__init__(message)
        self.code = code
        error = {"code": code, "message": message, "status": STATUS.get(code, "FAILED_PRECONDITION")}
        typed = [{"@type": f"type.googleapis.com/google.rpc.{name}", **fields} for name, fields in details]
        self.body = json.dumps({"error": error | ({"details": typed} if typed else {})}).encode()


def over_quota(model: str, limits: dict[str, int], retry_seconds: float) -> _Refused:
    """Return a 429 for `limits` (by quota id). The delay is cut to whole seconds, as by the vendor: clients add one."""
    violations = [
        {"quotaId": quota_id, "quotaDimensions": {"location": "global", "model": model}, "quotaValue": str(limit)}
        for quota_id, limit in limits.items()
    ]
    retry = ("RetryInfo", {"retryDelay": f"{int(retry_seconds)}s"})
    return _Refused(429, "You exceeded your current quota.", ("QuotaFailure", {"violations": violations}), retry)


def refusal(fault: Fault | None, model: str) -> _Refused | None:
    """Return the error that `fault` stands for; None if it is not an error."""
    if fault in ("429", "429_day"):  # the delay is short even for a spent day: a client has to check the quota id
        return over_quota(model, {PER_MINUTE: 60} if fault == "429" else {PER_DAY: 1000}, 7)
    return _Refused(*REFUSALS[fault]) if fault in REFUSALS else None


@dataclass(frozen=True)
class Ask:
    """What one request asks for. `picture` is its first inline image in base64, `size` that of the picture wanted."""

    step: Step
    store: bool | None
    picture: str
    size: str
    prompt_tokens: int


def read_ask(body: bytes) -> Ask:
    """Parse a request's body. Raises `_Refused` (400) if it is not a request, or asks for something unsupported."""
    try:
        request = json.loads(body)
        config = request.get("generationConfig") or {}
        schema = config.get("responseSchema") or config.get("responseJsonSchema") or {}
        known = [
            step
            for step, name in zip(TEXT, ("floor", "structure_kept"), strict=True)
            if name in schema.get("properties", {})
        ]
        drawn = "IMAGE" in config.get("responseModalities", ())
        parts = [part for content in request["contents"] for part in content["parts"]]
        pictures = [part["inlineData"]["data"] for part in parts if "inlineData" in part]
        tokens = sum(len(part.get("text", "")) for part in parts) // 4 + PICTURE_TOKENS * len(pictures)
        size = str(config.get("imageConfig", {}).get("imageSize", "1K"))
        store = bool(request["store"]) if "store" in request else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _Refused(400, f"Invalid JSON payload received: {error!r}") from error
    if schema and (drawn or not known):
        raise _Refused(400, "A schema needs a property floor or structure_kept, and no image output")
    if drawn and (size not in OUTPUT_TOKENS or not pictures):
        raise _Refused(400, f"A picture needs an inline picture to edit, and an imageSize of {list(OUTPUT_TOKENS)}")
    step: Step = "generate" if drawn else known[0] if known else "other"
    return Ask(step, store, pictures[0] if pictures else "", size, tokens)


def jpeg(picture: Image.Image) -> bytes:
    """Return the picture as JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def furnish(picture: str) -> bytes:
    """Return the picture (base64, either alphabet) as JPEG with a red sofa in its lower half. Raises `_Refused`."""
    try:
        with Image.open(io.BytesIO(base64.urlsafe_b64decode(picture))) as source:
            room = source.convert("RGB")
    except (OSError, ValueError, TypeError, Image.DecompressionBombError) as error:
        raise _Refused(400, "Unable to process input image.") from error
    sofa = (0.2 * room.width, 0.6 * room.height, 0.8 * room.width, 0.9 * room.height)
    ImageDraw.Draw(room).rectangle(sofa, fill=(178, 58, 72), outline="white", width=1 + room.width // 200)
    return jpeg(room)


def parts_of(ask: Ask, fault: Fault | None, thoughts: bool) -> list[Json]:
    """Return what the model says or draws; a picture is the last part."""
    if ask.step == "generate":
        data = furnish(ask.picture)
        if fault == "truncated_picture":  # cut among the pixels, so that the headers still read
            data = data[: (data.rfind(b"\xff\xda") + len(data)) // 2]
        drawn = [jpeg(Image.new("RGB", (64, 64), "gray"))] * thoughts + [data]
        parts: list[Json] = [
            {"inlineData": {"mimeType": "image/jpeg", "data": base64.b64encode(data).decode()}} for data in drawn
        ]
        if thoughts:
            parts[0]["thought"] = True
    else:
        said = {"analyse": ROOM.model_dump_json(), "verify": GOOD.model_dump_json()}.get(ask.step, "OK")
        bent = {"schema_mismatch": '{"floor": "oak", "structure_kept": "mostly"}', "low_quality": BAD.model_dump_json()}
        parts = [{"text": said[: len(said) // 2] if fault == "max_tokens" else bent.get(str(fault), said)}]
    if fault == "bad_base64":
        parts[-1] = {"inlineData": {"mimeType": "image/jpeg", "data": "%%%"}}
    return parts


def compose(ask: Ask, model: str, fault: Fault | None, thoughts: bool) -> bytes:
    """Return the body of a 200, with `fault` in it. Blocks while drawing; raises `_Refused` if it cannot draw."""
    if fault in ("malformed_json", "empty"):
        return b"<html>upstream" if fault == "malformed_json" else b"{}"
    answer: Json = {"modelVersion": model}
    tokens = 0
    reason = fault.upper() if fault in (*FINISH, "max_tokens") else "STOP"
    if fault == "blocked":
        answer["promptFeedback"] = {"blockReason": "PROHIBITED_CONTENT"}
    elif fault in FINISH or (fault == "max_tokens" and ask.step == "generate"):
        # The vendor sometimes leaves content out and sometimes sends it empty. Here the image reasons send it empty,
        # and the others leave it out, so that clients meet both.
        answer["candidates"] = [{"finishReason": reason, "index": 0} | ({"content": {}} if "IMAGE" in reason else {})]
    else:
        parts = parts_of(ask, fault, thoughts)
        tokens = OUTPUT_TOKENS[ask.size] if ask.step == "generate" else 1 + len(parts[0].get("text", "")) // 4
        answer["candidates"] = [{"content": {"role": "model", "parts": parts}, "finishReason": reason, "index": 0}]
    usage = {"promptTokenCount": ask.prompt_tokens, "totalTokenCount": ask.prompt_tokens + tokens}
    answer["usageMetadata"] = usage | ({"candidatesTokenCount": tokens} if tokens else {})
    return json.dumps(answer).encode()


@dataclass(frozen=True)
class Request:
    """One HTTP request; header names in lower case, the path decoded and without its query."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
    """Read one request. Raises `EOFError` if the client has gone, `_Refused` if it is not HTTP/1.1 or is too large."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        method, target, version = first.split(" ")
        headers = {name.strip().lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
        length = int(headers.get("content-length", "0"))
    except asyncio.LimitOverrunError as error:
        raise _Refused(431, f"Headers of more than {HEAD_BYTES} bytes") from error
    except ValueError as error:
        raise _Refused(400, f"Malformed request: {error}") from error
    if version != "HTTP/1.1":
        raise _Refused(505, "Only HTTP/1.1 is supported")
    if "transfer-encoding" in headers or (method == "POST" and "content-length" not in headers) or length < 0:
        raise _Refused(411, "A body needs its content-length")
    if length > BODY_BYTES:
        raise _Refused(413, f"A body of more than {BODY_BYTES} bytes")
    if headers.get("expect", "").lower() == "100-continue":  # curl, for any large body
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return Request(method, unquote(target.partition("?")[0]), headers, await reader.readexactly(length))


class GeminiServer:
    """The server, on loopback. `async with GeminiServer(plan) as base_url`, or `start` and `stop`, on one event loop.

    `now` is the clock of the quotas, in seconds. `calls` grows by one with every generateContent that arrives.
    """

    def __init__(self, plan: Plan, *, port: int = 0, now: Callable[[], float] = time.time) -> None:
        self.plan = plan
        self.calls: list[Call] = []
        self._port = port
        self._now = now
        self._random = random.Random(plan.seed)
        self._admitted: dict[str, list[float]] = {}  # by model: when, ascending
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Start listening. Returns the base URL. Raises `OSError` if the port is taken."""
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", self._port, limit=HEAD_BYTES, backlog=1024
        )
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Stop listening and drop every connection, hanging ones too."""
        if self._server is None:
            return
        self._server.close()
        while connections := tuple(self._connections):
            for connection in connections:
                connection.cancel()
            await asyncio.gather(*connections, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def __aenter__(self) -> str:
        return await self.start()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    def stats(self) -> Json:
        """Return all calls and answered calls. `groups` counts equal calls (`count`) by all fields of `Call` but `at`.

        `busiest`: by model, the maximum number of calls that arrived within any 60 s, refused ones included.
        """
        names = ("model", "step", "store", "fault", "status", "answered")
        groups = Counter(tuple(getattr(call, name) for name in names) for call in self.calls)
        answered = sum(call.answered for call in self.calls)
        rows = [dict(zip(names, group, strict=True)) | {"count": count} for group, count in groups.items()]
        return {"calls": len(self.calls), "answered": answered, "groups": rows, "busiest": self._busiest()}

    def _busiest(self) -> dict[str, int]:
        times: dict[str, list[float]] = {}
        for call in self.calls:
            times.setdefault(call.model, []).append(call.at)
        return {
            model: max(bisect_right(arrived, at) - bisect_right(arrived, at - 60) for at in arrived)
            for model, arrived in ((model, sorted(unsorted)) for model, unsorted in times.items())
        }

    def change(self, wanted: Json) -> None:
        """Change the plan as POST /plan asks, completely or not at all. Raises `ValueError` or `TypeError`."""
        if not set(wanted) <= {"per_minute", "per_day", "latency", "rates"}:
            raise ValueError("only per_minute, per_day, latency and rates can be changed")
        replace(self.plan, **wanted)  # only for its checks: the plan is changed in place, because others hold it too
        for name, value in wanted.items():
            setattr(self.plan, name, value)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Tasks of our own: Python 3.11 logs an error for each handler task of start_server that is cancelled.
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(0)  # so that drain() waits until the kernel has everything
        try:
            while await self._exchange(reader, writer):
                pass
        except (EOFError, ConnectionError):
            pass  # the client went away
        except asyncio.CancelledError:
            writer.transport.abort()  # closing would wait for a client that does not read
            raise
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Handle one request. Returns whether the connection stays open."""
        call: Call | None = None
        last, status = True, 200
        try:
            request = await read_request(reader, writer)
            last = request.headers.get("connection", "").lower() == "close"
            if request.method == "POST" and (match := GENERATE.fullmatch(request.path)):
                call = Call(match[1], self._now())
                self.calls.append(call)
                body = await self._generate(call, request)
            else:
                body = self._manage(request)
        except _Refused as refused:
            status, body = refused.code, refused.body
        if call and call.fault == "hang":
            await reader.read()  # until the client gives up or the server stops
            return False
        if call and call.fault == "reset":
            linger = struct.pack("ii", 1, 0)  # on, for 0 s: closing sends RST instead of FIN
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return False
        cut = call is not None and call.fault == "truncated_body"
        if call:
            call.status = status
        gone = reader.at_eof()
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\nConnection: {'close' if last else 'keep-alive'}\r\n\r\n"
        writer.write(head.encode() + (body[: len(body) // 2] if cut else body))
        await writer.drain()
        if call:
            call.answered = status == 200 and not cut and not gone
        while status in (413, 431) and await reader.read(HEAD_BYTES):
            pass  # closing with unread bytes would reset the connection, and the answer would be lost
        return not (last or cut or gone)

    def _manage(self, request: Request) -> bytes:
        if (request.method, request.path) == ("GET", "/stats"):
            return json.dumps(self.stats()).encode()
        if (request.method, request.path) != ("POST", "/plan"):
            raise _Refused(404, f"Nothing at {request.method} {request.path}")
        try:
            self.change(json.loads(request.body))
        except (ValueError, TypeError, AttributeError) as error:
            raise _Refused(400, str(error)) from error
        return b"{}"

    async def _generate(self, call: Call, request: Request) -> bytes:
        """Return the body of a 200, after the latency. Raises `_Refused`."""
        ask = read_ask(request.body)
        call.step, call.store = ask.step, ask.store
        self._admit(call, request.headers.get("x-goog-api-key"))
        seconds = self._meet(call)
        refused = refusal(call.fault, call.model)
        if refused and refused.code < 500:
            raise refused  # at once, before any work
        await asyncio.sleep(seconds)
        if refused:
            raise refused
        if call.fault in ("hang", "reset"):
            return b""
        # On a thread: a photo takes some 100 ms, and the other connections must not wait for it.
        return await asyncio.to_thread(compose, ask, call.model, call.fault, self.plan.thoughts)

    def _admit(self, call: Call, key: str | None) -> None:
        """Check key, model and quotas. Raises `_Refused`. A refused call does not count against the quotas."""
        if key == "forbidden":
            raise _Refused(*REFUSALS["403"])
        if key != self.plan.key:
            info = {"reason": "API_KEY_INVALID", "domain": "googleapis.com"}
            raise _Refused(400, "API key not valid. Please pass a valid API key.", ("ErrorInfo", info))
        if self.plan.models is not None and call.model not in self.plan.models:
            raise _Refused(*REFUSALS["404_model"])
        times = self._admitted.setdefault(call.model, [])
        over: dict[str, int] = {}
        retry_seconds = 7.0  # for the day too: see refusal()
        for quota_id, limits, window in ((PER_MINUTE, self.plan.per_minute, 60), (PER_DAY, self.plan.per_day, 86_400)):
            limit = (limits or {}).get(call.model, (limits or {}).get("*"))
            recent = times[bisect_right(times, call.at - window) :]
            if limit is not None and len(recent) >= limit:
                over[quota_id] = limit
                if quota_id == PER_MINUTE:
                    retry_seconds = recent[-limit] + window - call.at if limit else window
        if over:
            raise over_quota(call.model, over, retry_seconds)
        times.append(call.at)

    def _meet(self, call: Call) -> float:
        """Give the call its fault. Returns its latency in seconds.

        Raises `_Refused` (400) for a scripted fault that cannot happen at this step: no test must pass because of it.
        """
        plan = self.plan
        chance, jitter = self._random.random(), self._random.uniform(-plan.jitter, plan.jitter)
        if script := plan.step_script.get(call.step) or plan.script:
            call.fault = script.pop(0)
            if call.fault and call.step not in ONLY_AT.get(call.fault, STEPS):
                raise _Refused(400, f"The script says {call.fault}, which cannot happen at {call.step}")
        else:
            for fault, rate in plan.rates.items():
                if 0 <= chance < rate and call.step in ONLY_AT.get(fault, STEPS):
                    call.fault = fault
                chance -= rate
        mean = plan.latency.get(call.step, 0.0) if isinstance(plan.latency, dict) else plan.latency
        return mean * (1 + jitter)


async def serve(plan: Plan, port: int) -> None:
    """Print the base URL and serve until SIGINT or SIGTERM."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with GeminiServer(plan, port=port) as base_url:
        print(base_url, flush=True)
        await stopped.wait()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. A pair is NAME=VALUE; a value alone applies to every model."""
    parser = argparse.ArgumentParser(
        prog="python -m ops.local_stack.gemini_server", description="A local Gemini for tests."
    )
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one")
    parser.add_argument("--key", default="test-key", help="the API key to ask for")
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="mean latency of every step")
    for name, metavar in (("per-minute", "[MODEL=]CALLS"), ("per-day", "[MODEL=]CALLS"), ("fault", "KIND=RATE")):
        parser.add_argument(f"--{name}", action="append", default=[], metavar=metavar, help="may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="seed of faults and latency")
    given = parser.parse_args(arguments)

    def pairs(texts: list[str], kind: Callable[[str], float]) -> Json:
        split = [("*=" + text if "=" not in text else text).rsplit("=", 1) for text in texts]
        return {name: kind(value) for name, value in split}

    try:
        wanted: Json = {"per_minute": pairs(given.per_minute, int), "per_day": pairs(given.per_day, int)}
        wanted["rates"] = pairs(given.fault, float)
        plan = Plan(key=given.key, latency=given.latency, seed=given.seed, **wanted)
    except ValueError as error:
        parser.error(str(error))
    asyncio.run(serve(plan, given.port))


if __name__ == "__main__":
    main()
