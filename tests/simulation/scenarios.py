"""Schedules: what chance would take thousands of seeds to find, told step by step. `python -m tests.simulation.scenarios`

Each is a world without random faults in which single port calls are held, and processes killed, at the worst moment;
the checker judges it as any other. `mutations.py` shows which rule each of them stands guard over.
"""

from __future__ import annotations

import sys
from typing import Final

from tests.simulation.schedules.forgotten import NewsLostBehindARun, PublishedAgainAndNobodyLooks
from tests.simulation.schedules.outages import (
    AnswerToldLate,
    CreditsSpentForADay,
    DaysQuotaSpent,
    OneImageThroughAnOutage,
    OnePhotoTheVendorCannotDraw,
    PauseAmidAnOutage,
    TimeOutsAfterTheEnd,
    VendorThatHangs,
)
from tests.simulation.schedules.rounds import (
    CloserAsleepAfterItsSum,
    CloserDeadBeforeItAnnounces,
    OldTaskAmidAReplay,
    ReplayAmidAClosing,
    ReplayCarriedOnWithLateEvents,
    ReplayOfWhatIsNotAnnounced,
    ReplayWithLateEvents,
)
from tests.simulation.schedules.schedule import Schedule
from tests.simulation.schedules.slow_hosts import (
    CancelledWhileImagesWait,
    HostsWaitIsEverybodys,
    KilledWhileImagesWait,
    OneHost,
    PausedWhileImagesWait,
    ReplayedWhileImagesWait,
    StoppedWhileImagesWait,
    StoreAwayWhenAHostRefuses,
    TurnThatCannotBeUsed,
    TwoHosts,
    TwoHostsFourWorkers,
    TwoHostsUnnamed,
)
from tests.simulation.schedules.workers import (
    GrantedToAWorkerThatStandsStill,
    HolderDiesAfterItsMessageCameAgain,
    LongWaitBesideADuplicate,
    QueueThatGivesUp,
    StaleHandAsksForALead,
    StaleWriterOfADocument,
    StaleWriterOfAnObject,
    SuspectBesideAPaidLead,
)
from tests.simulation.world import simulate

SCENARIOS: Final[tuple[type[Schedule], ...]] = (
    OldTaskAmidAReplay,
    CloserAsleepAfterItsSum,
    ReplayAmidAClosing,
    CloserDeadBeforeItAnnounces,
    ReplayOfWhatIsNotAnnounced,
    ReplayWithLateEvents,
    ReplayCarriedOnWithLateEvents,
    StaleWriterOfADocument,
    StaleWriterOfAnObject,
    HolderDiesAfterItsMessageCameAgain,
    LongWaitBesideADuplicate,
    DaysQuotaSpent,
    PauseAmidAnOutage,
    VendorThatHangs,
    TimeOutsAfterTheEnd,
    GrantedToAWorkerThatStandsStill,
    QueueThatGivesUp,
    StaleHandAsksForALead,
    SuspectBesideAPaidLead,
    OneImageThroughAnOutage,
    AnswerToldLate,
    OnePhotoTheVendorCannotDraw,
    CreditsSpentForADay,
    OneHost,
    TwoHosts,
    TwoHostsUnnamed,
    TwoHostsFourWorkers,
    HostsWaitIsEverybodys,
    StoreAwayWhenAHostRefuses,
    TurnThatCannotBeUsed,
    KilledWhileImagesWait,
    StoppedWhileImagesWait,
    PausedWhileImagesWait,
    CancelledWhileImagesWait,
    ReplayedWhileImagesWait,
    PublishedAgainAndNobodyLooks,
    NewsLostBehindARun,
)


def play(scenario: type[Schedule]) -> Schedule:
    """The schedule played and judged."""
    return simulate(scenario.__name__, scenario.plan_of_all, scenario)


def main() -> int:
    wrong = 0
    for scenario in SCENARIOS:
        world = play(scenario)
        wrong += bool(world.checker.violations) or not world.followed
        told = world.checker.violations or ["well" if world.followed else "NOT FOLLOWED"]
        print(f"{scenario.__name__}: {told[0]}", flush=True)
        if "--trace" in sys.argv and told != ["well"]:
            print(world.faults.told(400))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
