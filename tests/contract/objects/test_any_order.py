"""The ObjectStore, used in any order: it is what a dictionary would be."""

from __future__ import annotations

import asyncio
import random

import pytest

from shared.errors import PreconditionFailed
from shared.ports import StoredObject
from tests.contract.backends import Backend
from tests.contract.objects.parts import BUCKET, put


@pytest.mark.parametrize("seed", range(3))
def test_a_random_walk_agrees_with_a_dictionary(backend: Backend, seed: int) -> None:
    async def case() -> None:
        chance, folder = random.Random(seed), backend.unique("walk") + "/"
        names = [folder + name for name in ("a", "a_", "a%", "b c", "d/e", "d/f", "d/é")]
        known: dict[str, tuple[StoredObject, bytes]] = {}
        newest = dict.fromkeys(names, 0)
        for _ in range(400 if backend.virtual else 100):
            objects, name = chance.choice([backend, backend.second]).objects, chance.choice(names)
            step = chance.choice(["put", "put", "if", "if", "delete", "get", "stat", "list"])
            if step in {"put", "if"}:
                data, metadata = chance.randbytes(chance.randrange(50)), {"m": str(chance.random())}
                condition = chance.choice([0, newest[name]]) if step == "if" else None
                there = known[name][0].generation if name in known else 0
                if condition is not None and condition != there:
                    with pytest.raises(PreconditionFailed):
                        await put(objects, name, data, metadata=metadata, if_generation=condition)
                    continue
                stored = await put(objects, name, data, metadata=metadata, if_generation=condition)
                assert stored.generation > newest[name]
                assert (stored.bytes, stored.metadata["m"]) == (len(data), metadata["m"])
                known[name], newest[name] = (stored, data), stored.generation
            elif step == "delete":
                await objects.delete(BUCKET, name)
                known.pop(name, None)
            elif step == "get":
                assert await objects.get(BUCKET, name) == known.get(name)
            elif step == "stat":
                assert await objects.stat(BUCKET, name) == (known[name][0] if name in known else None)
            else:
                prefix = name[: chance.randrange(len(folder), len(name) + 1)]
                expected = [known[each][0] for each in sorted(known) if each.startswith(prefix)]
                assert [stored async for stored in objects.list(BUCKET, prefix)] == expected

    backend.run(case)


def test_a_link_is_signed_by_the_service_account() -> None:
    """Without a network: a key made here signs; the emulator has no accounts."""
    import json

    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from google.cloud import storage  # type: ignore[attr-defined]
    from google.oauth2 import service_account

    from shared.adapters.google.objects import CloudObjects
    from shared.adapters.system_clock import SystemClock

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    info = {"client_email": "x@y.iam.gserviceaccount.com", "private_key": pem, "token_uri": "https://oauth2.example/t"}
    credentials = service_account.Credentials.from_service_account_info(json.loads(json.dumps(info)))
    objects = CloudObjects(storage.Client(project="p", credentials=credentials), SystemClock())
    link = asyncio.run(objects.link("results", "a b/c.jpg", 600))
    objects.close()
    assert link.startswith("https://storage.googleapis.com/results/a%20b/c.jpg?")
    assert "X-Goog-Expires=600" in link
    assert "X-Goog-Signature=" in link
