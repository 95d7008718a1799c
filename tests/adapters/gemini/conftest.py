"""One server and one adapter for each module of tests."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from ops.local_stack.gemini_server import Plan
from tests.adapters.gemini.parts import KEY, Rig


@pytest.fixture(scope="module")
def shared_rig() -> Iterator[Rig]:
    with asyncio.Runner() as runner:
        rig = Rig(runner)
        yield rig
        rig.close()


@pytest.fixture
def rig(shared_rig: Rig) -> Rig:
    shared_rig.server.plan = Plan(key=KEY)
    shared_rig.server._admitted.clear()
    shared_rig.server._random = random.Random(0)  # whatever tests came before
    return shared_rig
