"""What the agents answer, typed. A model's answer that does not fit these types is not an answer.

Pydantic, because google-genai turns these classes into the schema the vendor must keep to.
"""

from __future__ import annotations

from typing import Any, Literal, get_origin

from annotated_types import MaxLen
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

Fraction = float  # 0 to 1; the bounds stand on each field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _within_bounds(cls, found: Any) -> Any:
        """Cut what is longer than its field, and read null as an empty list: neither makes a paid answer useless."""
        if not isinstance(found, dict):
            return found
        fitted = dict(found)
        for name, field in cls.model_fields.items():
            value = fitted.get(name)
            limit = next((m.max_length for m in field.metadata if isinstance(m, MaxLen)), None)
            if value is None and name in fitted and get_origin(field.annotation) is list:
                fitted[name] = []
            elif limit is not None and isinstance(value, str | list):
                fitted[name] = value[:limit]
        return fitted


class Opening(_Frozen):
    """A door, window or passage: where it is in the picture, as fractions of width and height."""

    kind: Literal["window", "door", "passage", "stairs", "fireplace", "other"]
    left: Fraction = Field(ge=0, le=1)
    top: Fraction = Field(ge=0, le=1)
    right: Fraction = Field(ge=0, le=1)
    bottom: Fraction = Field(ge=0, le=1)


class Light(_Frozen):
    """Where the light comes from, how bright (0 dark to 1 bright), how warm (kelvin)."""

    direction: Literal["left", "right", "front", "back", "above", "diffuse"]
    brightness: Fraction = Field(ge=0, le=1)
    temperature_kelvin: int = Field(ge=1000, le=20000)


class Point(_Frozen):
    """A place in the picture, as fractions of width and height."""

    x: Fraction = Field(ge=0, le=1)
    y: Fraction = Field(ge=0, le=1)


WallName = Literal["left", "back", "right"]


class CameraPose(_Frozen):
    """The camera that took the photo. Lengths of the picture are shares of its width (x) and height (y)."""

    focal_widths: float = Field(gt=0)
    centre_x: float
    centre_y: float
    yaw_degrees: float  # positive: it looks to the right of the back wall's normal
    pitch_degrees: float
    roll_degrees: float
    eye_metres: float = Field(gt=0)


class WallOpening(_Frozen):
    """A door, window or passage on its wall: metres along the wall and above the floor."""

    wall: WallName
    kind: Literal["door", "window", "passage"]
    start: float
    end: float
    bottom: float
    top: float


class WallStretch(_Frozen):
    """A stretch of plain wall, in metres along the wall."""

    wall: WallName
    start: float
    end: float


class RoomGeometry(_Frozen):
    """The room in metres. The camera stands at x = y = 0; x runs along the back wall, y towards it.

    `floor` is the outline of the floor that the photo shows. `box_score` (0 by chance, 4 in a clear room) and
    `line_support` (share of the lines that fit the box) say how sure all of it is.
    """

    camera: CameraPose
    left: float
    right: float
    back: float
    height: float
    floor: list[tuple[float, float]] = Field(max_length=64)
    openings: list[WallOpening] = Field(max_length=64)
    plain: list[WallStretch] = Field(max_length=64)
    box_score: float
    line_support: float
    aspect: float = Field(gt=0)  # of the photo, width / height: a photo within bars has another
    seed: int = Field(ge=0)  # the photo's own number, which chooses layout and variants


class Analysis(_Frozen):
    """The room as the camera saw it.

    `floor` is the outline of the free floor; `vanishing_point` is where the lines that run away from the camera meet;
    `palette` are the room's main colours as #rrggbb; `must_not_change` are things a furnished picture has to keep;
    `geometry` is the room in metres, when it was measured.
    """

    summary: str = Field(max_length=2000)
    floor: list[Point] = Field(min_length=3, max_length=64)
    vanishing_point: Point
    openings: list[Opening] = Field(max_length=64)
    light: Light
    palette: list[str] = Field(max_length=12)
    must_not_change: list[str] = Field(max_length=40)
    # Only what measures can know it: a vendor's model is not asked for it, and older checkpoints lack it.
    geometry: SkipJsonSchema[RoomGeometry | None] = None


class Verdict(_Frozen):
    """How good a furnished picture is. Scores from 0 (unusable) to 1 (perfect); defects in plain words."""

    structure_kept: Fraction = Field(ge=0, le=1)
    realism: Fraction = Field(ge=0, le=1)
    style_fit: Fraction = Field(ge=0, le=1)
    defects: list[str] = Field(max_length=40)
