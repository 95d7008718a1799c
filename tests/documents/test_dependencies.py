"""What the code imports is what pyproject.toml asks for: a package that comes with another may stop coming."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
OURS = {"shared", "ops", "functions", "tests", "benchmarks", "samples", "docs"}


def named(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", one)[0].lower().replace("_", "-") for one in requirements}  # type: ignore[index]


def imported(*folders: str) -> dict[str, str]:
    """Distributions that hold what these folders import, each with a file that does."""
    own = {path.stem for path in (ROOT / "benchmarks").rglob("*.py")} | OURS
    distributions = packages_distributions()
    found: dict[str, str] = {}
    for path in (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                top = name.partition(".")[0]
                if top in own or top in sys.stdlib_module_names:
                    continue
                for one in of_google(name) if top == "google" else distributions.get(top, [top]):
                    found.setdefault(one.lower().replace("_", "-"), str(path.relative_to(ROOT)))
    return found


def of_google(name: str) -> list[str]:
    """Many distributions share the package `google`."""
    known = {
        "google.api_core": "google-api-core", "google.auth": "google-auth", "google.oauth2": "google-auth",
        "google.cloud.firestore": "google-cloud-firestore", "google.cloud.firestore_v1": "google-cloud-firestore",
        "google.cloud.pubsub_v1": "google-cloud-pubsub", "google.pubsub_v1": "google-cloud-pubsub",
        "google.cloud.storage": "google-cloud-storage", "google.cloud.run_v2": "google-cloud-run",
        "google.events": "google-events", "google.genai": "google-genai", "google.protobuf": "protobuf",
        "google.cloud": "", "google.rpc": "", "google": "", "google.type": "",
    }  # fmt: skip
    best = max((prefix for prefix in known if name == prefix or name.startswith(prefix + ".")), key=len)
    return [known[best]] if known[best] else []


@pytest.mark.parametrize(
    ("folders", "groups"),
    [(("shared", "ops", "functions"), ()), (("tests", "benchmarks", "docs/examples"), ("dev",))],
    ids=["product", "tests"],
)
def test_every_import_is_asked_for(folders: tuple[str, ...], groups: tuple[str, ...]) -> None:
    asked = named(PROJECT["project"]["dependencies"])
    for group in groups:
        asked |= named(PROJECT["dependency-groups"][group])
    missing = {name: path for name, path in imported(*folders).items() if name not in asked}
    assert missing == {}
