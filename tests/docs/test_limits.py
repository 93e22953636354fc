"""`docs/limits.md` has every limit that is a setting, with the default and the code that hold."""

import re
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PAGE = (_ROOT / "docs" / "limits.md").read_text()
_GUIDE = (_ROOT / "docs" / "api.md").read_text()
_ROWS = re.findall(r"^\| .+ \| `([A-Z_]+)` \| (.+) \| (.*) \|$", _PAGE, re.MULTILINE)
# A test of `.env.example` compares it with the settings themselves.
_DEFAULTS = dict(re.findall(r"^#([A-Z][A-Z0-9_]*)=(.*)$", (_ROOT / ".env.example").read_text(), re.MULTILINE))


def test_it_has_every_upper_limit_once() -> None:
    named = [name for name, _, _ in _ROWS]

    assert len(named) == len(set(named))
    assert {name for name in _DEFAULTS if name.endswith("_MAX")} - set(named) == set()


def test_its_defaults_are_those_of_the_settings() -> None:
    told = {name: default for name, default, _ in _ROWS}

    assert told == {name: _DEFAULTS[name] or "none" for name in told}


def test_the_codes_that_it_names_are_those_of_the_guide() -> None:
    codes = {code for _, _, answer in _ROWS for code in re.findall(r"[45]\d\d `([a-z_]+)`", answer)}

    assert codes
    assert {code for code in codes if f"`{code}`" not in _GUIDE} == set()
