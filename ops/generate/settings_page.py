"""Generate docs/settings.md from shared/settings.py: `python -m ops.generate.settings_page > docs/settings.md`."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args, get_origin

import msgspec

from ops import words
from shared import settings
from shared.topology import Policy, topology

INTRODUCTION: Final = """# Settings

`python -m ops.generate.settings_page` generates this page from `shared/settings.py`, and a test compares the two. An
environment variable overrides its setting. It takes a plain number in the unit named: `67108864` where this page shows
64 MiB, `3600` where it shows 1 h. Numbers that a proof depends on are not settings: those of the quota's ledger are in
`shared/decisions/quota.py`, with their reasons."""

USUAL: Final = """
## What an operator usually touches

The defaults of most settings are right. These depend on your contracts, your customers and your budget:

| to change | in the cloud, Terraform's variable | on one machine, the environment |
|---|---|---|
| what a vendor allows per minute or at once | `vendor_limits` | `RUUM_LIMITS` |
| what a vendor charges | `settings`, `RUUM_PRICES` | `RUUM_PRICES` |
| what customers pay for express, normal and economy | `tier_factors` | `RUUM_TIERS_…_FACTOR` |
| how many images a worker has in flight | `worker` | `RUUM_WORKER_IN_FLIGHT` |
| which model draws, which one looks and checks | `settings`, `RUUM_GEMINI_…_MODEL` | `RUUM_GEMINI_…_MODEL` |
| when a batch that mostly fails is paused | `settings`, `RUUM_THRESHOLD_PERCENT` | `RUUM_THRESHOLD_PERCENT` |
| whom the operator of a photo host can write to | `settings`, `RUUM_DOWNLOAD_CONTACT` | `RUUM_DOWNLOAD_CONTACT` |

In the cloud, put them into `terraform.tfvars` and apply; every function and worker gets them:

```hcl
settings = {
  RUUM_DOWNLOAD_CONTACT  = "https://example.com/contact"
  RUUM_THRESHOLD_PERCENT = "30"
}
vendor_limits = { "gemini-nano-banana-2.1" = { per_minute = 120 } }
```

On one machine, set them before the command:

```sh
export RUUM_LIMITS='{"gemini-nano-banana-2.1": {"per_minute": 120}}'
RUUM_THRESHOLD_PERCENT=30 ruum-batch run samples/batch.json
```"""

RETRIES: Final = """
## Retries

How long a delivery belongs to its receiver, and when it is delivered again. The environment does not set these numbers:
Terraform and the code read them from `shared/topology.json`. `stage_image` is for the workers' tasks, `door` for
messages pushed to a function, `keep` for messages that wait for a reader.
"""
# By field of a policy: (unit, reason).
OF_POLICIES: Final = {
    "ack_deadline_seconds": ("seconds", "a lease; short for tasks, so that those of a killed worker come again soon"),
    "retry_minimum_seconds": ("seconds", "Pub/Sub's own default; an immediate retry would mostly fail again"),
    "retry_maximum_seconds": (
        "seconds",
        "an outage's end is noticed within this time; three such pauses fit before reconcile considers an image lost",
    ),
    "max_deliveries": (
        "deliveries",
        "then a dead letter; deploys and restarts need some more than an image's 3 attempts",
    ),
    "dead_letter_topic": ("name", "where the dead letter goes"),
}

_NOTHING: Final = {"max_deliveries": "no limit", "dead_letter_topic": "none"}

# By unit: its larger measures, largest first.
_MEASURES: Final = {
    "seconds": ((86_400, "day"), (3600, "h"), (60, "min"), (1, "s")),
    "bytes": ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")),
}

# Variables that the code reads but that are not settings of ours: (unit, default, reason).
_EMULATOR: Final = "Google's own; the local stack and tests name their emulator here. Unset: the cloud"
OTHERS: Final = {
    "GOOGLE_CLOUD_PROJECT": (
        "name",
        "unset",
        "Google's own; the project, unless RUUM_GOOGLE_PROJECT names one. Traces in logs always point to this one",
    ),
    "GEMINI_API_KEY": (
        "key",
        "unset",
        "a secret, so not a setting; without it a worker refuses Gemini, and `run` uses the preview",
    ),
    "GOOGLE_API_KEY": (
        "key",
        "unset",
        "Google's other name for the key: `run` uses it for --model gemini, but never selects Gemini because of it",
    ),
    "LOG_LEVEL": (
        "DEBUG to CRITICAL",
        "INFO; the command line: ERROR",
        "the doors' log lines are the history of the images; the command line prints what a person needs to know",
    ),
    "FIRESTORE_EMULATOR_HOST": ("host:port", "unset", _EMULATOR),
    "PUBSUB_EMULATOR_HOST": ("host:port", "unset", _EMULATOR),
    "STORAGE_EMULATOR_HOST": ("URL", "unset", _EMULATOR),
    "JAVA_HOME": ("folder", "unset", "Java's own; the local stack's emulators run on it. Unset: `java` on the PATH"),
}


def _reasons(group: type[msgspec.Struct]) -> dict[str, str]:
    """Return the comment behind each field of a group, by field."""
    lines = inspect.getsource(group).splitlines()
    tree = ast.parse("\n".join(lines)).body[0]
    fields = [node for node in getattr(tree, "body", []) if isinstance(node, ast.AnnAssign)]
    return {ast.unparse(node.target): lines[(node.end_lineno or 1) - 1].partition("  # ")[2] for node in fields}


def _unit(kind: Any) -> str:
    """Return the unit in a field's type; empty if there is none."""
    if kind is bool:
        return "true or false"
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    return next((note.name for note in getattr(kind, "__metadata__", ()) if isinstance(note, settings.Unit)), "")


