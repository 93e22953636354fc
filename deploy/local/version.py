"""`./dev version`: the version, which is that of `pyproject.toml`; wherever else it stands, it stands there by this."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from deploy.local.terminal import Failure

_FORM = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(?:-(?:alpha|beta|rc)\.[0-9]+)?")
_OF_PROJECT = r'(?m)^version = "(?P<version>[^"]+)"'
# By a pattern for the files; each names the version as often as its pattern is found there.
_PLACES = {
    "pyproject.toml": _OF_PROJECT,
    "*/pyproject.toml": _OF_PROJECT,
    "uv.lock": r'(?m)^name = "parley(?:-[a-z-]+)?"\nversion = "(?P<version>[^"]+)"',
    "web/package.json": r'(?m)^  "version": "(?P<version>[^"]+)"',
    "web/package-lock.json": r'"name": "parley-web",\n\s+"version": "(?P<version>[^"]+)"',
    "deploy/kubernetes/**/Chart.yaml": r'(?m)^(?:appVersion|version): "?(?P<version>[^"\s]+)',
}
_UNRELEASED = "## [Unreleased]\n"


def current(root: Path) -> str:
    """The version of the checkout at `root`."""
    found = re.search(_OF_PROJECT, (root / "pyproject.toml").read_text())
    assert found, "pyproject.toml has no version"
    return found["version"]


def places(root: Path) -> Iterator[tuple[Path, str]]:
    """Every place where a version of ours stands: the file, and the version there."""
    for path, pattern in _files(root):
        for found in re.finditer(pattern, path.read_text()):
            yield path, found["version"]


def change(root: Path, version: str) -> None:
    """Make `version` the version everywhere, and give it what the changelog says of what is unreleased.

    Raises Failure where it is none, or is there already.
    """
    if _FORM.fullmatch(version) is None:
        raise Failure(f"{version} is no version: 1.2.3, or before it 1.2.3-alpha.1, -beta.1, -rc.1")
    changelog = root / "CHANGELOG.md"
    said = changelog.read_text()
    if f"## [{version}]" in said or version == current(root):
        raise Failure(f"{version} is there already: see CHANGELOG.md")
    for path, pattern in _files(root):
        path.write_text(re.sub(pattern, lambda found: _with_version(found, version), path.read_text()))
    heading = f"## [{version}] - {datetime.now(UTC).date().isoformat()}\n"
    changelog.write_text(said.replace(_UNRELEASED, f"{_UNRELEASED}\n{heading}", 1))


def _files(root: Path) -> Iterator[tuple[Path, str]]:
    for files, pattern in _PLACES.items():
        yield from ((path, pattern) for path in sorted(root.glob(files)))


def _with_version(found: "re.Match[str]", version: str) -> str:
    start, end = (place - found.start() for place in found.span("version"))
    return f"{found[0][:start]}{version}{found[0][end:]}"
