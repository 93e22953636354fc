"""`python -m deploy.local.keep MODULE`: run a service and start it again when it dies, as supervisors in production do.

A service that ends by itself soon after its start is broken, not dead: its exit code is passed on. SIGTERM is passed on
once, and its outcome too.
"""

import ctypes
import signal
import subprocess
import sys
import time
from types import FrameType

_SOON_SECONDS = 10.0
_PAUSE_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1


def main(module: str) -> int:
    is_stopping = False
    child: subprocess.Popen[bytes] | None = None

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_stopping
        if not is_stopping and child is not None:
            child.terminate()
        is_stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        started_at = time.monotonic()
        # A session of its own: a signal to our group must not reach it a second time.
        child = subprocess.Popen([sys.executable, "-m", module], start_new_session=True, preexec_fn=_die_with_parent)  # noqa: PLW1509 - no threads here
        code = child.wait()
        is_killed = code < 0 or time.monotonic() - started_at > _SOON_SECONDS
        if is_stopping or not is_killed:
            return code if code >= 0 else 128 - code
        print(f"{module} ended with code {code}; starting it again", flush=True)
        time.sleep(_PAUSE_SECONDS)


def _die_with_parent() -> None:
    """On Linux, a service does not outlive its keeper, whatever happens to that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
