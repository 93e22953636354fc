"""Crash points and switched-off protections: for tests alone, and exactly where they are asked for."""

import subprocess
import sys
from signal import SIGKILL

import pytest
from pydantic import ValidationError

from shared.faults import configure_faults, sabotaged
from shared.settings import Profile, ServiceSettings

_PROGRAM = """
import sys
from shared.faults import configure_faults, reach
from shared.settings import Profile, ServiceSettings

configure_faults(ServiceSettings(profile=Profile.LOCAL, fault=sys.argv[1]))
for number in range(3):
    reach("worker.after_claim")
    reach("worker.mid_text")
    print(number, flush=True)
"""


def _run(fault: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, fault], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_a_process_dies_at_its_point_as_by_kill_9() -> None:
    assert _run("worker.mid_text") == (-SIGKILL, "")


def test_a_process_dies_at_the_visit_that_was_asked_for() -> None:
    assert _run("worker.mid_text:3") == (-SIGKILL, "0\n1\n")


def test_without_a_fault_nothing_happens() -> None:
    assert _run("") == (0, "0\n1\n2\n")


@pytest.mark.parametrize(("fault", "sabotage"), [("worker.after_lunch", None), (None, "ledger,gravity")])
def test_a_name_that_nobody_knows_is_refused(fault: str | None, sabotage: str | None) -> None:
    with pytest.raises(ValueError, match="unknown"):
        configure_faults(ServiceSettings(profile=Profile.LOCAL, fault=fault, sabotage=sabotage))


@pytest.mark.parametrize(("fault", "sabotage"), [("worker.mid_text", None), (None, "ledger")])
def test_production_refuses_both(fault: str | None, sabotage: str | None) -> None:
    with pytest.raises(ValidationError, match="only in the local profile"):
        ServiceSettings(profile=Profile.PRODUCTION, fault=fault, sabotage=sabotage)


def test_only_what_is_named_is_switched_off() -> None:
    configure_faults(ServiceSettings(profile=Profile.LOCAL, sabotage="ledger,barrier"))
    try:
        assert sabotaged("ledger")
        assert sabotaged("barrier")
        assert not sabotaged("confirm")
    finally:
        configure_faults(ServiceSettings(profile=Profile.LOCAL))
