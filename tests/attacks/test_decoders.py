"""What foreign servers say is decoded or refused, whatever it is."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.attacks.decoders import TARGETS
from tests.attacks.effort import effort

_KEPT = sorted(Path(__file__).with_name("corpus").glob("*/*"))


@pytest.mark.parametrize("file", _KEPT, ids=lambda file: f"{file.parent.name}-{file.name}")
def test_bytes_that_are_kept_break_no_promise(file: Path) -> None:
    TARGETS[file.parent.name](file.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
@effort
@given(data=st.data())
def test_bytes_that_were_changed_break_no_promise(target: str, data: st.DataObject) -> None:
    kept = data.draw(st.sampled_from([file.read_bytes() for file in _KEPT if file.parent.name == target]))
    start = data.draw(st.integers(0, len(kept)))
    TARGETS[target](kept[:start] + data.draw(st.binary()) + kept[start + data.draw(st.integers(0, 5)) :])
