"""Where Redis comes from, for the peer that needs it: this system, or Debian's packages, unpacked and not installed."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from deploy.local.packages import Unpacked, are_available
from deploy.local.places import Places
from deploy.local.terminal import Failure

_PACKAGE = "redis-server"


def provide() -> None:
    """Fetch it where it is missing. Raises Failure."""
    if shutil.which(_PACKAGE) or _unpacked().holds(_PACKAGE):
        return
    if not are_available():
        raise Failure("the peer celery needs a redis-server: install one, or leave it out with --systems")
    _unpacked().add([_PACKAGE])


def command() -> list[str | Path]:
    return [shutil.which(_PACKAGE) or _unpacked().folder / "usr" / "bin" / "redis-server"]


def environment() -> Mapping[str, str]:
    """What the unpacked one needs to find its libraries."""
    if shutil.which(_PACKAGE):
        return {}
    return {"LD_LIBRARY_PATH": _unpacked().loader_path, "PATH": os.environ.get("PATH", os.defpath)}


def _unpacked() -> Unpacked:
    return Unpacked(Places.of().servers / "redis")
