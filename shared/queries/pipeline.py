"""The pipeline that questions are asked of: its backend, settings and clock."""

from __future__ import annotations

import msgspec

from shared.ports import Backend, Clock
from shared.settings import Settings


class Pipeline(msgspec.Struct, frozen=True):
    """What every question needs."""

    backend: Backend
    settings: Settings
    clock: Clock
