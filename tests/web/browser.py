"""A browser for the tests of the page: found on this machine, or unpacked from Debian's packages once."""

import shutil
from pathlib import Path

from deploy.local import locks, packages
from deploy.local.places import Places
from deploy.local.terminal import Failure

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_PACKAGES = ("chromium", "fonts-dejavu-core")


def chromium() -> tuple[Path, dict[str, str]]:
    """The program, and what it needs in its environment. Raises Failure where there is none to be had."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is not None:
        return Path(found), {}
    if not packages.are_available():
        raise Failure("needs Chromium: install it, as there are no Debian packages for this machine")
    places = Places.of()
    unpacked = packages.Unpacked(places.tools / "browser")
    with locks.waited_for(places.tools / "browser.lock", "the browser"):
        if not all(unpacked.holds(name) for name in _PACKAGES):
            places.tools.mkdir(parents=True, exist_ok=True)
            unpacked.add(_PACKAGES)
    # PulseAudio's own library is in a folder of its own, which only an installed one is told of.
    folders = [unpacked.loader_path, *map(str, unpacked.folder.glob("usr/lib/*-linux-*/pulseaudio"))]
    return unpacked.folder / "usr/lib/chromium/chromium", {"LD_LIBRARY_PATH": ":".join(folders)}
