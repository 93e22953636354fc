"""Clocks of processes that are wrong, or jump while a process runs. Linux, with a C compiler, only.

What is wrong is what a process is told when it asks for the time of day, in whatever language the asking part of it is
written: `wrong_clock.c` is loaded before the C library, and answers instead.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx2

from tests.support.stack import ServiceProcess

_SOURCE = Path(__file__).with_name("wrong_clock.c")
_COMPILER = shutil.which("cc") if sys.platform == "linux" else None
CAN_BE_WRONG = _COMPILER is not None


def compiled(folder: Path) -> Path:
    """What makes clocks wrong, to be loaded by processes."""
    assert _COMPILER is not None
    library = folder / "wrong_clock.so"
    subprocess.run([_COMPILER, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, _SOURCE], check=True)
    return library


class Clock:
    """The clock of the processes that start with `variables`; right until it is set."""

    def __init__(self, library: Path, file: Path) -> None:
        self._library = library
        self._file = file
        self._file.write_bytes(bytes(8))

    @property
    def variables(self) -> Mapping[str, str]:
        return {"LD_PRELOAD": str(self._library), "WRONG_CLOCK": str(self._file)}

    def set(self, ahead_seconds: int) -> None:
        """Have it jump, at once: ahead of the right time, or behind it."""
        file = os.open(self._file, os.O_WRONLY)
        try:
            os.pwrite(file, ahead_seconds.to_bytes(8, sys.byteorder, signed=True), 0)
        finally:
            os.close(file)


async def seconds_ahead(process: ServiceProcess) -> float:
    """By how much the clock of `process` is ahead of ours, as the date of its answers says: to a second or two."""
    async with httpx2.AsyncClient(timeout=5) as http:
        answer = await http.get(f"{process.url}/health/live")
    return parsedate_to_datetime(answer.headers["date"]).timestamp() - time.time()
