#!/usr/bin/env python3
"""`parley MODULE …` in an image: runs a module as process 1 has to be run, with the secrets that lie in files.

Each file of /run/secrets that is named like a variable is that variable, where the environment does not set it: so they
come from Docker, Compose or Kubernetes alike, and stay out of what `inspect` shows.
"""

import os
import re
import runpy
import signal
import sys
from pathlib import Path
from types import FrameType

SECRETS = Path("/run/secrets")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")


def main() -> None:
    if len(sys.argv) < 2:  # noqa: PLR2004 - the program's name and a module's
        sys.exit("usage: parley MODULE [ARGUMENT]...")
    # The kernel gives process 1 no signal that it does not ask for: one that comes while the service is being loaded,
    # before it asks for any itself, would be lost.
    signal.signal(signal.SIGTERM, _end)
    os.environ.update(secrets_of(SECRETS, os.environ))
    del sys.argv[0]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except _StoppedError as stopped:
        # Everything is closed by now. To take a thousand modules apart as well would take as long again, and on a busy
        # machine longer than a stop is waited for.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(stopped.status)


def secrets_of(folder: Path, environment: "os._Environ[str] | dict[str, str]") -> dict[str, str]:
    """The variables of the files in `folder` that `environment` does not set."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    wanted = (file for file in files if _VARIABLE.fullmatch(file.name) and not environment.get(file.name))
    return {file.name: file.read_text().rstrip("\n") for file in wanted if file.is_file()}


class _StoppedError(SystemExit):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _end(number: int, _frame: FrameType | None) -> None:
    raise _StoppedError(128 + number)


if __name__ == "__main__":
    main()
