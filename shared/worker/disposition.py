"""What becomes of a delivery: the words a room answers its subscriber in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Final

import msgspec


class Action(StrEnum):
    """What the subscriber does with a delivery."""

    ACK = "ack"
    NACK = "nack"  # comes again after the queue's backoff
    LET_GO = "let_go"  # neither: its lease is extended once by `seconds` and then left to run out
    WAIT = "wait"  # keep it, hold no slot for it, and handle it again when what it waits for has come
    HALT = "halt"  # stop pulling for a while, keep it, and handle it again then: our configuration's fault


class Disposition(msgspec.Struct, frozen=True):
    """The action, for how long (LET_GO; HALT: at least), why, and whether that is a fault of ours to fix (HALT).

    `wait` returns when the delivery may be handled again (WAIT).
    """

    action: Action
    seconds: float = 0.0
    reason: str = ""
    fault: bool = True
    wait: Callable[[], Awaitable[None]] | None = None


ACK: Final = Disposition(Action.ACK)


NACK: Final = Disposition(Action.NACK)


LOST: Final = Disposition(Action.LET_GO)
