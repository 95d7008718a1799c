"""The numbers of the design: at most 1.03 times the vendor's own bound, no rolling minute above quota."""

from __future__ import annotations

import pytest

from tests.simulation.makespan import IMAGE_A_MINUTE, TEXT_A_MINUTE, measure
from tests.simulation.vendor import IMAGE, TEXT

IMAGES = 200  # `python -m tests.simulation.makespan` prints the thousand's figures


@pytest.mark.parametrize("workers", [1, 4])
def test_makespan_is_near_the_bound(workers: int) -> None:
    found = measure(IMAGES, workers)
    # A minute's margin of a second weighs more in a short run: 1.03 holds from a thousand images on.
    assert found.ratio <= 1.03 + 2.0 / found.bound_seconds
    assert found.busiest[IMAGE] <= IMAGE_A_MINUTE and found.busiest[TEXT] <= TEXT_A_MINUTE
    assert (found.throttled, found.failed, found.attempts) == (0, 0, 0)


def test_a_killed_worker_costs_little_time_and_no_image() -> None:
    found = measure(IMAGES, 4, kill_at=80.0)
    assert found.failed == 0 and found.throttled == 0
    assert found.ratio <= 1.5


def test_no_image_fails_while_the_vendor_lets_in_half() -> None:
    found = measure(IMAGES, halve_at=60.0)
    assert found.throttled > 0
    assert found.failed == 0 and found.attempts == 0
