"""One version, and workflows that run what anybody can run."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local import version
from deploy.local.terminal import Failure
from gateway.openapi import DOCUMENT

_ROOT = Path(__file__).parents[2]
_WORKFLOWS = sorted((_ROOT / ".github/workflows").glob("*.yml"))
_PINNED = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}")
# Beside our own commands a workflow may log in, compare and publish.
_OTHERS = ("echo ", "test ", "gh ", "docker login ", "helm registry login ")


def _jobs(workflow: Path) -> Mapping[str, Mapping[str, Any]]:
    return dict(yaml.safe_load(workflow.read_text())["jobs"])


def _commands(job: Mapping[str, Any]) -> Iterator[str]:
    for step in job["steps"]:
        for line in step.get("run", "").splitlines():
            yield from (command.strip() for command in line.split(" | "))


def test_it_is_the_same_everywhere() -> None:
    found = list(version.places(_ROOT))

    assert {said for _, said in found} == {version.current(_ROOT)}
    files = {path.relative_to(_ROOT).as_posix() for path, _ in found}
    assert files >= {"pyproject.toml", "gateway/pyproject.toml", "uv.lock", "web/package.json", "web/package-lock.json"}
    assert version.current(_ROOT) == installed_version("parley-gateway") == DOCUMENT["version"]


def test_another_one_is_another_one_everywhere_and_has_what_was_unreleased(tmp_path: Path) -> None:
    for path in {path for path, _ in version.places(_ROOT)}:
        copy = tmp_path / path.relative_to(_ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n\n### Added\n\n- A thing.\n")
    before = len(list(version.places(tmp_path)))

    version.change(tmp_path, "7.8.9-rc.1")

    assert [said for _, said in version.places(tmp_path)] == ["7.8.9-rc.1"] * before
    changelog = (tmp_path / "CHANGELOG.md").read_text()
    assert re.search(r"## \[Unreleased\]\n\n## \[7\.8\.9-rc\.1\] - \d{4}-\d\d-\d\d\n\n### Added\n", changelog)
    for refused in ("7.8.9-rc.1", "next", "v1.0.0", "1.0"):
        with pytest.raises(Failure, match=re.escape(refused)):
            version.change(tmp_path, refused)


def test_notes_of_a_release_are_what_the_changelog_says_of_it(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(_ROOT / ".ci/release-notes", tmp_path / ".ci")
    (tmp_path / "dev").write_text("#!/bin/sh\necho 0.2.0\n")
    (tmp_path / "dev").chmod(0o755)

    def notes(changelog: str) -> "subprocess.CompletedProcess[str]":
        (tmp_path / "CHANGELOG.md").write_text(changelog)
        return subprocess.run([tmp_path / ".ci/release-notes"], capture_output=True, text=True, check=False)

    found = notes("# C\n\n## [Unreleased]\n\nlater\n\n## [0.2.0] - 2030-01-01\n\n- This.\n\n## [0.1.0]\n\n- That.\n")
    assert found.stdout.strip() == "- This."
    assert notes("# C\n\n## [Unreleased]\n\n- Nothing of it.\n").returncode == 1


@pytest.mark.parametrize("workflow", _WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_what_anybody_can_run(workflow: Path) -> None:
    """So that what fails there can be seen to fail here; the files that it names are there, and can be run."""
    for name, job in _jobs(workflow).items():
        ours = [command.split() for command in _commands(job) if not command.startswith(_OTHERS)]
        assert ours, name
        for program, *_ in ours:
            assert program in {"./dev", ".ci/run", ".ci/images", ".ci/join-images", ".ci/chart", ".ci/release-notes"}
            assert os.access(_ROOT / program, os.X_OK), program


@pytest.mark.parametrize("workflow", _WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_takes_nothing_that_may_change_and_is_bounded(workflow: Path) -> None:
    told = yaml.safe_load(workflow.read_text())

    assert told["permissions"] == {"contents": "read"}
    for name, job in told["jobs"].items():
        assert job["timeout-minutes"] <= 60, name
        assert "latest" not in str(job["runs-on"]), name
        for step in job["steps"]:
            assert "uses" not in step or _PINNED.fullmatch(step["uses"]), name
            assert "${{" not in step.get("run", ""), f"{name}: what is inserted into a script becomes part of it"


def test_every_change_is_tested_and_a_release_is_tested_before_anything_is_published() -> None:
    for name in ("ci", "release"):
        jobs = _jobs(_ROOT / f".github/workflows/{name}.yml")
        assert ".ci/run" in list(_commands(jobs["tests"]))
    changes, release = (_jobs(_ROOT / f".github/workflows/{name}.yml") for name in ("ci", "release"))

    assert {"./dev check", ".ci/images", ".ci/chart"} <= {
        command for job in changes.values() for command in _commands(job)
    }
    assert {name: job.get("needs") for name, job in release.items()} == {
        "tests": None,
        "images": "tests",
        "publish": "images",
    }
    assert [name for name, job in release.items() if "packages" in job.get("permissions", {})] == ["images", "publish"]
