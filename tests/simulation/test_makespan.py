"""The numbers of the design: at most 1.03 times the vendor's own bound, no rolling minute above quota."""

from __future__ import annotations

import pytest

from tests.simulation.makespan import BESIDE, IMAGE_A_MINUTE, MOST_RATIO, TEXT_A_MINUTE, Figures, measure
from tests.simulation.vendor import IMAGE, TEXT

IMAGES = 600  # `python -m tests.simulation.makespan` prints the thousand's figures


def within_quota(found: Figures) -> bool:
    return found.busiest[IMAGE] <= IMAGE_A_MINUTE and found.busiest[TEXT] <= TEXT_A_MINUTE


@pytest.mark.parametrize("workers", [1, 4])
def test_makespan_is_near_the_bound(workers: int) -> None:
    found = measure(IMAGES, workers)
    # The bound leaves the first minute's quota unspent, which weighs in a short run: so the tighter one as well.
    assert found.ratio <= MOST_RATIO and found.tight_ratio <= MOST_RATIO
    assert within_quota(found)
    assert (found.throttled, found.failed, found.attempts) == (0, 0, 0)


def test_a_killed_worker_costs_little_time_and_no_image() -> None:
    found = measure(IMAGES, 4, kill_at=0.5)
    assert found.ratio <= MOST_RATIO
    assert within_quota(found)
    assert (found.throttled, found.failed, found.attempts) == (0, 0, 0)


def test_no_image_fails_while_the_vendor_lets_in_half() -> None:
    found = measure(BESIDE, halve_at=0.2)
    assert found.throttled > 0
    assert within_quota(found)
    assert (found.failed, found.attempts) == (0, 0)
    assert (
        found.ratio <= MOST_RATIO
    )  # throughput follows: what the vendor withholds is in the bound, finding out is not
