"""The numbers of the design: at most 1.03 times the vendor's own bound, no rolling minute above quota."""

from __future__ import annotations

import pytest

from tests.simulation.makespan import BESIDE, IMAGE_A_MINUTE, MAX_RATIO, TEXT_A_MINUTE, Figures, measure
from tests.simulation.vendor import IMAGE, TEXT

IMAGES = 600  # `python -m tests.simulation.makespan` prints the thousand's figures


def within_quota(found: Figures) -> bool:
    return found.busiest[IMAGE] <= IMAGE_A_MINUTE and found.busiest[TEXT] <= TEXT_A_MINUTE


@pytest.mark.parametrize("workers", [1, 4])
def test_makespan_is_near_the_bound(workers: int) -> None:
    found = measure(IMAGES, workers)
    # The bound leaves the first minute's quota unspent, which weighs in a short run: so the tighter one as well.
    assert found.ratio <= MAX_RATIO and found.tight_ratio <= MAX_RATIO
    assert within_quota(found)
    assert (found.throttled, found.failed, found.attempts, found.bought_again) == (0, 0, 0, 0)


@pytest.mark.parametrize(("kill_at", "seed"), [(0.2, "makespan"), (0.5, "c"), (0.8, "b")])
def test_a_killed_worker_costs_little_time_and_no_image(kill_at: float, seed: str) -> None:
    found = measure(IMAGES, 4, kill_at=kill_at, seed=seed)
    assert found.ratio <= MAX_RATIO
    assert found.bought_again <= 30, "what was in its hands, at most: its 25 images and what came in between"
    assert within_quota(found)
    assert (found.throttled, found.failed, found.attempts) == (0, 0, 0)


@pytest.mark.parametrize(("halve_at", "seed"), [(0.2, "b"), (0.4, "makespan"), (0.6, "c")])
def test_no_image_fails_while_the_vendor_lets_in_half(halve_at: float, seed: str) -> None:
    """Throughput follows: what the vendor withholds is in the bound, finding out is not."""
    found = measure(BESIDE, halve_at=halve_at, seed=seed)
    assert found.throttled > 0
    assert within_quota(found), "not even while it finds out does it ask more often than it may"
    assert (found.failed, found.attempts) == (0, 0)
    assert found.ratio <= MAX_RATIO


def test_operations_an_image_stay_the_same() -> None:
    """`python -m tests.simulation.makespan --images 100000` tells the rest of it."""
    few, many = measure(1000), measure(2000)
    assert many.operations_an_image <= 1.1 * few.operations_an_image
