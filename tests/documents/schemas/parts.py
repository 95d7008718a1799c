"""The published schemas, what fits them, and a day of the rooms with all that they sent."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from shared import decisions
from shared.errors import ErrorCode
from shared.messages import ImageChanged, decode
from shared.model import Batch, Call, Claim, Control, Failure, ImageState, Output, Tier
from shared.settings import Limit
from shared.worker.quota import QuotaEvents, SharedQuota
from tests.clocks import run_virtual
from tests.harness.world import World

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
FILES = {path.name.removesuffix(".schema.json"): path for path in sorted((DOCS / "schemas").iterdir())}
ASYNCAPI: dict[str, Any] = json.loads((DOCS / "asyncapi.json").read_text("utf-8"))
FORMATS = jsonschema.FormatChecker(formats=())
FUZZ = hypothesis_settings(
    max_examples=150, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


@FORMATS.checks("date-time", raises=ValueError)
def is_time(text: object) -> bool:
    """RFC 3339 in UTC: a date and an offset, which `fromisoformat` alone would not ask for."""
    return isinstance(text, str) and "T" in text and datetime.fromisoformat(text).utcoffset() == timedelta(0)


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILES[name].read_text("utf-8"))
    return found


def closed(found: Any) -> Any:
    """The schema with no field outside it, at any depth."""
    if isinstance(found, list):
        return [closed(one) for one in found]
    if not isinstance(found, dict):
        return found
    inner = {key: closed(value) for key, value in found.items()}
    return {"additionalProperties": False, **inner} if "properties" in found and found.get("type") else inner


def check(document: Any, against: dict[str, Any]) -> None:
    """It validates, and has no field outside."""
    validator = jsonschema.Draft202012Validator(closed(against), format_checker=FORMATS)
    errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]
    assert not errors, (errors, document)


def manifest_of(name: str, count: int, **header: Any) -> bytes:
    images = [{"url": f"https://example.com/{index}.jpg", "propertyCode": f"APT {index}"} for index in range(count)]
    fields = {"clientName": "Acme", "batchId": name, "designStyle": "modern", "roomType": "living_room", "cache": False}
    return json.dumps({**fields, **header, "images": images}).encode()


def a_batch(**changes: Any) -> Batch:
    async def make(clock: Any) -> Batch:
        return await World(clock).batch(**changes)

    return run_virtual(make)


class Told(msgspec.Struct):
    """What a day in a world sent and left behind."""

    events: list[dict[str, Any]] = []
    statuses: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    bodies: list[bytes] = []


async def folded(world: World) -> None:
    """Every change so far, given to AGGREGATE."""
    for delivery in await world.changes():
        await world.rooms.aggregate.handle(decode(ImageChanged, delivery.data))
        await asyncio.sleep(world.settings.worker.progress_seconds)


async def settled(world: World, batch: str, index: int, state: ImageState) -> None:
    claim = Claim(worker="w", at=world.clock.now())
    await world.change_image(index, batch, state=ImageState.PROCESSING, claim=claim, fence=1)
    folder = f"results/acme/{batch.partition('.')[2]}/"
    output = Output(
        picture=f"{folder}images/{index}.jpg", thumbnail="t", before="b", sha256=f"{index:064x}", width=4, height=3
    )
    more: dict[str, Any] = {
        ImageState.COMPLETED: {"output": output, "prompts": "v1", "durations_ms": {"generate": 1500}},
        ImageState.FAILED: {"error": Failure(code=ErrorCode.NOT_A_PICTURE.value, message="a page"), "attempts": 1},
    }.get(state, {})
    calls = (Call(step="generate", model="m", cost_micro_usd=50_400),)
    await world.change_image(
        index, batch, state=state, claim=None, calls=calls, settled_at=world.clock.now(), cached=index % 2 == 0, **more
    )


async def a_day(world: World, told: Told) -> None:
    """Every kind of event, and what else customers read, from the rooms themselves."""

    async def look() -> None:
        told.events += await world.events()
        for name, (_, content, _) in (await world.kept("results", "results/")).items():
            if name.endswith("status.json"):
                told.statuses.append(json.loads(content))

    async def dropped(name: str, content: bytes) -> Batch:
        await world.objects.put("intake", f"manifests/acme/{name}", content, content_type="application/json")
        batch = await world.rooms.ingest.handle("intake", f"manifests/acme/{name}")
        assert batch is not None
        await look()
        return batch

    # Rejected: few problems, more than an event tells, another client's folder, a batch id used before.
    await dropped("bad.json", manifest_of("bad", 1, clientName=3))
    await dropped("worse.json", manifest_of("worse", 30).replace(b"https:", b"http:"))
    await dropped("other.json", manifest_of("other", 1, clientName="Somebody else"))
    await dropped("empty.csv", b"")
    # Worked through with failures, and paused by its failure threshold on the way.
    mixed = (await dropped("mixed.json", manifest_of("mixed", 10, priority="express", failureThreshold=2))).id
    await dropped("again.json", manifest_of("mixed", 9))
    for index in range(10):
        await settled(world, mixed, index, ImageState.FAILED if index in (2, 5) else ImageState.COMPLETED)
        await folded(world)
        await look()
        if index == 7:
            assert (await world.the_batch(mixed)).control is Control.PAUSED
            await world.rooms.operator.resume(mixed)
    # Paused by hand, resumed, cancelled.
    stopped = (await dropped("stopped.json", manifest_of("stopped", 3))).id
    await settled(world, stopped, 0, ImageState.COMPLETED)
    await folded(world)
    await world.rooms.operator.pause(stopped, "tea")
    await look()
    await world.rooms.operator.resume(stopped)
    await world.rooms.operator.cancel(stopped)
    await folded(world)
    await look()
    # A vendor's quota: a 429, a failing vendor, and a day that is used up.
    events = QuotaEvents(world.queue, world.clock, world.settings.limits)
    quota = SharedQuota(world.store, world.clock, {"model": Limit(per_minute=60)}, "w", events.tell)
    grants = [await quota.reserve("model", Tier.NORMAL) for _ in range(decisions.quota.FAILURES_TO_OPEN + 2)]
    await quota.throttled("model", grants.pop(), None)
    for grant in grants[:-1]:
        await quota.failed("model", grant)
    await quota.day_spent("model", grants[-1])
    while telling := list(quota._telling):
        await asyncio.gather(*telling)
    quota.close()
    await look()
    for name, (_, content, _) in (await world.kept("results", "results/")).items():
        if name.endswith("results.jsonl"):
            told.bodies.append(content)
            told.lines += [json.loads(line) for line in content.splitlines()]


@cache
def day() -> Told:
    told = Told()
    run_virtual(lambda clock: a_day(World(clock), told))
    return told


def sent() -> list[dict[str, Any]]:
    return day().events
