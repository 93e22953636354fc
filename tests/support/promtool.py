"""promtool, Prometheus' own judge of rules: of this machine, or unpacked from its package."""

import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.local import packages
from deploy.local.places import Places
from deploy.local.terminal import Failure


def promtool() -> Path:
    """The program. Skips the test where there is none and no way to get it."""
    if installed := shutil.which("promtool"):
        return Path(installed)
    unpacked = packages.Unpacked(Places.of().local / "tools" / "prometheus")
    program = unpacked.folder / "usr/bin/promtool"
    if not program.exists():
        if not packages.are_available():
            pytest.skip("needs promtool, of Prometheus, and this is no Debian to get it from")
        try:
            unpacked.add_alone("prometheus")
        except Failure as failure:
            pytest.skip(f"needs promtool, of Prometheus: {failure}")
    return program


def run(*arguments: str | Path) -> str:
    """What promtool says; fails with that if it finds fault."""
    done = subprocess.run([promtool(), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
