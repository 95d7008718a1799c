"""The log as a test reads it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from shared import telemetry
from tests.vocabulary.telemetry.parts import PROJECT, Said


@pytest.fixture
def said() -> Iterator[Said]:
    """The log as a door configures it, into memory; put back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in logging.root.manager.loggerDict}
    found = Said()
    telemetry.configure({"GOOGLE_CLOUD_PROJECT": PROJECT}, found.stream)
    yield found
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in logging.root.manager.loggerDict:
        logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))
