"""What becomes of a delivery: a room returns one of these to its subscriber."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Final

import msgspec


class Action(StrEnum):
    """What the subscriber does with a delivery."""

    ACK = "ack"
    NACK = "nack"  # the queue redelivers it after its backoff
    LET_GO = "let_go"  # neither: extend its lease once by `seconds`, then let it run out
    WAIT = "wait"  # keep it without a slot, and handle it again once `Disposition.wait` has returned
    HALT = "halt"  # a fault in our configuration: stop pulling, keep the delivery, and handle it again later


class Disposition(msgspec.Struct, frozen=True):
    """An action with its details.

    `seconds` is how long a LET_GO extends the lease, or how long a HALT lasts at least. `reason` is for the log.
    `fault` says whether a HALT is a fault of ours that someone has to fix, or only a spent quota. `wait` (for WAIT)
    returns when the delivery may be handled again.
    """

    action: Action
    seconds: float = 0.0
    reason: str = ""
    fault: bool = True
    wait: Callable[[], Awaitable[None]] | None = None


ACK: Final = Disposition(Action.ACK)


NACK: Final = Disposition(Action.NACK)


LOST: Final = Disposition(Action.LET_GO)
