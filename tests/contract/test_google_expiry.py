"""What Firestore's own TTL deletes, and when: the emulator stores the date and deletes nothing."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

import msgspec
import pytest

from ops.local_stack.stack import PROJECT
from shared import decisions
from shared.adapters.google import clients
from shared.adapters.google.store import BATCH_OUTLIVES_SECONDS, FirestoreStore, image_id
from shared.adapters.system_clock import SystemClock
from shared.model import Image, Reconciled
from tests.contract.google import _started, google, missing
from tests.contract.store.parts import a_batch, a_tally, an_image, bump_batch, bump_tally

KEPT = 90 * 86_400.0


class Standing(SystemClock):
    """Its time stands still, so that each date is known exactly."""

    def now(self) -> float:
        return 1_800_000_000.0


def test_a_batch_and_what_belongs_to_it_expire_by_their_creation_whatever_is_written_later() -> None:
    if (why := missing()) is not None and os.environ.get("CI") != "true":
        pytest.skip(f"not run: {why}")
    with google("google") as backend:
        batch_id = backend.unique("batch")

        async def case() -> None:
            clock = Standing()
            firestore = clients.firestore_client(PROJECT, "(default)", _started())
            store = FirestoreStore(firestore, clock, KEPT)
            ref = firestore.collection("batches").document(batch_id)

            async def dates() -> list[datetime | None]:
                refs = [ref, ref.collection("images").document(image_id(0)), ref.collection("tallies").document("0")]
                found: list[dict[str, Any]] = [(await each.get()).to_dict() or {} for each in refs]
                return [fields.get("expireTime") for fields in found]

            await store.create_batch(a_batch(batch_id))
            await store.create_images([an_image(batch_id)])
            await store.create_tallies([a_tally(batch_id)])
            expires_at = clock.now() + KEPT
            wanted = [expires_at + BATCH_OUTLIVES_SECONDS, expires_at, expires_at]
            assert [date.timestamp() for date in await dates() if date is not None] == wanted

            # Much later, by a process that remembers the image and by one that does not; and one with other settings.
            late = FirestoreStore(firestore, SystemClock(), 2 * KEPT)
            take = lambda image: decisions.image.claim(image, task_round=1, worker="w", now=1.0, holder=None)
            claimed = await late.change_image(batch_id, 0, take, "t1")
            assert isinstance(claimed, Image)
            let_go = lambda image: decisions.image.release(image, fence=1, calls=(), now=2.0)
            assert isinstance(await late.change_image(batch_id, 0, let_go, "t2", seen=claimed), Image)
            await late.change_batch(batch_id, bump_batch, "t3")
            await late.change_tally(batch_id, 0, bump_tally, "t4")
            await late.create_images([an_image(batch_id)])
            await late.create_tallies([a_tally(batch_id)])
            assert [date.timestamp() for date in await dates() if date is not None] == wanted
            read = await store.image(batch_id, 0)
            assert read is not None and msgspec.structs.replace(read, token="") == msgspec.structs.replace(
                decisions.image.release(claimed, fence=1, calls=(), now=2.0),
                token="",  # type: ignore[type-var]
            )

            # What an earlier version wrote has no date, and gets none.
            for each in (ref, ref.collection("images").document(image_id(0))):
                fields = (await each.get()).to_dict() or {}
                del fields["expireTime"]
                await each.set(fields)
            await late.change_batch(batch_id, bump_batch, "t5")
            await late.change_image(batch_id, 0, take, "t6")
            assert (await dates())[:2] == [None, None]

            note = Reconciled(at=1.0, expires_at=expires_at)
            await store.change_record(Reconciled, batch_id, lambda known, now: note, "t7")
            kept = (await firestore.collection("reconciled").document(batch_id).get()).to_dict() or {}
            assert kept["expireTime"].timestamp() == expires_at
            firestore.close()

        backend.run(case)
