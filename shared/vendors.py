"""The calls that each staging model makes for one image, and what they usually use, without creating the model.

Quota, prices, estimates and the bill ask here, and never by a vendor's name. A new vendor needs an adapter, its
settings, an entry in `SPECS` and one in `wiring.MAKERS` (CONTRIBUTING.md, "Add a vendor").
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

from shared.errors import ConfigurationError
from shared.model import Usage
from shared.ports import ModelSpec, Step
from shared.settings import Settings

PROMPTS: Final = "v1"  # the folder of `staging/prompts` in use
PREVIEW: Final = "preview"
PREVIEW_PROMPTS: Final = "preview-3"  # it reads no prompts; the version tells pictures of different drawing code apart


def gemini(settings: Settings) -> ModelSpec:
    """Return Gemini's spec: three calls to two models. The usual tokens are the settings' (`RUUM_TYPICAL_...`)."""
    usual, of = settings.typical, settings.gemini
    text = Usage(of.text_model, usual.text_input_tokens // 2, usual.text_output_tokens // 2)  # of two calls together
    picture = Usage(of.image_model, usual.image_input_tokens, usual.image_output_tokens)
    return ModelSpec(
        name="gemini",
        prompts=PROMPTS,
        steps=(Step("analyse", text), Step("generate", picture, usual.generations), Step("verify", text)),
        free=_is_here(of.base_url),
    )


def preview(_: Settings) -> ModelSpec:
    """Return the preview's spec: three steps in our own processes, without vendor, quota or price."""
    steps = tuple(Step(name, Usage(PREVIEW)) for name in ("analyse", "generate", "verify"))
    return ModelSpec(name=PREVIEW, prompts=PREVIEW_PROMPTS, steps=steps, free=True, local=True)


SPECS: Final[Mapping[str, Callable[[Settings], ModelSpec]]] = {"gemini": gemini, PREVIEW: preview}


def spec_of(settings: Settings) -> ModelSpec:
    """Return the spec of the model named in the settings. Raises `ConfigurationError` for an unknown one."""
    name = settings.staging.model
    if name not in SPECS:
        raise ConfigurationError(f"there is no staging model {name} (allowed: {', '.join(SPECS)})")
    return SPECS[name](settings)


def _is_here(address: str | None) -> bool:
    """Return whether a server on this machine stands in for the vendor: its calls cost nothing."""
    host = urlsplit(address or "").hostname
    if host is None:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
