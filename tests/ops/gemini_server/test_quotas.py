"""The local Gemini's quotas, scripts, rates of faults and latency."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import pytest
from google import genai
from google.genai import errors

from ops.local_stack.gemini_server import Call, Fault, GeminiServer, Plan, Step
from tests.ops.gemini_server.parts import TEXT_MODEL, ask, one_call, quota_ids, retry_delay, running, status_of

# --- quotas


class HandClock:
    """Time moved by hand, in seconds."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


async def admitted(client: genai.Client, step: Step = "verify", **options: Any) -> errors.ClientError | None:
    """None when the call was answered, else its 429."""
    try:
        await ask(client, step, **options)
    except errors.ClientError as error:
        assert error.code == 429
        return error
    return None


def test_a_rolling_minute_admits_exactly_its_calls() -> None:
    clock = HandClock()

    async def scenario() -> None:
        async with running(Plan(per_minute={TEXT_MODEL: 3}), now=clock) as (server, client):
            for seconds in (0, 20, 30):
                clock.time = 1000.0 + seconds
                assert await admitted(client) is None
            clock.time = 1052.5
            refused = await admitted(client)
            assert refused and quota_ids(refused) == ["GenerateRequestsPerMinutePerProjectPerModel"]
            assert retry_delay(refused) == "7s"  # 7.5 s until the first of the three is 60 s old, truncated
            assert await admitted(client, "generate") is None  # another model, another quota
            clock.time = 1059.9
            assert await admitted(client)
            clock.time = 1060.0
            assert await admitted(client) is None  # and refused calls have not counted
            assert await admitted(client)
            clock.time = 1080.0
            assert await admitted(client) is None
            assert [call.at for call in server.calls if call.status == 429] == [1052.5, 1059.9, 1060.0]
            assert not any(call.answered for call in server.calls if call.status == 429)

    asyncio.run(scenario())


def test_no_rolling_minute_is_ever_above_its_quota_nor_needlessly_below() -> None:
    clock, chance, limit = HandClock(), random.Random(4), 5

    async def scenario() -> None:
        async with running(Plan(per_minute={"*": limit}), now=clock) as (_, client):
            sent: list[float] = []
            for _ in range(200):
                clock.time += chance.choice((0.0, 1.0, 5.0, 13.0, 30.0))
                recent = sum(at > clock.time - 60 for at in sent)
                refused = await admitted(client, "other")
                assert (refused is None) == (recent < limit)
                if refused is None:
                    sent.append(clock.time)

    asyncio.run(scenario())


def test_limits_change_while_running_and_none_may_be_left() -> None:
    clock = HandClock()

    async def scenario() -> None:
        plan = Plan()
        async with running(plan, now=clock) as (_, client):
            assert await admitted(client) is None
            clock.time += 15
            assert await admitted(client) is None
            plan.per_minute = {TEXT_MODEL: 1}
            clock.time += 20
            refused = await admitted(client)  # the calls before the limit was set count: both have to be gone
            assert refused and retry_delay(refused) == "40s"
            plan.per_minute = {TEXT_MODEL: 0}
            refused = await admitted(client)
            assert refused and retry_delay(refused) == "60s"
            plan.per_minute = None
            assert await admitted(client) is None

    asyncio.run(scenario())


def test_a_spent_day_is_told_by_its_quota_id() -> None:
    clock = HandClock()

    async def scenario() -> None:
        async with running(Plan(per_day={"*": 2}, per_minute={"*": 2}), now=clock) as (_, client):
            assert [await admitted(client), await admitted(client)] == [None, None]
            both = await admitted(client)
            assert both and ["PerMinute" in quota_ids(both)[0], "PerDay" in quota_ids(both)[1]] == [True, True]
            clock.time += 61
            day = await admitted(client)
            assert day and quota_ids(day) == ["GenerateRequestsPerDayPerProjectPerModel"]
            clock.time += 86_400
            assert await admitted(client) is None

    asyncio.run(scenario())


# --- scripts, rates, latency


