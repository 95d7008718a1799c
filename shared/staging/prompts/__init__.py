"""The words the agents are given. One folder per version; the version is recorded with each image made with it.

A change of words is a new version (a new folder): what was made with the old words stays explained.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from string import Template
from typing import Final

from shared.answers import Analysis
from shared.ports import Request
from shared.staging.catalogue import FURNITURE, LOOKS
from shared.vendors import PROMPTS

VERSION: Final = PROMPTS


@cache
def _template(name: str) -> Template:
    return Template(files(__package__).joinpath(VERSION, f"{name}.txt").read_text("utf-8"))


def _words(request: Request) -> dict[str, str]:
    look = LOOKS[request.design_style]
    return {
        "room": request.room_type.replace("_", " "),
        "style": request.design_style.replace("_", " "),
        "style_look": look.words,
        "furniture": ", ".join(FURNITURE[request.room_type]),
    }


def analyse(request: Request) -> str:
    """What the analyse agent is told."""
    return _template("analyse").substitute(_words(request))


def generate(request: Request, analysis: Analysis, defects: Sequence[str]) -> str:
    """What the generate agent is told; `defects` of an earlier picture are named so that they are avoided."""
    light = analysis.light
    again = "An earlier picture was refused. Avoid: " + "; ".join(defects) + "." if defects else ""
    return _template("generate").substitute(
        _words(request),
        light=f"from {light.direction}, about {light.temperature_kelvin} K",
        must_not_change="; ".join(analysis.must_not_change) or "nothing in particular",
        summary=analysis.summary,
        defects=again,
    )


def verify(request: Request, analysis: Analysis) -> str:
    """What the verify agent is told."""
    return _template("verify").substitute(
        _words(request), must_not_change="; ".join(analysis.must_not_change) or "nothing in particular"
    )
