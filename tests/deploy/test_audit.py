"""What we are made of: locked with hashes, listed, asked about, and run by nobody special."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from deploy.local import audit
from deploy.local.audit import FOUND, SKIPPED, Verdict, npm_verdict, python_verdict
from deploy.local.places import Places

ROOT = Path(__file__).resolve().parents[2]
_OURS = [
    path for path in ROOT.rglob("*") if not {".venv", ".local", "node_modules"} & set(path.relative_to(ROOT).parts)
]
UV_LOCKS = sorted(path for path in _OURS if path.name == "uv.lock")
NPM_LOCKS = sorted(path for path in _OURS if path.name == "package-lock.json")
DOCKERFILES = sorted(path for path in _OURS if path.name == "Dockerfile")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("lock", UV_LOCKS, ids=name_of)
def test_every_file_of_a_python_package_is_locked_by_its_hash(lock: Path) -> None:
    packages = tomllib.loads(lock.read_text())["package"]
    foreign = [each for each in packages if not {"editable", "virtual"} & set(each["source"])]

    assert foreign
    for package in foreign:
        files = [*filter(None, [package.get("sdist")]), *package.get("wheels", [])]
        assert files, package["name"]
        assert set(package["source"]) == {"registry"}
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", file["hash"]) for file in files)


@pytest.mark.parametrize("lock", NPM_LOCKS, ids=name_of)
def test_every_npm_package_is_locked_by_its_hash(lock: Path) -> None:
    packages: dict[str, Any] = json.loads(lock.read_text())["packages"]
    foreign = {name: package for name, package in packages.items() if name and not package.get("inBundle")}

    assert foreign
    for name, package in foreign.items():
        assert package["integrity"].startswith("sha512-"), name
        assert package.get("resolved", "https://").startswith("https://"), name


def test_no_lock_is_left_out_of_the_audit() -> None:
    assert {name_of(lock.parent) for lock in NPM_LOCKS} == set(audit.NPM_FOLDERS)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=name_of)
def test_an_image_runs_as_nobody_special_and_installs_what_is_locked(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    last_stage = re.split(r"^FROM ", text, flags=re.MULTILINE)[-1]

    [user] = re.findall(r"^USER (\S+)$", last_stage, re.MULTILINE)
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    assert "--chown" not in last_stage  # what runs cannot change what it runs
    assert "uv export --frozen" in text
    assert "--require-hashes -r /requirements.txt" in text
    assert "npm install" not in text
    assert not re.search(r"^ADD |curl|wget", text, re.MULTILINE)


def test_the_lists_name_every_package_that_is_locked(tmp_path: Path) -> None:
    audit.write_bills(Places.of(), tmp_path)

    listed = _names(tmp_path / "python.cdx.json")
    assert {package["name"] for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]} <= listed
    page = json.loads((ROOT / "web/package-lock.json").read_text())["packages"]
    always = {
        name.rpartition("node_modules/")[2] for name, package in page.items() if name and not package.get("optional")
    }
    assert always <= _names(tmp_path / "npm-web.cdx.json")


def _names(bill: Path) -> set[str]:
    said = json.loads(bill.read_text())
    assert said["bomFormat"] == "CycloneDX"
    parts = [*said["components"], said["metadata"]["component"]]
    return {"/".join(filter(None, [part.get("group"), part["name"]])) for part in parts}


def test_what_is_known_of_a_python_package_is_told() -> None:
    found = {"id": "PYSEC-1", "fix_versions": ["1.1"], "description": "Bad."}
    report = {
        "dependencies": [{"name": "a", "version": "1.0", "vulns": [found]}, {"name": "b", "version": "2", "vulns": []}]
    }

    assert python_verdict(json.dumps(report), "") == Verdict(("a 1.0: PYSEC-1, mended in 1.1",))


def test_a_python_package_that_the_service_does_not_know_was_not_asked_about() -> None:
    report = {"dependencies": [{"name": "a", "skip_reason": "not found"}, {"name": "b", "version": "2", "vulns": []}]}

    verdict = python_verdict(json.dumps(report), "")

    assert verdict.skipped == "the service knows nothing of 1 of 2 packages: a"


def test_a_service_that_does_not_answer_was_not_asked() -> None:
    assert "No route" in (python_verdict("", "No route to host").skipped or "")
    assert "405" in (npm_verdict('{"message": "405 Method Not Allowed"}').skipped or "")
    assert "no JSON" in (npm_verdict("no JSON").skipped or "")


def test_what_is_known_of_an_npm_package_is_told() -> None:
    found = {"severity": "high", "range": "<2", "via": [{"url": "https://example.org/1"}, "b"]}

    assert npm_verdict(json.dumps({"vulnerabilities": {"a": found}})).known == (
        "a <2: high, https://example.org/1, by way of b",
    )
    assert npm_verdict('{"vulnerabilities": {}}') == Verdict()


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([Verdict(), Verdict()], 0),
        ([Verdict(), Verdict(skipped="no network")], SKIPPED),
        ([Verdict(("bad",)), Verdict(skipped="no network")], FOUND),
    ],
)
def test_the_exit_code_never_hides_what_was_not_asked(verdicts: list[Verdict], code: int) -> None:
    assert audit.exit_code({str(number): each for number, each in enumerate(verdicts)}) == code
