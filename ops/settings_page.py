"""docs/settings.md, made from shared/settings.py: `python -m ops.settings_page > docs/settings.md`."""

from __future__ import annotations

import ast
import inspect
import sys
from typing import Final

import msgspec

from shared import settings

INTRODUCTION: Final = """# Settings

Made from `shared/settings.py` by `python -m ops.settings_page`; a test holds the two together. A setting is overridden
by its environment variable. Units are the last word of a name.
"""


def _reasons(group: type[msgspec.Struct]) -> dict[str, str]:
    """The comment behind each field of a group, by field."""
    lines = inspect.getsource(group).splitlines()
    tree = ast.parse("\n".join(lines)).body[0]
    fields = [node for node in getattr(tree, "body", []) if isinstance(node, ast.AnnAssign)]
    return {ast.unparse(node.target): lines[(node.end_lineno or 1) - 1].partition("  # ")[2] for node in fields}


def page() -> str:
    """The whole page. Raises `ValueError` for a setting without a reason."""
    parts = [INTRODUCTION]
    for group in msgspec.structs.fields(settings.Settings):
        if not (inspect.isclass(group.type) and issubclass(group.type, msgspec.Struct)):
            continue
        reasons = _reasons(group.type)
        parts.append(f"\n## {group.name}\n\n{inspect.getdoc(group.type)}\n\n| variable | default | reason |")
        parts.append("|---|---|---|")
        for field in msgspec.structs.fields(group.type):
            if not reasons[field.name]:
                raise ValueError(f"{group.name}.{field.name} has no reason beside it")
            variable = f"{settings.ENVIRONMENT_PREFIX}{group.name}_{field.name}".upper()
            parts.append(f"| `{variable}` | {field.default} | {reasons[field.name]} |")
    parts.append("\n## prices\n\nUS dollars per million tokens.\n\n| model | input | output |\n|---|---|---|")
    parts += [f"| {name} | {price.input_usd} | {price.output_usd} |" for name, price in settings.PRICES.items()]
    parts.append("\n## limits\n\n`RUUM_LIMITS` and `RUUM_PRICES` are JSON objects laid over these tables.\n")
    parts.append("| model | calls a minute | calls at once |\n|---|---|---|")
    parts += [
        f"| {name} | {limit.per_minute or ''} | {limit.concurrent or ''} |" for name, limit in settings.LIMITS.items()
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
