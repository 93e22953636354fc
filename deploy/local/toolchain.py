"""Gets uv and lets it install the locked Python packages into `.venv`."""

import configparser
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local import packages, process
from deploy.local.places import Places
from deploy.local.terminal import Failure, last_line, say

_UV_OLDEST = (0, 9)  # as `required-version` in pyproject.toml
_SYSTEM_CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
_INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX")


def sync(places: Places) -> None:
    """Install what `uv.lock` names, and our own packages, into `.venv`; quick when nothing changed.

    Raises Failure with uv's reason.
    """
    uv = _uv(places)
    environment = _uv_environment(places, uv)
    if not places.venv.exists():
        say("python", "installing the Python packages")
    if any(environment.get(name) for name in _INDEX_VARIABLES):
        _sync_from_mirror(uv, places, environment)
    else:
        _run_uv(places, environment, [uv, "sync", "--all-packages", "--locked"])
    say("python", "packages are in place")


def sync_apart(places: Places, project: Path, environment_folder: Path) -> None:
    """Install what the lock file in `project` names into an environment of its own, where it cannot meet ours.

    `project` is no part of the workspace. Raises Failure with uv's reason.
    """
    uv = _uv(places)
    environment = _uv_environment(places, uv) | {
        "UV_PROJECT_ENVIRONMENT": str(environment_folder),
        "VIRTUAL_ENV": str(environment_folder),
        "UV_PYTHON": sys.executable,
    }
    if not any(environment.get(name) for name in _INDEX_VARIABLES):
        _run_uv(places, environment, [uv, "sync", "--project", project, "--locked"])
        return
    requirements = environment_folder.with_suffix(".txt")
    export: list[str | Path] = [uv, "export", "--project", project, "--frozen", "--no-header", "--quiet"]
    _run_uv(places, environment, [*export, "--output-file", requirements])
    _run_uv(places, environment, [uv, "venv", "--quiet", "--clear", environment_folder])
    python = environment_folder / "bin" / "python"
    _run_uv(places, environment, [uv, "pip", "install", "--python", python, "--require-hashes", "-r", requirements])


def export(places: Places, output: Path, *options: str) -> None:
    """Write what `uv.lock` names to `output`, as uv's `options` say. Asks nobody. Raises Failure with uv's reason."""
    uv = _uv(places)
    command: list[str | Path] = [uv, "export", "--all-packages", "--frozen", "--quiet", *options]
    _run_uv(places, _uv_environment(places, uv), [*command, "--output-file", output])


def _sync_from_mirror(uv: Path, places: Places, environment: Mapping[str, str]) -> None:
    """The same as `uv sync`, where an index is set: the lock names files of the public one, a list with hashes none."""
    requirements = places.local / "requirements.txt"
    export = ["export", "--all-packages", "--frozen", "--no-emit-workspace", "--no-header", "--quiet"]
    _run_uv(places, environment, [uv, *export, "--output-file", requirements])
    if not places.python.exists():
        _run_uv(places, environment, [uv, "venv", "--quiet", places.venv])
    _run_uv(places, environment, [uv, "pip", "install", "--require-hashes", "-r", requirements])
    ours = sorted(path.parent for path in places.root.glob("*/pyproject.toml"))
    editable = [part for folder in ours for part in ("--editable", str(folder))]
    _run_uv(places, environment, [uv, "pip", "install", "--no-deps", *editable])


def _run_uv(places: Places, environment: Mapping[str, str], command: list[str | Path]) -> None:
    done = process.run(command, environment=environment, directory=places.root)
    places.logs.mkdir(exist_ok=True)
    (places.logs / "uv.log").write_text(done.stdout)
    if done.returncode:
        what = f"uv {command[1]}"
        raise Failure(f"{what} failed: {last_line(done.stdout)} (all of it: .local/logs/uv.log)")


