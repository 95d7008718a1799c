"""Whose fault an error is, and therefore whether to retry.

    RuumError
    |-- CustomerError           permanent: the manifest's or the image's own fault
    |   `-- ManifestRejected    the whole file, with every problem it has
    |-- CodedError              ends in an image's `error` field, with a code of `ErrorCode`
    |   |-- ImageRejected       permanent, and a CustomerError too: this image can never be staged as it is
    |   |   `-- AnswerRefused   the vendor's filter refused one answer: the next may pass
    |   `-- WorldError          transient: 5xx, time-out, lost connection; an attempt is spent
    |       `-- WrongShape      a generated picture has another shape than its photo: a generation is spent
    |-- Throttled               the vendor answered 429: wait, no attempt is spent
    |-- ConfigurationError      ours: key, model id, bucket, permission; work waits, operators are alerted
    |   `-- DailyQuotaSpent     the vendor's daily quota is used up: work waits until it resets
    |-- LostClaim               another worker holds the image now: this one changes nothing more
    |-- WorkStopped             the batch was paused or cancelled between two paid calls
    |-- HostBusy                a photo's host asked to wait: the image waits, and spends no attempt
    |-- ObjectTooLarge          an object has more bytes than its reader accepts
    |-- ObjectDamaged           an object's compression is broken
    |-- PreconditionFailed      an object store refused a write: the object has changed
    |-- Busy                    a batch cannot be replayed right now, and why
    |-- ComesAgain              not now, and nothing is wrong: the event that asked for it is redelivered
    |   |-- OutOfTime           ingest's time is nearly up; it continues from the place it recorded
    |   |-- StillClosing        another closer works on it, or the batch changed during every check
    |   `-- StillHeld           a living worker holds the image of a letter
    `-- Unusable                what others sent cannot be used; its reader decides what follows
        |-- Unreadable          a message is not what its topic carries
        |-- BadSetting          an environment variable is not a setting, or its value does not fit
        |-- BadSource           a manifest may not name this address
        |-- SharedPage          a link leads to a page, and not to a photo
        |-- NotAnImageChange    an event is not about an image document of ours
        |-- ReadingStopped      nothing more of a manifest is worth reading         (manifest/problems.py)
        |-- UnreadableWorkbook  a spreadsheet cannot be read                       (manifest/spreadsheet.py)
        |-- Damaged             a file cannot hold a whole picture                 (staging/containers.py)
        |-- Exceeded            work in a subprocess exceeded its limits           (untrusted/confined.py)
        |-- TooLarge            inflated to more bytes than allowed                (untrusted/inflate.py)
        `-- NotCompressed       bytes are not what their label says                (untrusted/inflate.py)

Any other exception is a bug. It spends an attempt, because it may concern only this image.
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

    The comment on each tells the reader of a report what to do about it; docs/manifest.md repeats it.
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


NEAREST: Final = "nearest: "  # prefix of `Problem.allowed` when it is a known value similar to the one written


_PLURAL: Final = {"is": "are", "has": "have", "contains": "contain", "differs": "differ", "leaves": "leave"}


def _of_several(reason: str) -> str:
    """Return the reason in the plural, for several values with the same problem."""
    verb, _, rest = reason.partition(" ")
    if verb == "is" and re.match(r"(?:an?|no|not an?|neither|one) ", rest):  # "are no threshold" is no English
        return f"each {reason}"
    return f"{_PLURAL.get(verb, verb)} {rest}"


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing wrong with a manifest.

    `line` counts from 1 (JSON Lines, CSV, syntax errors). `pointer` is a JSON pointer (JSON). `value` is the wrong
    value, shortened. `allowed` says what would be accepted.
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
        """Where it is, in words; empty if it concerns the whole file."""
        return f"line {self.line}" if self.line else self.pointer or ""

    def in_words(self, values: str | None = None, more: int = 0) -> str:
        """Return the problem as a sentence.

        `values` are several different values with the same problem, in place of the one. `more` is the number of
        further places that have it.
        """
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
    """Base of every error that this product raises on purpose."""


class CustomerError(RuumError):
    """Permanent: the customer has to correct something."""


class ManifestRejected(CustomerError):
    """A manifest that cannot be accepted. `problems` holds every problem found, in the order of the file.

    `local_photos` are the file:// addresses that it names, so that missing files can be reported at the same time.
    """

    def __init__(self, problems: Sequence[Problem], local_photos: Sequence[str] = ()) -> None:
        super().__init__(f"{len(problems)} problem(s) in the manifest")
        self.problems = tuple(problems)
        self.local_photos = tuple(local_photos)


class CodedError(RuumError):
    """An error that ends in an image's `error` field: a code for programs, a message for people.

    `usage` is what the failed call to the vendor used: refusals are billed too.
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
    """This image can never be staged as it is. No retry will help."""


