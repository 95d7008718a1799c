"""When a batch is paused for its failures: by number or by share, of what failed since it was last resumed or replayed."""

from __future__ import annotations

import io
import json

import pytest

from shared.decisions.batch import pause, threshold_passed
from shared.errors import BadSetting, ManifestRejected
from shared.manifest.reader import read
from shared.manifest.sources import SourceRules
from shared.model import Batch, Control, Counts, FailureThreshold, Refusal
from shared.settings import ManifestLimits, Settings, from_environment
from tests import builders

SAMPLE = 20
NONE = Counts()


@pytest.mark.parametrize(
    ("threshold", "failed", "completed", "passed"),
    [
        (FailureThreshold(), 100, 0, False),
        (FailureThreshold(count=1), 0, 100, False),
        (FailureThreshold(count=1), 1, 0, True),
        (FailureThreshold(count=5), 4, 100, False),
        (FailureThreshold(count=5), 5, 100, True),
        (FailureThreshold(percent=50.0), 19, 0, False),  # too small a sample says nothing
        (FailureThreshold(percent=50.0), 20, 0, True),
        (FailureThreshold(percent=50.0), 10, 10, True),
        (FailureThreshold(percent=50.0), 9, 11, False),
        (FailureThreshold(percent=50.0), 49, 51, False),
        (FailureThreshold(percent=0.5), 1, 199, True),
        (FailureThreshold(percent=0.5), 1, 200, False),
        (FailureThreshold(percent=100.0), 99, 1, False),
        (FailureThreshold(percent=100.0), 100, 0, True),
        (FailureThreshold(percent=20.0, minimum_sample=50), 40, 9, False),
        (FailureThreshold(percent=20.0, minimum_sample=50), 10, 40, True),
        (FailureThreshold(percent=20.0, minimum_sample=1), 1, 0, True),
        (FailureThreshold(count=3, percent=100.0), 3, 50, True),
    ],
)
def test_the_rule(threshold: FailureThreshold, failed: int, completed: int, passed: bool) -> None:
    assert threshold_passed(threshold, SAMPLE, NONE, Counts(failed=failed, completed=completed)) is passed
    # What was there before the baseline counts neither as failed nor as settled.
    baseline = Counts(failed=30, completed=7, cancelled=2)
    counts = baseline + Counts(failed=failed, completed=completed)
    assert threshold_passed(threshold, SAMPLE, baseline, counts) is passed


def test_cancelled_images_are_settled_and_no_failures() -> None:
    assert not threshold_passed(FailureThreshold(percent=50.0), SAMPLE, NONE, Counts(failed=10, cancelled=11))


def test_while_a_replay_requeues_there_are_fewer_failures_than_before() -> None:
    """The baseline is from before: nothing is passed by numbers that shrink."""
    baseline = Counts(failed=60, completed=40)
    assert not threshold_passed(FailureThreshold(percent=1.0), SAMPLE, baseline, Counts(failed=59, completed=40))
    assert not threshold_passed(FailureThreshold(count=1), SAMPLE, baseline, Counts(failed=59, completed=41))


def of_manifest(value: object) -> FailureThreshold | None:
    document = {"clientName": "acme", "roomType": "den", "designStyle": "boho", "failureThreshold": value,
                "images": [{"url": "https://example.com/1.jpg"}]}  # fmt: skip
    stream = io.BytesIO(json.dumps(document).encode())
    return read(stream, "a.json", ManifestLimits(), SourceRules(base="gs://b/")).threshold


@pytest.mark.parametrize(
    ("value", "threshold"),
    [
        (None, None),
        ("", None),
        (50, FailureThreshold(count=50)),
        (50.0, FailureThreshold(count=50)),
        ("50", FailureThreshold(count=50)),
        ("20%", FailureThreshold(percent=20.0)),
        ("20 %", FailureThreshold(percent=20.0)),
        ("7,5%", FailureThreshold(percent=7.5)),
        ("100%", FailureThreshold(percent=100.0)),
        ("20% of 50", FailureThreshold(percent=20.0, minimum_sample=50)),
        ("20% de 50", FailureThreshold(percent=20.0, minimum_sample=50)),
        ("20 %  of  1", FailureThreshold(percent=20.0, minimum_sample=1)),
    ],
)
def test_in_a_manifest(value: object, threshold: FailureThreshold | None) -> None:
    assert of_manifest(value) == threshold


@pytest.mark.parametrize(
    "value",
    [0, -1, 1.5, True, [], {}, "0", "0%", "101%", "-5%", "half", "20% of", "20% of 0", "20% of x", "20 of 50", "% of 5",
     "9999999", "20%%", "1e3"],
)  # fmt: skip
def test_what_is_no_threshold_is_said(value: object) -> None:
    with pytest.raises(ManifestRejected) as rejected:
        of_manifest(value)
    (problem,) = rejected.value.problems
    assert problem.field == "failureThreshold"
    assert "20% of 50" in str(problem)


def test_the_settings() -> None:
    rules = from_environment({
        "RUUM_THRESHOLD_COUNT": "7", "RUUM_THRESHOLD_PERCENT": "0", "RUUM_THRESHOLD_MINIMUM_SAMPLE": "3",
    }).threshold  # fmt: skip
    assert (rules.count, rules.percent, rules.minimum_sample) == (7, 0.0, 3)
    assert (Settings().threshold.count, Settings().threshold.percent) == (0, 50.0)
    with pytest.raises(BadSetting, match="THRESHOLD_COUNT"):
        from_environment({"RUUM_THRESHOLD_COUNT": "-1"})


def test_numbers_from_before_a_resume_or_a_replay_pause_nothing() -> None:
    """Counts are read, then the batch is resumed, then the pause is written: it would stop what was just started."""
    batch = builders.a_batch()
    import msgspec

    assert isinstance(pause(batch, reason="x", seen=batch), Batch)
    for field in ("control_epoch", "replays"):
        later = msgspec.structs.replace(batch, **{field: 1})
        assert pause(later, reason="x", seen=batch) is Refusal.STALE_REVISION
        assert isinstance(pause(later, reason="x"), Batch), "an operator's pause is of now"
    assert pause(msgspec.structs.replace(batch, control=Control.PAUSED), reason="x", seen=batch) is Refusal.UNCHANGED
