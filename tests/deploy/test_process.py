"""Ending what a killed run left behind, and nothing else."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import process


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True) as child:
        yield child
        child.kill()


def test_a_recorded_process_is_ended_and_its_record_removed(sleeper: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    record = tmp_path / "sleeper.pid"
    process.record(sleeper.pid, record)

    assert process.end_recorded(record)

    assert process.birth(sleeper.pid) is None
    assert not record.exists()


def test_a_process_that_only_has_the_same_pid_is_spared(sleeper: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    record = tmp_path / "stale.pid"
    record.write_text(f"{sleeper.pid} 1\n")

    assert not process.end_recorded(record)

    assert sleeper.poll() is None


def test_a_record_that_is_missing_or_garbled_means_nothing_runs(tmp_path: Path) -> None:
    (tmp_path / "garbled").write_text("?")

    assert process.recorded(tmp_path / "missing") is None
    assert process.recorded(tmp_path / "garbled") is None


def test_a_process_that_ignores_the_request_is_killed_with_its_children() -> None:
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout
        child.stdout.readline()

        process.end(child.pid, signal.SIGTERM, grace_seconds=0.2)

        assert process.birth(child.pid) is None


def test_no_process_is_born_at_a_pid_that_is_not_there() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()

    assert process.birth(child.pid) is None
    assert process.birth(os.getpid())
