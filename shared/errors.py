"""Whose fault an error is, and therefore whether to try again.

    RuumError
    |-- CustomerError           permanent: the manifest's or the image's own fault
    |   `-- ManifestRejected    the whole file, with every problem it has
    |-- CodedError              ends in an image's `error` field, with a code of `ErrorCode`
    |   |-- ImageRejected       permanent, and a CustomerError too: this image can never be staged as it is
    |   |   `-- AnswerRefused   the vendor's filter refused one answer: the next may pass
    |   `-- WorldError          transient: 5xx, time-out, lost connection; an attempt is spent
    |       `-- WrongShape      a generated picture has another shape than its photo: a generation is spent
    |-- Throttled               the vendor said 429: wait, no attempt is spent
    |-- ConfigurationError      ours: key, model id, bucket, permission; work waits, operators are alerted
    |   `-- DailyQuotaSpent     the vendor's day is used up: the same, until it resets
    |-- LostClaim               another worker holds the image now: this one changes nothing more
    |-- WorkStopped             the batch was paused or cancelled between two paid calls
    |-- HostBusy                a photo's host asked to wait: the image waits, and spends no attempt
    |-- ObjectTooLarge          an object has more bytes than its reader wants
    |-- ObjectDamaged           an object's compression is broken
    |-- PreconditionFailed      an object store refused a write: the object has moved on
    |-- Busy                    a batch cannot be replayed right now, and why
    |-- ComesAgain              not now, and nothing is wrong: the event that asked for it is delivered again
    |   |-- OutOfTime           ingest's time is nearly up; it goes on from the place it noted
    |   |-- StillClosing        another closer is at it, or the batch moved under every look
    |   `-- StillHeld           a living worker holds the image of a letter
    `-- Unusable                what others sent cannot be used; its reader says what that means
        |-- Unreadable          a message is not what its topic carries
        |-- BadSetting          an environment variable is no setting, or its value does not fit
        |-- BadSource           an address may not be named
        |-- SharedPage          a link leads to a page, and not to a photo
        |-- NotAnImageChange    an event is not about an image document of ours
        |-- UnreadableWorkbook  a spreadsheet cannot be read                       (manifest/spreadsheet.py)
        |-- Damaged             a file cannot hold a whole picture                 (staging/containers.py)
        |-- Exceeded            work in a subprocess needed more than it may       (untrusted/confined.py)
        |-- TooLarge            more bytes than allowed, as they inflate           (untrusted/inflate.py)
        `-- NotCompressed       bytes are not what their label says                (untrusted/inflate.py)

Anything else that is raised is a bug: it spends an attempt, for it may be this image's alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec

from shared.model import Refusal, Usage


class ErrorCode(StrEnum):
    """Every code that an image's error, a letter or a report can carry.

    The text behind each says what the reader of a report may do about it (docs/manifest.md repeats it).
    """

    SOURCE_NOT_FOUND = "source_not_found"  # 404 or 410, or no such file: correct the address
    SOURCE_FORBIDDEN = "source_forbidden"  # 401 or 403: make the photo readable, or sign its address
    SOURCE_NOT_ALLOWED = "source_not_allowed"  # an address we never read from: private network, other scheme
    SOURCE_TOO_LARGE = "source_too_large"  # more bytes than a photo may have
    NOT_A_PICTURE = "not_a_picture"  # not JPEG, PNG, WebP or HEIC, or damaged
    PICTURE_TOO_LARGE = "picture_too_large"  # more pixels than a photo may have
    PICTURE_TOO_SMALL = "picture_too_small"  # fewer pixels than staging needs
    REFUSED_BY_SAFETY = "refused_by_safety"  # the vendor's safety rules refused photo or result
    QUALITY_REJECTED = "quality_rejected"  # every generated picture failed verification
    SOURCE_UNAVAILABLE = "source_unavailable"  # 5xx, time-out or lost connection at the photo's host
    VENDOR_UNAVAILABLE = "vendor_unavailable"  # 5xx or lost connection at the model's vendor
    VENDOR_TIMEOUT = "vendor_timeout"  # no answer within the deadline
    VENDOR_BAD_ANSWER = "vendor_bad_answer"  # an answer that cannot be used: empty, malformed, truncated
    STORAGE_UNAVAILABLE = "storage_unavailable"  # our database, queue or bucket did not answer
    WORKER_CRASHED = "worker_crashed"  # workers died again and again while they held nothing but this image
    DELIVERIES_EXHAUSTED = "deliveries_exhausted"  # delivered too often without an outcome
    CONFIGURATION = "configuration"  # ours; never the final error of an image
    INTERNAL = "internal"  # a bug of ours


NEAREST: Final = "nearest: "  # begins what is allowed, where something known is like what was written


_PLURAL: Final = {"is": "are", "has": "have", "holds": "hold", "differs": "differ", "leaves": "leave"}


def _of_several(reason: str) -> str:
    """A reason, said of more than one value."""
    verb, _, rest = reason.partition(" ")
    if verb == "is" and re.match(r"(?:an?|no|not an?|neither|one) ", rest):  # "are no threshold" is no English
        return f"each {reason}"
    return f"{_PLURAL.get(verb, verb)} {rest}"


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing wrong with a manifest.

    `line` counts from 1 (JSON Lines, CSV, syntax errors), `pointer` is a JSON pointer (JSON); `value` is the offending
    value shortened; `allowed` says what would do.
    """

    reason: str
    line: int | None = None
    pointer: str | None = None
    field: str | None = None
    value: str | None = None
    allowed: str | None = None

    def __str__(self) -> str:
        return self.in_words()

    @property
    def place(self) -> str:
        """Where it is, in words; empty when it is the whole file's."""
        return f"line {self.line}" if self.line else self.pointer or ""

    def in_words(self, values: str | None = None, more: int = 0) -> str:
        """The sentence for it. `values` stand for several different values, `more` places have the same problem."""
        others = f" and {more:,} more" if more else ""
        place = f"{self.place}{others}: " if self.place else ""
        name = f"{self.field} " if self.field else ""
        value = values if values is not None else f"{self.value} " if self.value is not None else ""
        reason = self.reason if values is None else _of_several(self.reason)
        if self.allowed and self.allowed.startswith(NEAREST):
            return f"{place}{name}{value}{reason}. Did you mean {self.allowed.removeprefix(NEAREST)}?"
        allowed = f" (allowed: {self.allowed})" if self.allowed else ""
        return f"{place}{name}{value}{reason}{allowed}"


