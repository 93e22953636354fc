"""Locks between several `./dev` of one checkout."""

import subprocess
import sys
from pathlib import Path

from deploy.local import locks

HOLDER = """
import sys, time
from pathlib import Path
from deploy.local import locks
with locks.held(Path(sys.argv[1])) as ours:
    print(ours, flush=True)
    time.sleep(600)
"""


def test_a_lock_is_free_again_when_its_holder_was_killed(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, lock], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "True\n"
        assert locks.is_held(lock)
        with locks.held(lock) as ours:
            assert not ours

        holder.kill()
        holder.wait()

    assert not locks.is_held(lock)
    with locks.held(lock) as ours:
        assert ours
