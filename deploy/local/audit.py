"""`./dev audit`: what is known against the packages that the lock files name, and a list of them.

A service that cannot be asked is no clean bill: it is told, with an exit code of its own.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local import process, toolchain, web
from deploy.local.places import Places
from deploy.local.terminal import Failure, last_line, say

NPM_FOLDERS = ("web", "tests/clients/node")

FOUND = 1
SKIPPED = 3
_NAMES_SHOWN_MAX = 3


@dataclass(frozen=True)
class Verdict:
    """What is `known` against packages, a line for each, and why something could not be asked, if it could not."""

    known: tuple[str, ...] = ()
    skipped: str | None = None


def run(places: Places, folder: Path) -> int:
    """Write the lists of packages (CycloneDX) to `folder`, and tell what is known against these. Returns FOUND where
    something is, else SKIPPED where something could not be asked, else 0. Raises Failure.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"the lists of packages need a folder: {error}") from error
    write_bills(places, folder)
    say("audit", f"the packages are listed in {folder}")
    verdicts = {"Python": _of_python(places)}
    verdicts |= {f"npm ({name})": _of_npm(places, places.root / name) for name in NPM_FOLDERS}
    for name, verdict in verdicts.items():
        for line in _told(verdict):
            say("audit", f"{name}: {line}")
    return exit_code(verdicts)


def exit_code(verdicts: Mapping[str, Verdict]) -> int:
    if any(verdict.known for verdict in verdicts.values()):
        return FOUND
    return SKIPPED if any(verdict.skipped for verdict in verdicts.values()) else 0


def _told(verdict: Verdict) -> Iterator[str]:
    yield from verdict.known
    if verdict.skipped:
        yield f"skipped: {verdict.skipped}"
    elif not verdict.known:
        yield "nothing is known against any package"


def write_bills(places: Places, folder: Path) -> None:
    """A list of packages in CycloneDX for each lock file, by uv and npm themselves. Asks nobody."""
    toolchain.export(places, folder / "python.cdx.json", "--format", "cyclonedx1.5")
    for name in NPM_FOLDERS:
        options = ("sbom", "--package-lock-only", "--sbom-format", "cyclonedx")
        said = web.output_of_npm(places, places.root / name, *options)
        bill = json.dumps(json.loads(said), indent=2)
        (folder / f"npm-{name.replace('/', '-')}.cdx.json").write_text(bill)


def _of_python(places: Places) -> Verdict:
    environment = places.tools / "audit"
    environment.parent.mkdir(parents=True, exist_ok=True)
    toolchain.sync_apart(places, places.root / "deploy" / "audit", environment)
    requirements, report = environment / "requirements.txt", environment / "report.json"
    toolchain.export(places, requirements, "--no-emit-workspace", "--no-header")
    report.unlink(missing_ok=True)
    command: list[str | Path] = [
        environment / "bin" / "pip-audit",
        "--require-hashes",
        "--disable-pip",
        "-r",
        requirements,
    ]
    command += ["--progress-spinner", "off", "--format", "json", "--output", report]
    done = process.run(command, environment=os.environ, directory=places.root)
    return python_verdict(report.read_text() if report.exists() else "", last_line(done.stdout))


def _of_npm(places: Places, folder: Path) -> Verdict:
    return npm_verdict(web.output_of_npm(places, folder, "audit", "--json", "--package-lock-only", may_fail=True))


def python_verdict(report: str, last_words: str) -> Verdict:
    """What pip-audit's report says; `last_words` are the program's, for where there is none.

    A package that its service does not know counts as not asked for: pip-audit itself lets it pass.
    """
    if not report:
        return Verdict(skipped=f"pip-audit could not ask: {last_words}")
    packages: list[dict[str, Any]] = json.loads(report)["dependencies"]
    known = tuple(
        f"{package['name']} {package['version']}: {found['id']}, mended in {_listed(found['fix_versions'])}"
        for package in packages
        for found in package.get("vulns", ())
    )
    unasked = [package["name"] for package in packages if "skip_reason" in package]
    if not unasked:
        return Verdict(known)
    names = ", ".join(unasked[:_NAMES_SHOWN_MAX]) + (" …" if len(unasked) > _NAMES_SHOWN_MAX else "")
    return Verdict(known, f"the service knows nothing of {len(unasked)} of {len(packages)} packages: {names}")


def _listed(versions: list[str]) -> str:
    return ", ".join(versions) or "no version"


def npm_verdict(report: str) -> Verdict:
    """What `npm audit --json` says."""
    try:
        said = json.loads(report)
    except ValueError:
        return Verdict(skipped=f"npm could not ask: {last_line(report)}")
    if "vulnerabilities" not in said:
        return Verdict(skipped=f"npm could not ask: {said.get('message') or said.get('error')}")
    return Verdict(tuple(_npm_line(name, found) for name, found in sorted(said["vulnerabilities"].items())))


def _npm_line(name: str, found: Mapping[str, Any]) -> str:
    via = [each.get("url") if isinstance(each, dict) else f"by way of {each}" for each in found.get("via", ())]
    return (
        f"{name} {found.get('range', '')}: {found.get('severity', 'of unknown severity')}, {', '.join(map(str, via))}"
    )
