"""CONTRIBUTING's "Add a vendor": an adapter, its settings, and a line in two tables. This one charges by the second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import msgspec
import pytest

from ops.commands.run import ModelName
from ops.noop import ANALYSIS, GOOD
from shared import decisions, vendors
from shared.answers import Analysis, Verdict
from shared.assembly import wiring
from shared.errors import ConfigurationError
from shared.model import Batch, ImageState, Tier, Usage
from shared.ports import Answer, ModelSpec, Photo, Request, Step
from shared.settings import Limit, Price, Settings, StagingRules
from tests.harness.world import SETTINGS, World, virtual

LOOKER, DRAWER = "seen-1", "drawn-2"
SECONDS = 1.5  # of the vendor's machine, a picture
USUAL = {"analyse": Usage(LOOKER), "generate": Usage(DRAWER, seconds=2.0, pictures=1), "verify": Usage(LOOKER)}
PRICES = {LOOKER: Price(call_usd=0.001), DRAWER: Price(second_usd=0.04, picture_usd=0.01)}


def spec(settings: Settings) -> ModelSpec:
    """Looking costs a call, drawing costs its seconds and a picture."""
    return ModelSpec("drawer", "words-1", tuple(Step(name, usage) for name, usage in USUAL.items()))


class Drawer:
    """The adapter. It says how long it drew; once, as vendors do, it says nothing."""

    def __init__(self, silent: bool = False) -> None:
        self.spec = spec(Settings())
        self._silent = silent

    async def analyse(self, photo: Photo, request: Request) -> Answer[Analysis]:
        return Answer(ANALYSIS, Usage(LOOKER))

    async def generate(
        self, photo: Photo, analysis: Analysis, request: Request, defects: Sequence[str]
    ) -> Answer[bytes]:
        told = Usage(DRAWER, reported=False) if self._silent else Usage(DRAWER, seconds=SECONDS, pictures=1)
        return Answer(b"drawn", told)

    async def verify(self, photo: Photo, picture: bytes, analysis: Analysis, request: Request) -> Answer[Verdict]:
        return Answer(GOOD, Usage(LOOKER))

    async def aclose(self) -> None:
        """Nothing is open."""


@pytest.fixture
def drawer(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of a pipeline that stages with it."""
    monkeypatch.setattr(vendors, "SPECS", {**vendors.SPECS, "drawer": spec})
    monkeypatch.setattr(wiring, "MAKERS", {**wiring.MAKERS, "drawer": lambda key: lambda settings, pool: Drawer()})
    return msgspec.structs.replace(
        SETTINGS,
        staging=StagingRules(model="drawer"),  # type: ignore[arg-type]
        prices=PRICES,
        limits={DRAWER: Limit(concurrent=3)},
    )


def test_the_tables_know_the_same_models() -> None:
    assert vendors.SPECS.keys() == wiring.MAKERS.keys() == {name.value for name in ModelName}
    (setting,) = (field for field in msgspec.structs.fields(StagingRules) if field.name == "model")
    assert set(get_args(setting.type)) == vendors.SPECS.keys()
    assert {name: make(Settings()).name for name, make in vendors.SPECS.items()} == {n: n for n in vendors.SPECS}


def test_estimates_quota_and_capacity_ask_the_model(drawer: Settings) -> None:
    assert decisions.forecast.cost_per_image_usd(drawer) == pytest.approx(0.001 + 2.0 * 0.04 + 0.01 + 0.001)
    assert decisions.forecast.calls_by_model(drawer) == {LOOKER: 2, DRAWER: 1}
    found = decisions.forecast.capacity(drawer, {}, decisions.forecast.calls_by_model(drawer), 0.0, with_slots=False)
    assert found.limited_by == DRAWER
    assert found.images_per_second == pytest.approx(3 / drawer.typical.call_seconds)


def test_a_model_without_a_price_is_said(drawer: Settings) -> None:
    with pytest.raises(ConfigurationError, match=f"no price for {LOOKER}"):
        decisions.forecast.cost_per_image_usd(msgspec.structs.replace(drawer, prices={DRAWER: PRICES[DRAWER]}))


def test_a_model_nobody_knows_is_said() -> None:
    wanted = msgspec.structs.replace(SETTINGS, staging=StagingRules(model="sculptor"))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="no staging model sculptor .allowed: gemini, preview"):
        vendors.spec_of(wanted)


@pytest.mark.parametrize("silent", [False, True])
def test_an_image_is_staged_billed_and_reported(drawer: Settings, silent: bool) -> None:
    """By what the vendor says it used; by what such a call usually uses where it says nothing, and marked so."""

    @virtual
    async def staged(old: World) -> None:
        world = World(old.clock, drawer)
        world.fakes.model = Drawer(silent)  # type: ignore[assignment]
        await world.batch()
        hand = await world.worker()
        await hand.handle(await world.task())
        image = await world.image()
        assert image.state is ImageState.COMPLETED, image.error
        assert (image.prompts, image.model) == ("words-1", DRAWER)
        seconds = 2.0 if silent else SECONDS
        (drawn,) = [call for call in image.calls if call.step == "generate"]
        assert (drawn.seconds, drawn.pictures, drawn.estimated) == (seconds, 1, silent)
        assert image.cost_micro_usd == 1_000 + round(seconds * 40_000) + 10_000 + 1_000
        await world.rooms.closer.check("acme.b1")
        batch = await world.store.batch("acme.b1")
        assert isinstance(batch, Batch)

    staged()


@pytest.mark.parametrize(
    ("usage", "micro"),
    [
        (Usage("m"), 1), (Usage("m", 10, 20), 10 + 40 + 1), (Usage("m", seconds=0.5), 1_000_001),
        (Usage("m", credits=3.0), 9_000_001), (Usage("m", pictures=2), 100_001),
        (Usage("m", 1, 1, 1.0, 1.0, 1), 1 + 2 + 2_000_000 + 3_000_000 + 50_000 + 1),
    ],
)  # fmt: skip
def test_every_unit_is_charged(usage: Usage, micro: int) -> None:
    price = Price(input_usd=1, output_usd=2, second_usd=2, credit_usd=3, picture_usd=0.05, call_usd=0.000001)
    assert decisions.money.cost_micro_usd({"m": price}, usage) == micro


@pytest.mark.parametrize("given", [{}, {"input_usd": 1.0}, {"output_usd": 1.0}])
def test_a_price_that_would_make_calls_free_by_mistake_is_none(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="given together|has no price"):
        Price(**given)


def test_tiers_multiply_the_cost() -> None:
    factors = Settings().tiers
    assert decisions.money.price_usd(factors, Tier.EXPRESS, 2.0) == 2.0 * factors.express_factor
