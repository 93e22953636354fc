"""`docs/guarantees.md` names tests that exist, and every promise has one."""

import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_TEXT = (_ROOT / "docs" / "guarantees.md").read_text()
_NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", _TEXT)))
_PROMISES = re.split(r"^## ", _TEXT, flags=re.MULTILINE)[1:]


@pytest.mark.parametrize(("path", "name"), _NAMED, ids=[name for _, name in _NAMED])
def test_a_test_that_is_named_exists(path: str, name: str) -> None:
    assert re.search(rf"^(async )?def {name}\(", (_ROOT / path).read_text(), re.MULTILINE)


def test_each_promise_has_its_limits_and_its_tests() -> None:
    assert [promise.split(":")[0] for promise in _PROMISES] == [f"G{number}" for number in range(1, 10)]
    assert all("*Limits.*" in promise and "::test_" in promise for promise in _PROMISES)
