"""The three agents in a row, at a runner that only takes notes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ops.noop import ANALYSIS, GOOD
from shared.answers import Verdict
from shared.errors import (
    AnswerRefused,
    ConfigurationError,
    ErrorCode,
    ImageRejected,
    RuumError,
    Throttled,
    WorkStopped,
    WorldError,
    WrongShape,
)
from shared.model import Checkpoint
from shared.ports import Answer, Photo, Request, Step
from shared.settings import StagingRules
from shared.staging.agents import MAX_DEFECTS, Agents
from tests.harness.fakes import BAD, IMAGE, TEXT, Model, PictureWorks
from tests.harness.world import World, virtual

PHOTO = Photo(jpeg=b"photo", width=4, height=3, sha256="0")
REQUEST = Request(room_type="living_room", design_style="modern")
RULES = StagingRules()
DONE = Checkpoint(analysis=ANALYSIS.model_dump_json(), picture="work/1", generations=1)


class StepRunner:
    """Implements `shared.staging.agents.StepRunner`: pays for everything and writes down what happened, in order."""

    def __init__(self, checkpoint: Checkpoint | None = None, kept: bytes | None = None) -> None:
        self.checkpoint = checkpoint or Checkpoint()
        self.notes: list[str] = []
        self.safe: list[tuple[Checkpoint, bytes | None]] = []
        self._kept = kept

    async def buy(self, step: Step, call: Callable[[], Awaitable[Answer[Any]]]) -> Any:
        self.notes.append(f"{step.name} from {step.usual.model}")
        return (await call()).value

    async def keep(self, checkpoint: Checkpoint, picture: bytes | None) -> None:
        self.notes.append("keep" if picture is None else f"keep {picture.decode()}")
        self.checkpoint = checkpoint
        self.safe.append((checkpoint, picture))

    async def kept_picture(self) -> bytes | None:
        self.notes.append("look for the picture")
        return self._kept

    async def picture_work(self, step: str, work: Callable[[], Awaitable[Any]]) -> Any:
        return await work()

    def measured(self, step: str, duration_ms: int) -> None:
        """Nobody asks here."""


class Studio:
    """Agents with their fakes."""

    def __init__(self, rules: StagingRules = RULES) -> None:
        self.model = Model()
        self.pictures = PictureWorks()
        self.agents = Agents(self.model, self.pictures, rules)

    async def stage(self, runner: StepRunner) -> bytes:
        return (await self.agents.stage(PHOTO, REQUEST, runner)).jpeg


def verdict(structure: float, realism: float, style: float, *defects: str) -> Verdict:
    return Verdict(structure_kept=structure, realism=realism, style_fit=style, defects=list(defects))


@virtual
async def test_one_photo(world: World) -> None:
    studio, runner = Studio(), StepRunner()
    assert await studio.stage(runner) == b"finished raw 1"
    assert runner.notes == [
        f"analyse from {TEXT}", "keep", "look for the picture", f"generate from {IMAGE}", "keep raw 1", f"verify from {TEXT}",
    ]  # fmt: skip
    assert runner.checkpoint == Checkpoint(analysis=ANALYSIS.model_dump_json(), generations=1)
    assert studio.model.verified == [b"finished raw 1"], "verified is what the customer gets"
    assert studio.model.defects == [()]
    assert studio.agents.spec.prompts == "v-test"


@virtual
async def test_a_known_analysis_is_not_bought(world: World) -> None:
    studio, runner = Studio(), StepRunner(Checkpoint(analysis=ANALYSIS.model_dump_json()))
    await studio.stage(runner)
    assert studio.model.calls == ["generate", "verify"]


@virtual
async def test_a_kept_picture_is_verified_only(world: World) -> None:
    studio, runner = Studio(), StepRunner(DONE, b"kept")
    assert await studio.stage(runner) == b"finished kept"
    assert studio.model.calls == ["verify"]
    assert runner.safe == []


@virtual
async def test_a_picture_that_is_gone_is_bought_again(world: World) -> None:
    studio, runner = Studio(), StepRunner(DONE, None)
    assert await studio.stage(runner) == b"finished raw 1"
    assert studio.model.calls == ["generate", "verify"]
    assert runner.checkpoint.generations == 2


@virtual
async def test_regeneration_names_the_defects(world: World) -> None:
    studio, runner = Studio(), StepRunner()
    studio.model.will("verify", BAD)
    assert await studio.stage(runner) == b"finished raw 2"
    assert studio.model.calls == ["analyse", "generate", "verify", "generate", "verify"]
    assert studio.model.defects == [(), ("structure kept scored 0.20, needs 0.70", "sofa floats", "window walled up")]
    assert runner.checkpoint.generations == 2


@virtual
async def test_each_regeneration_is_told_the_defects_of_the_last(world: World) -> None:
    studio, runner = Studio(), StepRunner()
    studio.model.will("verify", verdict(0.1, 1, 1, "lamp melts"), verdict(1, 0.1, 1, "rug flies"))
    await studio.stage(runner)
    assert [any("lamp" in d for d in told) for told in studio.model.defects] == [False, True, False]
    assert [any("rug" in d for d in told) for told in studio.model.defects] == [False, False, True]


@pytest.mark.parametrize("most", [1, 2, 3, 5])
@virtual
async def test_quality_rejected_after_the_last_generation(world: World, most: int) -> None:
    studio, runner = Studio(StagingRules(max_generations=most)), StepRunner()
    studio.model.will("verify", *[BAD] * most)
    with pytest.raises(ImageRejected) as caught:
        await studio.stage(runner)
    assert caught.value.code == ErrorCode.QUALITY_REJECTED
    assert caught.value.message.startswith(f"{most} picture")
    assert "sofa floats" in caught.value.message
    assert studio.model.calls.count("generate") == studio.model.calls.count("verify") == most


@virtual
async def test_a_long_list_of_defects_stays_a_sentence(world: World) -> None:
    studio, runner = Studio(), StepRunner()
    studio.model.will("verify", *[verdict(0, 0, 0, *["x" * 300] * 40)] * 3)
    with pytest.raises(ImageRejected) as caught:
        await studio.stage(runner)
    assert len(caught.value.message) <= 500


@pytest.mark.parametrize(("generations", "bought"), [(1, 2), (2, 1), (3, 0)])
@virtual
async def test_generations_of_earlier_attempts_count(world: World, generations: int, bought: int) -> None:
    known = Checkpoint(analysis=DONE.analysis, picture="work/1", generations=generations)
    studio, runner = Studio(), StepRunner(known, b"kept")
    studio.model.will("verify", *[BAD] * 3)
    with pytest.raises(ImageRejected):
        await studio.stage(runner)
    assert studio.model.calls.count("generate") == bought


@virtual
async def test_a_picture_is_looked_at_before_it_is_kept(world: World) -> None:
    studio, runner = Studio(), StepRunner()
    studio.pictures.will("finish", WorldError(ErrorCode.VENDOR_BAD_ANSWER, "truncated"))
    with pytest.raises(WorldError):
        await studio.stage(runner)
    assert [picture for _, picture in runner.safe if picture is not None] == []
    assert runner.checkpoint == Checkpoint(analysis=DONE.analysis)


@virtual
async def test_a_picture_is_kept_before_it_is_verified(world: World) -> None:
    studio, runner = Studio(), StepRunner()
    studio.model.will("verify", WorldError(ErrorCode.VENDOR_TIMEOUT, "x"))
    with pytest.raises(WorldError):
        await studio.stage(runner)
    assert [picture for _, picture in runner.safe if picture is not None] == [b"raw 1"]
    assert runner.checkpoint.generations == 1


@pytest.mark.parametrize("step", ["analyse", "generate", "verify"])
@pytest.mark.parametrize(
    "error",
    [WorldError(ErrorCode.VENDOR_TIMEOUT, "x"), ImageRejected(ErrorCode.REFUSED_BY_SAFETY, "x"), Throttled("x", 1.0),
     ConfigurationError("x"), WorkStopped("x"), ZeroDivisionError("x")],
)  # fmt: skip
@virtual
async def test_errors_pass_through_as_they_are(world: World, step: str, error: Exception) -> None:
    studio, runner = Studio(), StepRunner()
    studio.model.will(step, error)
    with pytest.raises(type(error)) as caught:
        await studio.stage(runner)
    assert caught.value is error
    assert isinstance(error, RuumError | ZeroDivisionError)
    assert studio.model.calls[-1] == step


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (verdict(1, 1, 1), ()),
        (verdict(0.7, 0.5, 0.5), ()),  # the limits themselves are good enough
        (verdict(1, 1, 1, "a cushion is odd"), ()),  # named, but not bad
        (verdict(0.69, 1, 1), ("structure kept scored 0.69, needs 0.70",)),
        (verdict(1, 0.49, 1), ("realism scored 0.49, needs 0.50",)),
        (verdict(1, 1, 0.49), ("style fit scored 0.49, needs 0.50",)),
        (verdict(0, 0, 0, "x"), ("structure kept scored 0.00, needs 0.70", "realism scored 0.00, needs 0.50",
                                 "style fit scored 0.00, needs 0.50", "x")),
    ],
)  # fmt: skip
def test_defects(given: Verdict, expected: tuple[str, ...]) -> None:
    assert Studio().agents.defects(given) == expected


def test_a_score_just_below_does_not_read_as_the_limit() -> None:
    (told,) = Studio().agents.defects(verdict(0.6999, 1, 1))
    scored, needs = told.removeprefix("structure kept scored ").split(", needs ")
    assert scored != needs, "'scored 0.70, needs 0.70' tells neither a model nor a customer anything"


def test_few_defects_are_named() -> None:
    told = Studio().agents.defects(verdict(0, 0, 0, *[f"defect {number}" for number in range(40)]))
    assert len(told) == MAX_DEFECTS
    assert told[3:] == tuple(f"defect {number}" for number in range(5))


@virtual
async def test_rules_are_the_settings(world: World) -> None:
    strict = Studio(StagingRules(min_structure_kept=1.0, min_realism=1.0, min_style_fit=1.0))
    assert strict.agents.defects(GOOD) == ()
    assert len(strict.agents.defects(verdict(0.99, 0.99, 0.99))) == 3
    lax = Studio(StagingRules(min_structure_kept=0.0, min_realism=0.0, min_style_fit=0.0))
    assert lax.agents.defects(verdict(0, 0, 0, "x")) == ()


# --- the vendor's moods


@pytest.mark.parametrize("step", ["analyse", "generate", "verify"])
@virtual
async def test_one_refused_answer_is_asked_for_again(world: World, step: str) -> None:
    studio, runner = Studio(), StepRunner()
    studio.model.will(step, AnswerRefused("the vendor refused it: IMAGE_SAFETY"))
    assert await studio.stage(runner) == (b"finished raw 2" if step == "generate" else b"finished raw 1")
    assert studio.model.calls.count(step) == 2
    assert runner.checkpoint.refusals == 1


@pytest.mark.parametrize("most", [1, 2, 5])
@pytest.mark.parametrize("step", ["analyse", "generate", "verify"])
@virtual
async def test_a_photo_whose_every_answer_is_refused_is_refused(world: World, step: str, most: int) -> None:
    studio, runner = Studio(StagingRules(max_refusals=most)), StepRunner()
    studio.model.will(step, *[AnswerRefused("the vendor refused it: IMAGE_SAFETY")] * 9)
    with pytest.raises(ImageRejected, match=f"IMAGE_SAFETY, as it did with {most} answers") as refused:
        await studio.stage(runner)
    assert refused.value.code is ErrorCode.REFUSED_BY_SAFETY
    assert studio.model.calls.count(step) == most


@virtual
async def test_refusals_are_counted_over_attempts(world: World) -> None:
    studio, runner = Studio(), StepRunner(Checkpoint(refusals=1))
    studio.model.will("generate", AnswerRefused("x"))
    with pytest.raises(ImageRejected):
        await studio.stage(runner)


@virtual
async def test_a_picture_of_the_wrong_shape_costs_a_generation_and_is_told_to_the_next(world: World) -> None:
    studio, runner = Studio(), StepRunner()
    studio.pictures.will("finish", WrongShape("it is 1024 x 1024, the photo 1600 x 1200"))
    assert await studio.stage(runner) == b"finished raw 2"
    told = "the picture has the wrong shape: it is 1024 x 1024, the photo 1600 x 1200"
    assert studio.model.defects == [(), (told,)]
    assert studio.model.calls == ["analyse", "generate", "generate", "verify"], "nothing is paid to judge it"
    assert runner.checkpoint.generations == 2
    assert [picture for _, picture in runner.safe if picture] == [b"raw 2"], "and it is not kept"


@virtual
async def test_wrong_shapes_without_end_are_quality_rejected(world: World) -> None:
    studio, runner = Studio(), StepRunner()
    studio.pictures.will("finish", *[WrongShape("it is square")] * 9)
    with pytest.raises(ImageRejected, match="it is square") as rejected:
        await studio.stage(runner)
    assert rejected.value.code is ErrorCode.QUALITY_REJECTED
    assert studio.model.calls.count("generate") == RULES.max_generations
