"""`docs/security.md` names tests that exist, and none of what attacks is left out of it."""

import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (_ROOT / "docs" / "security.md").read_text())))


@pytest.mark.parametrize(("path", "name"), _NAMED, ids=[name for _, name in _NAMED])
def test_a_test_that_is_named_exists(path: str, name: str) -> None:
    assert re.search(rf"^(async )?def {name}\(", (_ROOT / path).read_text(), re.MULTILINE)


def test_each_file_of_attacks_is_named() -> None:
    files = {str(file.relative_to(_ROOT)) for file in (_ROOT / "tests" / "attacks").glob("test_*.py")}

    assert files <= {path for path, _ in _NAMED}
