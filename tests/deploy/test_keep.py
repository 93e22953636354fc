"""A service under its keeper: killed, it comes back; broken or stopped, it does not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_SERVICE = """
import os, pathlib, signal, sys, time
def stop(*_):
    pathlib.Path("stops").open("a").write("x")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
with open("pids", "a") as pids:
    pids.write(f"{os.getpid()}\\n")
time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "steady.py").write_text(_SERVICE)
    (tmp_path / "broken.py").write_text("raise SystemExit(7)")
    return tmp_path


@pytest.fixture
def keeper(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    started = _keep("steady", folder)
    yield started
    started.kill()
    started.wait()


def _keep(module: str, folder: Path) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    return subprocess.Popen(
        [sys.executable, "-m", "deploy.local.keep", module],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def _pids(folder: Path, count: int) -> list[int]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        path = folder / "pids"
        pids = [int(line) for line in path.read_text().splitlines()] if path.exists() else []
        if len(pids) >= count:
            return pids
        time.sleep(0.02)
    raise AssertionError(f"not started {count} times")


def test_a_killed_service_is_started_again(keeper: "subprocess.Popen[bytes]", folder: Path) -> None:
    os.kill(_pids(folder, 1)[0], signal.SIGKILL)

    assert len(_pids(folder, 2)) == 2
    assert keeper.poll() is None


def test_a_stop_reaches_the_service_once(keeper: "subprocess.Popen[bytes]", folder: Path) -> None:
    _pids(folder, 1)

    os.killpg(keeper.pid, signal.SIGTERM)

    assert keeper.wait(20) == 0
    assert (folder / "stops").read_text() == "x"


def test_a_service_that_fails_at_its_start_is_not_started_again(folder: Path) -> None:
    assert _keep("broken", folder).wait(20) == 7


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process's life to its parent's")
def test_no_service_outlives_its_keeper(keeper: "subprocess.Popen[bytes]", folder: Path) -> None:
    [pid] = _pids(folder, 1)

    keeper.kill()

    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
