"""For all tests: in which order they run, and one line for each thing whose absence kept some from running."""

from __future__ import annotations

from collections import Counter

import hypothesis
import pytest

# No example is late: how long one takes says how busy the machine is. What must be fast is measured in benchmarks/.
hypothesis.settings.register_profile("ours", deadline=None)
hypothesis.settings.load_profile("ours")

NOT_RUN = "not run: "


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What a test says is missing, once, with how many tests missed it."""
    told: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        told[report.longrepr[2].removeprefix("Skipped: ")] += 1
    for reason, tests in told.items():
        if reason.startswith(NOT_RUN):
            terminalreporter.write_line(f"{tests} tests {reason}")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the tests that wait (for leases, processes, emulators) evenly among those that compute.

    At the end of the run, where they would stand by themselves, two cores wait for one test after another: three minutes.
    """
    waiting = [item for item in items if "e2e" in item.path.parts or "[google" in item.name]
    computing = [item for item in items if not ("e2e" in item.path.parts or "[google" in item.name)]
    if not waiting or not computing:
        return
    every = len(computing) / len(waiting)
    placed = [((number + 0.5) * every, 0, item) for number, item in enumerate(waiting)]
    placed += [(float(number), 1, item) for number, item in enumerate(computing)]
    items[:] = [item for _, _, item in sorted(placed, key=lambda found: found[:2])]
