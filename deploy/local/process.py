"""Child processes that outlive a crash of their parent, and how to find and end them afterwards.

A pid alone may be somebody else's by the time it is read again, so a record holds the pid and the moment of birth.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_POLL_SECONDS = 0.05
_programs: "set[subprocess.Popen[str]]" = set()  # what `run` runs now


@dataclass(frozen=True)
class Account:
    """The unprivileged account that a server runs under when we are root and the server refuses root."""

    uid: int
    gid: int

    def own(self, path: Path) -> None:
        os.chown(path, self.uid, self.gid)


def birth(pid: int) -> str | None:
    """When process `pid` was born, in whatever unit the system has; None when there is no such process."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()  # the name before it may hold blanks
        except OSError:
            return None
        return None if fields[0] == "Z" else fields[19]
    listing = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listing.stdout.strip() or None


def record(pid: int, path: Path) -> None:
    """Remember process `pid` in the file `path`, for `end_recorded` after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{pid} {birth(pid)}\n")


def recorded(path: Path) -> int | None:
    """The process that `path` remembers, if that very process still runs."""
    try:
        pid, _, born = path.read_text().strip().partition(" ")
    except OSError:
        return None
    return int(pid) if pid.isdigit() and born and birth(int(pid)) == born else None


def end_recorded(path: Path, first: signal.Signals = signal.SIGTERM, grace_seconds: float = 10) -> bool:
    """End what a former run left behind. Returns whether there was anything; the record is gone afterwards."""
    pid = recorded(path)
    if pid is not None:
        end(pid, first, grace_seconds)
    path.unlink(missing_ok=True)
    return pid is not None


def end(pid: int, first: signal.Signals, grace_seconds: float) -> None:
    """Ask process `pid` to end with `first`; kill its whole group when it is still there after the grace."""
    born = birth(pid)
    if born is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, first)
    deadline = time.monotonic() + grace_seconds
    while birth(pid) == born:
        _collect(pid)
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            deadline += grace_seconds
        time.sleep(_POLL_SECONDS)


def _collect(pid: int) -> None:
    """Take the exit status of `pid` when it is our child, so that it does not stay as a zombie."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def start(  # noqa: PLR0913 - each is one property of the process
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str],
    directory: Path,
    log: Path,
    account: Account | None = None,
    append: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a long-lived process in a session of its own (Ctrl-C does not reach it), its output in `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab" if append else "wb") as output:
        return subprocess.Popen(
            command,
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )


def run_in_front(command: Sequence[str | Path], *, environment: Mapping[str, str], directory: Path) -> int:
    """Run a program at our terminal and return its exit code. Ctrl-C is its business; a SIGTERM to us is passed on."""
    with subprocess.Popen(command, env=environment, cwd=directory) as child:
        handlers = {
            signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),  # the terminal told the child too
            signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGINT)),
        }
        try:
            return child.wait()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def run(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str],
    directory: Path,
    account: Account | None = None,
    text: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end with its output captured (stderr in stdout); `text` is its input.

    From another thread, `interrupt_programs` makes it end early.
    """
    with subprocess.Popen(
        command,
        env=environment,
        cwd=directory,
        stdin=subprocess.DEVNULL if text is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    ) as program:
        _programs.add(program)
        try:
            output, _ = program.communicate(text)
        finally:
            _programs.discard(program)
    return subprocess.CompletedProcess(command, program.returncode, output)


def interrupt_programs() -> None:
    """End what `run` runs at this moment, in whatever thread: nobody waits for an unwanted download."""
    for program in list(_programs):
        program.terminate()