def _uv(places: Places) -> Path:
    """A uv that runs: the one on the path, ours from an earlier time, or a new one under `.local/tools`."""
    ours = _own_uv(places)
    found = shutil.which("uv")
    for candidate in ([Path(found)] if found else []) + [ours]:
        if _is_recent(candidate, places):
            return candidate
    say("python", "getting uv")
    pip = _pip(places)
    environment = os.environ | pip.environment | {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
    requirement = "uv>=" + ".".join(str(number) for number in _UV_OLDEST)
    command = [*pip.command, "install", "--quiet", "--no-cache-dir", "--upgrade", requirement, "--target"]
    done = process.run([*command, ours.parents[1]], environment=environment, directory=places.root)
    if done.returncode or not ours.exists():
        raise Failure(
            f"could not get uv with pip ({last_line(done.stdout)}): check the network, or install uv yourself"
        )
    return ours


def _own_uv(places: Places) -> Path:
    return places.tools / "uv" / "bin" / "uv"


def _is_recent(uv: Path, places: Places) -> bool:
    """Whether it runs at all (a version manager's stand-in may not) and is new enough for this repository."""
    try:
        done = process.run([uv, "--version"], environment=os.environ, directory=places.root)
    except OSError:
        return False
    version = re.match(r"uv (\d+)\.(\d+)", done.stdout)
    return version is not None and (int(version[1]), int(version[2])) >= _UV_OLDEST


@dataclass(frozen=True)
class _Pip:
    command: tuple[str | Path, ...]
    environment: Mapping[str, str]


def _pip(places: Places) -> _Pip:
    """A pip that runs: Python's own, the one of a new virtual environment, or Debian's wheel of it."""
    own = _Pip((sys.executable, "-m", "pip"), {})
    if _works(own, places):
        return own
    environment = places.tools / "pip"
    process.run([sys.executable, "-m", "venv", "--clear", environment], environment=os.environ, directory=places.root)
    of_venv = _Pip((environment / "bin" / "python", "-m", "pip"), {})
    if _works(of_venv, places):
        return of_venv
    if packages.are_available():
        unpacked = packages.Unpacked(places.tools / "debian")
        places.tools.mkdir(parents=True, exist_ok=True)
        unpacked.add(["python3-pip-whl"])
        for wheel in unpacked.folder.glob("usr/share/python-wheels/pip-*.whl"):
            return _Pip((sys.executable, "-m", "pip"), {"PYTHONPATH": str(wheel)})
    raise Failure("needs uv, or a Python with pip or venv to get it: install one of them")


def _works(pip: _Pip, places: Places) -> bool:
    try:
        command = [*pip.command, "--version"]
        done = process.run(command, environment=os.environ | pip.environment, directory=places.root)
    except OSError:
        return False
    return done.returncode == 0


def _uv_environment(places: Places, uv: Path) -> dict[str, str]:
    """uv's environment: this Python, no downloads of others, and pip's settings, which uv does not read."""
    ignored = ("VIRTUAL_ENV", "PYTHONPATH", "UV_PROJECT", "UV_WORKING_DIRECTORY")
    environment = {name: value for name, value in os.environ.items() if name not in ignored}
    environment |= {
        "UV_PROJECT_ENVIRONMENT": str(places.venv),
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_PROGRESS": "1",
        "VIRTUAL_ENV": str(places.venv),
    }
    if not places.python.exists():
        environment["UV_PYTHON"] = sys.executable
    if uv == _own_uv(places):
        environment.setdefault("UV_CACHE_DIR", str(places.local / "cache" / "uv"))  # nobody else here has use for one
    pip = pip_settings()
    index = os.environ.get("PIP_INDEX_URL") or pip.get("index-url")
    if index and not any(os.environ.get(name) for name in _INDEX_VARIABLES):
        environment["UV_DEFAULT_INDEX"] = index
    certificates = [os.environ.get("PIP_CERT"), pip.get("cert"), *_SYSTEM_CERTIFICATES]
    usable = [file for file in certificates if file and Path(file).is_file()]
    if usable and "SSL_CERT_FILE" not in environment:
        environment["SSL_CERT_FILE"] = usable[0]  # uv's own list lacks a company's certificates
    return environment


def pip_settings() -> dict[str, str]:
    """The settings for all commands from pip's configuration files; the later file wins, as in pip."""
    home = Path.home()
    files = [Path(name) for name in ("/etc/xdg/pip/pip.conf", "/etc/pip.conf")]
    files += [home / ".pip/pip.conf", home / ".config/pip/pip.conf"]
    if named := os.environ.get("PIP_CONFIG_FILE"):
        files.append(Path(named))
    reader = configparser.RawConfigParser()
    try:
        reader.read(files)
    except configparser.Error as error:
        raise Failure(f"pip's configuration cannot be read: {error}") from error
    return dict(reader["global"]) if reader.has_section("global") else {}
