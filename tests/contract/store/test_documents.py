"""Documents in the store come back as they were written, whatever is in them."""

from __future__ import annotations

import asyncio
import random

import msgspec

from shared.decisions.quota import Circuit, Ledger, Slot, Waiter
from shared.model import (
    Batch,
    BatchState,
    Call,
    Checkpoint,
    Claim,
    Completion,
    Control,
    Counts,
    Failure,
    FailureThreshold,
    Image,
    ImageState,
    Lease,
    Refusal,
    ReplayPlan,
    ReportFile,
    Tally,
    Tier,
    Trials,
    Worker,
)
from shared.worker.cache import CacheEntry
from tests.contract.backends import Backend, Unsteady
from tests.contract.store.parts import OUTPUT, a_batch, an_image, bump, bump_record

# Enough for text to meet what a wire or a database treats as its own.
NASTY = [
    "",
    " padded ",
    "quotes ' \" ` \\ \\u0041 and %s {0} $1 ;--",
    "São Paulo, Ångström, cafe\u0301, 東京, עברית\u200f, \u00a0\u2028\ufeff",
    "🏠👩‍👩‍👧‍👦🇧🇷",
    "line\nfeed\r\ttab \x00 \x1f \x7f",
    "null",
    "{}",
    "a.b/c[0]*~",
    "é" * 2000,
]


def unset(document: msgspec.Struct) -> set[str]:
    """The fields that stand at their defaults: a case that claims to be full says so itself."""
    return {f.name for f in msgspec.structs.fields(document) if getattr(document, f.name) in (f.default, {}, ())}


def test_documents_survive_exactly(backend: Backend) -> None:
    def full_image(batch_id: str, index: int, text: str) -> Image:
        call = Call(step=text, model=text, input_tokens=2**40, output_tokens=0, cost_micro_usd=2**53 + 1, duration_ms=1)
        return Image(
            batch=batch_id,
            index=index,
            source=text,
            room_type=text,
            design_style=text,
            tier=Tier.ECONOMY,
            shard=index,
            property_code=text,
            state=ImageState.PROCESSING,
            round=3,
            revision=2**53 + 1,
            fence=7,
            attempts=1,
            crashes=2,
            claim=Claim(worker=text, at=1_772_442_000.1234567, alone=True, step=text),
            trials=Trials(deaths=3, step=text, in_a_row=2, passed=1),
            checkpoint=Checkpoint(analysis=text, picture=text, generations=2, defects=(text, "", text)),
            output=msgspec.structs.replace(OUTPUT, picture=text),
            error=Failure(code=text, message=text),
            calls=(call, call),
            durations_ms={"analyse": 1, "a.b": 2, "with `quote` / and ~": 3},
            prompts=text,
            model=text,
            replay=2,
            earlier_cost_micro_usd=2**53,
            cached=True,
            created_at=0.1 + 0.2,
            touched_at=1 / 3,
            moved_at=2 / 3,
            settled_at=1e-9,
        )

    async def case() -> None:
        batch_id, store = backend.unique("batch"), backend.store
        assert unset(full_image(batch_id, 1, "x")) == {"token"}
        images = [full_image(batch_id, index, text) for index, text in enumerate(NASTY)]
        bare = len(images)
        images.append(an_image(batch_id, bare, checkpoint=Checkpoint(), calls=(), settled_at=0.0, property_code=""))
        await store.create_images(images)
        assert [image async for image in store.images(batch_id)] == images
        for image in images:
            assert await store.image(batch_id, image.index) == image
            written = await store.change_image(batch_id, image.index, lambda i: bump(i), "token-é", image)
            assert written == msgspec.structs.replace(bump(image), token="token-é")
            assert await store.image(batch_id, image.index) == written
        # What was there can be taken away again.
        emptied = {"claim": None, "checkpoint": None, "error": None, "output": None, "calls": (), "durations_ms": {}}
        gone = await store.change_image(batch_id, 0, lambda i: msgspec.structs.replace(bump(i), **emptied), "token-2")
        assert isinstance(gone, Image) and (gone.claim, gone.calls, gone.durations_ms) == (None, (), {})
        assert await store.image(batch_id, 0) == gone

    backend.run(case)


def test_batches_tallies_and_workers_survive_exactly(backend: Backend) -> None:
    async def case() -> None:
        store, text = backend.store, NASTY[3] + NASTY[4]
        file = ReportFile(name=text, sha256="f" * 64, bytes=2**40)
        completion = Completion(
            outcome="completed",
            counts=Counts(completed=3),
            success_rate=1 / 3,
            cost_usd=0.1 + 0.2,
            duration_seconds=1e6 / 7,
            reports={"results.jsonl": file, "report.html": file},
        )
        full = a_batch(
            backend.unique("batch"),
            total=10_000,
            client_name=text,
            tier=Tier.EXPRESS,
            state=BatchState.CLOSED,
            control=Control.CANCELLING,
            control_epoch=3,
            round=2,
            revision=9,
            tasks_published=400,
            created_at=1_772_442_000.1234567,
            closing_at=0.0,
            closed_at=2.0,
            closer=Lease(holder=text, until=3.5),
            completion=completion,
            announced_round=1,
            problems=4,
            cache=False,
            threshold=FailureThreshold(count=3, percent=12.5, minimum_sample=7),
            baseline=Counts(queued=1, failed=2),
            paused_reason=text,
            republished_at=1.5,
            epoch_published=2,
            replay=ReplayPlan(
                lease=Lease(holder=text, until=1.0), number=3, codes=("internal", text), failed_before=1.5, drop=text
            ),
            replays=3,
            retried=("a", text),
            separator=";",
            controlled_by=text,
            controlled_at=4.5,
            cancel_reason=text,
            control_announced=text,
            progress_announced=9,
        )
        assert unset(full) == {"token"}
        assert await store.create_batch(full) == full
        assert await store.batch(full.id) == full
        emptied = await store.change_batch(
            full.id,
            lambda b: msgspec.structs.replace(b, revision=10, closer=None, completion=None, closing_at=None),
            "t",
        )
        assert isinstance(emptied, Batch)
        assert (emptied.closer, emptied.completion, emptied.closing_at) == (None, None, None)
        assert await store.batch(full.id) == emptied

        entries = {index: (index + 1, list(ImageState)[index % 5]) for index in range(0, 2500, 10)}
        tally = Tally(batch=full.id, shard=39, counts=Counts(queued=1, cancelled=249), entries=entries)
        await store.create_tallies([tally])
        assert await store.tally(full.id, 39) == tally

        worker = Worker(
            id=backend.unique("worker"), at=1.25, waited_seconds={"acme.spring/3": 0.1, "acme.spring/12": 1e3}
        )
        await store.beat(worker)
        assert await store.worker(worker.id) == worker

    backend.run(case)


