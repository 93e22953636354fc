"""What the person at the keyboard sees: progress lines on stdout, one line on stderr for a failure."""

import time
from pathlib import Path

_STARTED = time.monotonic()


class Failure(Exception):  # noqa: N818 - it is no error of the program: it tells a person what to do
    """Something that a person can act on. Its text is one line: what is wrong and what to do about it."""


def say(subject: str, text: str) -> None:
    """Print one line of progress: the seconds since the start, what it is about, what happened."""
    print(f"{time.monotonic() - _STARTED:6.1f} s  {subject:<10} {text}", flush=True)


def last_line(text: str) -> str:
    """The last line of a program's output that says anything; it is nearly always the reason."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def tail(path: Path, lines: int) -> str:
    """The last `lines` lines of a log, or nothing where there is no log."""
    if not path.exists():
        return ""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