def written(value: object, unit: str = "", nothing: str = "unset") -> str:
    """Return a value as people read it. `nothing` is the word for None."""
    if value is None:
        return nothing
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return _number(value, unit)
    return str(value) or "empty"


def _number(value: float, unit: str) -> str:
    """Return a number in the largest measure of its unit in which it is whole."""
    for size, name in _MEASURES.get(unit, ()):
        if value >= size and value % size == 0:
            return f"{value / size:,.0f} {name}" if name != "day" else words.count(round(value / size), name)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.10g}" + (" s" if unit == "seconds" else "")


def _told(name: str, what: str, text: str) -> str:
    """Return the text. Raises `ValueError` if it is empty."""
    if not text:
        raise ValueError(f"{name} has no {what} beside it")
    return text


def group_section(name: str, group: type[msgspec.Struct]) -> list[str]:
    """Return a group's part of the page. Raises `ValueError` for a field without a unit or a reason."""
    reasons = _reasons(group)
    parts = [f"\n## {name}\n\n{inspect.getdoc(group)}\n\n| variable | unit | default | reason |\n|---|---|---|---|"]
    for field in msgspec.structs.fields(group):
        where = f"{name}.{field.name}"
        unit, reason = _told(where, "unit", _unit(field.type)), _told(where, "reason", reasons[field.name])
        variable = f"{settings.ENVIRONMENT_PREFIX}{name}_{field.name}".upper()
        parts.append(f"| `{variable}` | {unit} | {written(field.default, unit)} | {reason} |")
    return parts


def table_section(
    name: str,
    row: type[msgspec.Struct],
    rows: Mapping[str, msgspec.Struct],
    reasons: Mapping[str, str],
    nothing: str = "no limit",
) -> list[str]:
    """Return a table's part of the page. Raises `ValueError` for a column without a unit or a row without a reason."""
    fields = msgspec.structs.fields(row)
    heads = [f"`{field.name}`: {_told(f'{name}.{field.name}', 'unit', _unit(field.type))}" for field in fields]
    variable = f"{settings.ENVIRONMENT_PREFIX}{name}".upper()
    parts = [
        f"\n## {name}\n\n{inspect.getdoc(row)} `{variable}` is a JSON object by model; others keep their row.\n",
        f"| model | {' | '.join(heads)} | reason |\n|---|{'---|' * len(heads)}---|",
    ]
    for model, values in rows.items():
        cells = [written(getattr(values, field.name), nothing=nothing) for field in fields]
        reason = _told(f"{name}.{model}", "reason", reasons.get(model, ""))
        parts.append(f"| {model} | {' | '.join(cells)} | {reason} |")
    return parts


def retries_section() -> list[str]:
    """Return the queues' part of the page. Raises `ValueError` for a number without a unit and a reason."""
    policies = topology().policies
    parts = [RETRIES, f"| number | unit | {' | '.join(policies)} | reason |\n|---|---|{'---|' * len(policies)}---|"]
    for field in msgspec.structs.fields(Policy):
        unit, reason = (_told(field.name, "unit and reason", text) for text in OF_POLICIES.get(field.name, ("", "")))
        cells = [
            written(getattr(policy, field.name), unit, _NOTHING.get(field.name, "unset"))
            for policy in policies.values()
        ]
        parts.append(f"| {field.name} | {unit} | {' | '.join(cells)} | {reason} |")
    return parts


def page() -> str:
    """Return the whole page. Raises `ValueError` for a setting without a unit or a reason."""
    parts = [USUAL]
    for field in msgspec.structs.fields(settings.Settings):
        if field.name not in settings.TABLES:
            parts += group_section(field.name, field.type)
    parts += table_section("limits", settings.Limit, settings.LIMITS, settings.LIMIT_REASONS)
    parts += table_section("prices", settings.Price, settings.PRICES, settings.PRICE_REASONS, "–")
    parts += retries_section()
    parts.append("\n## Other variables\n\n| variable | unit | default | reason |\n|---|---|---|---|")
    parts += [f"| `{variable}` | {' | '.join(told)} |" for variable, told in OTHERS.items()]
    sections = "\n".join(parts)
    return f"{INTRODUCTION}\n\n{contents(sections)}\n{sections}\n"


def contents(sections: str) -> str:
    """Return a list of the headings, each linked to the anchor that GitHub gives it."""
    titles = [line.removeprefix("## ") for line in sections.splitlines() if line.startswith("## ")]
    return "\n".join(f"- [{title}](#{title.lower().replace(' ', '-')})" for title in titles)


if __name__ == "__main__":
    sys.stdout.write(page())
