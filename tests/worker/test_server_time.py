"""The server's clock by a worker's own: whatever a reading takes, the truth lies between the bounds."""

from __future__ import annotations

import math
from random import Random

import pytest

from shared.worker.quota import DRIFT, ServerTime


@pytest.mark.parametrize("seed", range(50))
def test_the_truth_is_between_the_bounds_and_the_best_reading_is_kept(seed: int) -> None:
    random = Random(seed)
    time, ahead, now, best = ServerTime(), random.uniform(-1e9, 1e9), random.uniform(0, 1e6), math.inf
    for _ in range(100):
        there, back = random.expovariate(10), random.expovariate(10)
        if random.random() < 0.1:
            there, back = (there + 5.0, back) if random.random() < 0.5 else (there, back + 5.0)
        time.read(now + there + ahead, now, now + there + back)
        now += there + back
        best = min(best, there + back)
        assert time.earliest(now + ahead) <= now + 1e-6
        assert time.surely(now + ahead) >= now - 1e-6
        assert time.surely(now) - time.earliest(now) <= best + 2 * DRIFT * now + 1e-6
        now += random.uniform(0.0, 30.0)


@pytest.mark.parametrize("rate", [1 + DRIFT, 1 - DRIFT])
def test_clocks_that_drift_apart_are_followed(rate: float) -> None:
    time = ServerTime()
    for second in range(0, 100_000, 50):
        time.read(second * rate, second - 0.01, second + 0.01)
        assert time.earliest(second * rate) <= second + 1e-6
        assert time.surely(second * rate) >= second - 1e-6
        assert time.surely(0) - time.earliest(0) < 0.06


@pytest.mark.parametrize("leap", [-3600.0, -1.0, 1.0, 3600.0])
def test_a_clock_that_was_set_is_believed(leap: float) -> None:
    time = ServerTime()
    for second in range(10):
        time.read(second + 1000.0, second, second + 0.1)
    time.read(10 + 1000.0 + leap, 10, 10.1)
    assert time.earliest(1010.0 + leap) == pytest.approx(10.0)
    assert time.surely(1010.0 + leap) == pytest.approx(10.1)
