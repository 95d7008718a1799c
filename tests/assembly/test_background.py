"""The doors' event loop: parts made once, made again when that failed, our own faults told to operators."""

from __future__ import annotations

import pytest

from shared.assembly.background import Background
from shared.errors import ConfigurationError


def test_parts_are_made_once_and_made_again_after_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    made: list[int] = []

    async def make() -> int:
        made.append(len(made))
        if len(made) == 1:
            raise ConfigurationError("no project: set GOOGLE_CLOUD_PROJECT")
        return made[-1]

    async def work(parts: int) -> int:
        return parts

    background = Background(make)
    with pytest.raises(ConfigurationError):
        background.run(work)
    (told,) = [record.__dict__["fields"] for record in caplog.records]
    assert told == {"event": "configuration_fault", "reason": "no project: set GOOGLE_CLOUD_PROJECT"}
    assert [background.run(work) for _ in range(3)] == [1, 1, 1]


def test_what_the_work_may_not_do_is_told_and_raised(caplog: pytest.LogCaptureFixture) -> None:
    async def make() -> None:
        return None

    async def work(_: None) -> None:
        raise ConfigurationError("images: Forbidden")

    with pytest.raises(ConfigurationError):
        Background(make).run(work)
    assert [record.__dict__["fields"]["reason"] for record in caplog.records] == ["images: Forbidden"]
