"""A pipeline that can be asked: its backend, its settings and its clock."""

from __future__ import annotations

import msgspec

from shared.ports import Backend, Clock
from shared.settings import Settings


class Pipeline(msgspec.Struct, frozen=True):
    """Where questions go to."""

    backend: Backend
    settings: Settings
    clock: Clock
