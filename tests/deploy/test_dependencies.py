"""An image holds what its service declares, and nothing that happens to be in the workspace."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("shared", "gateway", "chat-worker", "persistence", "task-tools", "demo-model")


@pytest.mark.parametrize("package", _PACKAGES)
def test_whatever_is_imported_is_declared(package: str) -> None:
    declared = _declared(package)
    if "parley-shared" in declared:
        declared |= _declared("shared")
    distributions = packages_distributions()

    imported = {module: distributions.get(module, [f"parley-{module}"]) for module in _imported(package)}

    missing = {module for module, names in imported.items() if not declared & set(map(canonicalize_name, names))}
    assert not missing


def _declared(package: str) -> set[str]:
    project = tomllib.loads((_ROOT / package / "pyproject.toml").read_text())["project"]
    optional = chain.from_iterable(project.get("optional-dependencies", {}).values())
    names = (project["name"], *project["dependencies"], *optional)
    return {canonicalize_name(Requirement(text).name) for text in names}


def _imported(package: str) -> set[str]:
    """Top-level modules that are not of the standard library."""
    sources = (_ROOT / package / "src").rglob("*.py")
    return {module for source in sources for module in _modules(source)} - sys.stdlib_module_names


def _modules(source: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(source.read_text())):
        match node:
            case ast.Import(names=names):
                yield from (name.name.partition(".")[0] for name in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.partition(".")[0]
