"""All errors that are raised on purpose stand in one tree, and are drawn once."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def classes(folder: str) -> Iterator[tuple[str, str, list[str]]]:
    """(file, class, bases) of everything that ends as an exception by its base, of one top folder."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                yield str(path.relative_to(ROOT)), node.name, [ast.unparse(base) for base in node.bases]


def drawn(page: str) -> dict[str, str]:
    """Each error of a module's drawing, and the one it hangs under; the root hangs under nothing."""
    text = ast.get_docstring(ast.parse((ROOT / page).read_text("utf-8")), clean=False) or ""
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        match = re.match(r"^( +(?:\|   |    )*)(?:\|-- |`-- )?([A-Z]\w+)(?: |$)", line)
        if match is None or not line.startswith("    "):
            continue
        depth = line.index(match[2])
        above = [(at, name) for at, name in above if at < depth]
        found[match[2]] = above[-1][1] if above else ""
        above.append((depth, match[2]))
    return found


@pytest.mark.parametrize(("folder", "page"), [("shared", "shared/errors.py"), ("ops", "ops/errors.py")])
def test_every_deliberate_error_is_drawn_where_it_hangs(folder: str, page: str) -> None:
    """Names with an underscore are the control flow of one module: they never leave it."""
    tree = drawn(page)
    assert len(tree) > 10, "the drawing is not read"
    known = set(drawn("shared/errors.py")) | tree.keys() | {"Exception", "BaseException", "ValueError", "OSError"}
    raised = {name: bases[0] for _, name, bases in classes(folder) if bases and bases[0] in known}
    public = {name: base for name, base in raised.items() if not name.startswith("_")}
    assert public.keys() - tree.keys() == set(), "not drawn"
    for name, base in public.items():
        assert base == (tree[name] or "Exception"), f"{name} is drawn under {tree[name]}"
    root = {"RuumError"}
    assert tree.keys() - public.keys() <= root, "drawn, and gone"