class AnswerRefused(ImageRejected):
    """The vendor's filter refused one answer. It judges that answer and not the photo, so the next may pass."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.REFUSED_BY_SAFETY, message)

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return (type(self), (self.message,))


class WorldError(CodedError):
    """A transient failure outside of our code: worth another attempt after a pause."""


class WrongShape(WorldError):
    """A generated picture has another shape than its photo. The picture is at fault, so it costs a generation."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.VENDOR_BAD_ANSWER, message)

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return (type(self), (self.message,))


class Throttled(RuumError):
    """The vendor answered 429. `retry_after_seconds` is the wait it asked for; None if it named none."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class HostBusy(RuumError):
    """The host of a photo must not be asked now: it wants a pause, or it is another photo's turn.

    `retry_after_seconds` is the wait that the host asked for; None if it named none. Waiting spends no attempt.
    """

    def __init__(self, host: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(f"{host} asks to slow down")
        self.host = host
        self.retry_after_seconds = retry_after_seconds


class ConfigurationError(RuumError):
    """Our configuration is at fault. It never fails an image: work waits, and operators are alerted."""


class DailyQuotaSpent(ConfigurationError):
    """The vendor's daily quota is used up. Work waits until it resets.

    `seconds` is the time until then, as far as it is known; 0 if not.
    """

    def __init__(self, message: str, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.seconds = seconds


class LostClaim(RuumError):
    """The image's fence has changed: another worker holds the image, or it is settled."""


class WorkStopped(RuumError):
    """The batch was paused or is being cancelled."""


class ObjectTooLarge(RuumError):
    """An object has more bytes, unpacked, than its reader accepts."""


class ObjectDamaged(RuumError):
    """An object is labelled as compressed and cannot be unpacked."""


class PreconditionFailed(RuumError):
    """The object's generation is not the one that the write required."""


class Busy(RuumError):
    """The batch cannot be replayed right now. The text says why; `refusal` says it for programs."""

    def __init__(self, message: str, refusal: Refusal | None = None) -> None:
        super().__init__(message)
        self.refusal = refusal


class ComesAgain(RuumError):
    """Not now, although nothing is wrong. The caller raises it on, so that its event is redelivered."""


class OutOfTime(ComesAgain):
    """The function's time is nearly up.

    The event is redelivered, and ingest continues from the place it recorded.
    """


class StillClosing(ComesAgain):
    """Another closer works on the batch, or the batch changed during every closing check.

    The event is redelivered.
    """


class StillHeld(ComesAgain):
    """A living worker holds the image, so the letter has to be redelivered later."""


class Unusable(RuumError):
    """Something that others sent cannot be used.

    The caller decides what follows for the manifest, image or message.
    """


class Unreadable(Unusable):
    """The body of a message is not what its topic carries. The text says why."""


class BadSetting(Unusable):
    """An environment variable is not a setting, or its value does not fit. The text says what is allowed."""


class BadSource(Unusable):
    """A manifest may not name this address. `allowed` says which ones it may."""

    def __init__(self, reason: str, allowed: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.allowed = allowed


class SharedPage(Unusable):
    """The link leads to a page from which no photo's address follows.

    `kind` says what the page is, `instead` what the customer can do.
    """

    def __init__(self, kind: str, instead: str) -> None:
        super().__init__(kind)
        self.kind = kind
        self.instead = instead


class NotAnImageChange(Unusable):
    """The event is not about one of our image documents. The text says why."""