class RuumError(Exception):
    """The root: every error this product raises on purpose."""


class CustomerError(RuumError):
    """Permanent, and the customer's to correct."""


class ManifestRejected(CustomerError):
    """A manifest that cannot be accepted; `problems` holds every one that was found, in file order.

    `local_photos`: the file:// addresses it names all the same, so that those missing can be told at once.
    """

    def __init__(self, problems: Sequence[Problem], local_photos: Sequence[str] = ()) -> None:
        super().__init__(f"{len(problems)} problem(s) in the manifest")
        self.problems = tuple(problems)
        self.local_photos = tuple(local_photos)


class CodedError(RuumError):
    """An error that ends in an image's `error` field: a code for programs, a message for people.

    `usage` is what the vendor's call that ended so has used all the same: refusals are billed too.
    """

    usage: Usage | None = None

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        # Raised inside the picture subprocesses, so it must survive pickling.
        return (type(self), (self.code, self.message))


class ImageRejected(CodedError, CustomerError):
    """This image can never be staged as it is; no retry will help."""


class AnswerRefused(ImageRejected):
    """The vendor's filter refused one answer. It judges that answer and not the photo: the next may pass."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.REFUSED_BY_SAFETY, message)

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return (type(self), (self.message,))


class WorldError(CodedError):
    """The world's fault: worth another attempt after a pause."""


class WrongShape(WorldError):
    """A generated picture of another shape than its photo: a defect of the picture, which costs a generation."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.VENDOR_BAD_ANSWER, message)

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return (type(self), (self.message,))


class Throttled(RuumError):
    """The vendor asked us to slow down. `retry_after_seconds` is its wish, or None when it named none."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class HostBusy(RuumError):
    """A photo's host is to be left alone for a while: it asked for that, or it is not this photo's turn.

    `retry_after_seconds` is the host's wish, None when it named none. Waiting for it spends no attempt.
    """

    def __init__(self, host: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(f"{host} asks to slow down")
        self.host = host
        self.retry_after_seconds = retry_after_seconds


class ConfigurationError(RuumError):
    """Our configuration is at fault. It never fails an image: work waits, and operators are alerted."""


class DailyQuotaSpent(ConfigurationError):
    """The vendor's daily quota is used up; work waits until it resets: for `seconds`, as far as that is known."""

    def __init__(self, message: str, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.seconds = seconds


class LostClaim(RuumError):
    """The image's fence has moved on: another worker holds it, or it is settled."""


class WorkStopped(RuumError):
    """The batch's control no longer says run."""


class ObjectTooLarge(RuumError):
    """An object has more bytes, as they are when unpacked, than its reader wants."""


class ObjectDamaged(RuumError):
    """An object was stored compressed, by what is said of it, and cannot be unpacked."""


class PreconditionFailed(RuumError):
    """The object's generation is not the one the write was conditioned on."""


class Busy(RuumError):
    """The batch cannot be replayed right now; the text says why, `refusal` for programs."""

    def __init__(self, message: str, refusal: Refusal | None = None) -> None:
        super().__init__(message)
        self.refusal = refusal


class ComesAgain(RuumError):
    """Not now, and nothing is wrong: the caller raises, so that the event that asked for it is delivered again."""


class OutOfTime(ComesAgain):
    """The function's time is nearly up; the event comes again and ingest goes on from the place it noted."""


class StillClosing(ComesAgain):
    """The closing is in other hands, or the batch moved under every look: an event that asked for it comes again."""


class StillHeld(ComesAgain):
    """A living worker holds the image: the letter has to come again later."""


class Unusable(RuumError):
    """What others sent cannot be used. Whoever asked for it says what that means for the manifest, image or message."""


class Unreadable(Unusable):
    """A message whose body is not what its topic carries; the text says why."""


class BadSetting(Unusable):
    """An environment variable that is no setting, or whose value does not fit; the text says what is allowed."""


class BadSource(Unusable):
    """An address that may not be named. `allowed` says what may."""

    def __init__(self, reason: str, allowed: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.allowed = allowed


class SharedPage(Unusable):
    """The link leads to a page, and there is no address of the photo. `kind` says what it is, `instead` what to do."""

    def __init__(self, kind: str, instead: str) -> None:
        super().__init__(kind)
        self.kind = kind
        self.instead = instead


class NotAnImageChange(Unusable):
    """The event is not about an image document of ours; the text says why."""