def test_scripts_are_consumed_one_per_call_the_steps_own_first() -> None:
    async def scenario() -> None:
        plan = Plan(script=["500", None, "503"], step_script={"generate": ["401", None]}, rates={"403": 1.0})
        async with running(plan) as (_, client):
            steps: list[Step] = ["analyse", "generate", "verify", "generate", "generate", "verify"]
            # None stands for a sound answer even where a rate would say otherwise.
            assert [await status_of(client, step) for step in steps] == [500, 401, 200, 200, 503, 403]
            plan.script.append("404_model")  # while running
            assert await status_of(client, "analyse") == 404

    asyncio.run(scenario())


@pytest.mark.parametrize(("fault", "step"), [("low_quality", "analyse"), ("truncated_picture", "verify"), ("schema_mismatch", "generate")])  # fmt: skip
def test_a_scripted_fault_that_cannot_happen_is_loud(fault: Fault, step: Step) -> None:
    error, _ = one_call(Plan(script=[fault]), step)
    assert isinstance(error, errors.ClientError)
    assert error.code == 400 and fault in str(error.message)


RATES: dict[Fault, float] = {"503": 0.2, "low_quality": 0.3, "429_bare": 0.1}


@pytest.mark.parametrize("step", ["analyse", "verify"])
def test_random_faults_keep_to_their_rates(step: Step) -> None:
    # Without HTTP, for the number: 10,000 draws have a standard deviation of at most 50, and five are allowed.
    server, calls = GeminiServer(Plan(rates=RATES, seed=7)), [Call("m", 0.0, step) for _ in range(10_000)]
    for call in calls:
        server._meet(call)
    for fault, rate in RATES.items():
        expected = 0 if fault == "low_quality" and step == "analyse" else 10_000 * rate  # an analysis has no quality
        deviation = (expected * (1 - rate)) ** 0.5
        assert abs(sum(call.fault == fault for call in calls) - expected) <= 5 * deviation


def test_random_faults_repeat_with_the_seed() -> None:
    async def scenario(seed: int) -> list[Fault | None]:
        async with running(Plan(rates=RATES, seed=seed)) as (server, client):
            statuses = [await status_of(client, step) for step in ("analyse", "verify") * 20]
            expected = {None: 200, "low_quality": 200, "503": 503, "429_bare": 429}
            assert statuses == [expected[call.fault] for call in server.calls]
            return [call.fault for call in server.calls]

    faults = asyncio.run(scenario(7))
    assert set(faults) == {None, *RATES}
    assert asyncio.run(scenario(7)) == faults
    assert asyncio.run(scenario(8)) != faults


def test_latency_is_by_step_and_refusals_at_the_door_do_not_wait() -> None:
    async def scenario() -> None:
        plan = Plan(latency={"verify": 0.2, "generate": 3600.0}, jitter=0.0, step_script={"generate": ["403"]})
        async with running(plan) as (_, client):
            started = time.monotonic()
            assert await status_of(client, "analyse") == 200
            assert await status_of(client, "generate") == 403
            between = time.monotonic()
            assert await status_of(client, "verify") == 200
            assert time.monotonic() - between >= 0.2
            assert between - started < 3600

    asyncio.run(scenario())


def test_jitter_spreads_latency_evenly_around_its_mean() -> None:
    server = GeminiServer(Plan(latency=10.0, jitter=0.2))  # asked within: 10,000 s are not worth waiting for
    seconds = [server._meet(Call("m", 0.0, "verify")) for _ in range(1000)]
    assert 8.0 <= min(seconds) < 8.1 and 11.9 < max(seconds) <= 12.0
    assert 9.9 < sum(seconds) / len(seconds) < 10.1


@pytest.mark.parametrize(
    "wrong",
    [
        {"rates": {"explode": 0.1}},
        {"rates": {"500": 0.7, "503": 0.7}},
        {"rates": {"500": -0.1}},
        {"script": ["explode"]},
        {"step_script": {"paint": []}},
        {"latency": {"paint": 1.0}},
        {"latency": -1.0},
        {"per_minute": {"*": -1}},
    ],
)
def test_a_plan_without_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"none of|rates|latency"):
        Plan(**wrong)