def test_records_survive_exactly_in_order_of_key_and_kind_by_kind(backend: Backend) -> None:
    async def case() -> None:
        store, text, key = backend.store, NASTY[2] + NASTY[4], backend.unique("key")
        keys = [f"{key}.{name}" for name in ("a", "B", "a_b", "a-b", "10", "9", "gemini-3.5:lite", "é🏠")]
        full = Ledger(
            id=text,
            grants=((1_772_442_000.25, 1), (1_772_442_000.75, 60)),
            slots=(Slot(id=text, until=1.5), Slot(id="b", until=0.0)),
            waiters={"worker-1/express": Waiter(count=2, until=3.5), "a.b `c`~": Waiter(count=1, until=0.1 + 0.2)},
            served={"express": 1 / 6, "normal": 1e9 / 7},
            virtual=1 / 3,
            epoch=2**40,
            rate=0.5,
            circuit=Circuit.HALF_OPEN,
            probe=text,
            closed_at=1.25,
        )
        made = {}
        for number, name in enumerate(sorted(keys, reverse=True)):  # so that only the key gives their order
            token = f"{key}-{number}"
            made[name] = await store.change_record(Ledger, name, lambda known, now: full, token)
            assert made[name] == msgspec.structs.replace(full, token=token)
            assert await store.record(Ledger, name) == made[name]
        entry = CacheEntry(key=keys[0], client=text, picture=text, expires_at=1.25, led_by=text)
        await store.change_record(CacheEntry, keys[0], lambda known, now: entry, "token-c")
        assert await store.record(CacheEntry, keys[0]) == msgspec.structs.replace(entry, token="token-c")
        assert await store.record(CacheEntry, keys[1]) is None
        ours = [ledger for ledger in await store.records(Ledger) if ledger.token.startswith(f"{key}-")]
        assert ours == [made[name] for name in sorted(keys)]
        assert [e.token for e in await store.records(CacheEntry) if e.key.startswith(key)] == ["token-c"]
        # What was there can be taken away again.
        bare = await store.change_record(Ledger, keys[0], lambda known, now: Ledger(id="bare"), "token-d")
        assert await store.record(Ledger, keys[0]) == bare == Ledger(id="bare", token="token-d")

    backend.run(case)


def test_a_record_is_made_by_its_first_change_at_the_servers_time(backend: Backend) -> None:
    async def case() -> None:
        store, key, chance = backend.store, backend.unique("key"), random.Random(12)
        asked: list[tuple[Ledger | None, float]] = []

        def refuse(known: Ledger | None, now: float) -> Refusal:
            asked.append((known, now))
            return Refusal.BUSY

        assert await store.change_record(Ledger, key, refuse, "token-1") is Refusal.BUSY
        assert await store.record(Ledger, key) is None
        assert asked[0][0] is None
        assert abs(asked[0][1] - backend.clock.now()) <= backend.slack_seconds

        def count(known: Ledger | None, now: float) -> Ledger:
            return bump_record(known or Ledger(id=key))

        async def task(number: int) -> Ledger | Refusal:
            steady = Unsteady((backend, backend.second)[number % 2].store, backend.clock, chance)
            return await steady.change_record(Ledger, key, count, backend.clock.token())

        answers = await asyncio.gather(*(task(number) for number in range(30)))
        assert sorted(a.failures for a in answers if isinstance(a, Ledger)) == list(range(1, 31))
        await backend.advance(1)
        assert await store.change_record(Ledger, key, refuse, "token-1") is Refusal.BUSY
        known, now = asked[-1]
        assert known is not None and known.failures == 30
        assert 1 - backend.slack_seconds <= now - asked[0][1]

    backend.run(case)


def test_a_heartbeat_overwrites_the_one_before(backend: Backend) -> None:
    async def case() -> None:
        name, store = backend.unique("worker"), backend.store
        assert await store.worker(name) is None
        beats = [
            Worker(id=name, at=1.0, waited_seconds={"acme.a/1": 2.0, "acme.a/2": 1.0}),
            Worker(id=name, at=6.0, waited_seconds={"acme.a/2": 6.0}),
            Worker(id=name, at=11.0, stopped=True),
            Worker(id=name, at=16.0),
        ]
        for beat in beats:
            await store.beat(beat)
            assert await store.worker(name) == beat
            assert await backend.second.store.worker(name) == beat

    backend.run(case)
