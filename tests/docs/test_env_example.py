"""`.env.example` names every setting there is, no other, and the defaults that hold."""

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from chat_worker.settings import ChatWorkerSettings
from demo_model.settings import Settings as DemoModelSettings
from gateway.settings import GatewaySettings
from persistence.settings import PersistenceSettings
from shared.db.migrate import MigrateSettings
from shared.settings import ServiceSettings
from task_tools.settings import TaskToolsSettings
from tests.support.settings import variables_of

_ROOT = Path(__file__).parents[2]
_SETTING = re.compile(r"^#(?P<name>[A-Z][A-Z0-9_]*)=(?P<value>.*)$", re.MULTILINE)  # remarks have a blank there
_IN_COMPOSE = re.compile(r"\$\{(?P<name>[A-Z][A-Z0-9_]*):-(?P<default>[^}]*)\}")
_CLASSES: list[type[ServiceSettings]] = [
    GatewaySettings,
    ChatWorkerSettings,
    PersistenceSettings,
    TaskToolsSettings,
    MigrateSettings,
]


@pytest.fixture(scope="module")
def example() -> Mapping[str, str]:
    found = _SETTING.findall((_ROOT / ".env.example").read_text())
    assert len(found) == len(dict(found)), "a setting is there twice"
    return dict(found)


def _of_demo_model() -> set[str]:
    return {f"DEMO_MODEL_{field.name.upper()}" for field in fields(DemoModelSettings)}


def _of_compose() -> dict[str, str]:
    """What docker-compose.yml takes from `.env`, with its defaults: in `${…}`, and under its own name."""
    text = (_ROOT / "docker-compose.yml").read_text()
    services = yaml.safe_load(text)["services"].values()
    parts = [part for service in services for part in (service.get("environment"), _arguments(service)) if part]
    passed_on = {name: "" for part in parts for name, value in part.items() if value is None}
    return passed_on | dict(_IN_COMPOSE.findall(text))


def _arguments(service: Mapping[str, Any]) -> Mapping[str, Any]:
    return dict(service.get("build", {}).get("args") or {})


def test_it_names_every_setting_and_no_other(example: Mapping[str, str]) -> None:
    of_services = {variable for settings in _CLASSES for variable, _ in variables_of(settings)}

    assert set(example) == of_services | _of_demo_model() | set(_of_compose())


@pytest.mark.parametrize("settings", _CLASSES, ids=lambda settings: settings.__name__)
def test_its_defaults_are_those_of_the_service(
    settings: type[ServiceSettings], example: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    required = {
        variable: "0" * 64
        for variable, field in variables_of(settings)
        if field.is_required() or variable == "JWT_SECRET"  # or an identity provider in its place
    }
    for variable, _ in variables_of(settings):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in required.items():
        monkeypatch.setenv(variable, value)
    by_default = settings()

    for variable, _ in variables_of(settings):
        monkeypatch.setenv(variable, example[variable] or required.get(variable, ""))

    assert settings() == by_default


@pytest.mark.parametrize("settings", _CLASSES, ids=lambda settings: settings.__name__)
def test_what_has_no_default_is_left_empty_and_nothing_else(
    settings: type[ServiceSettings], example: Mapping[str, str]
) -> None:
    without = {variable for variable, field in variables_of(settings) if field.is_required() or field.default is None}

    assert {variable for variable, _ in variables_of(settings) if not example[variable]} == without


def test_its_defaults_are_those_of_the_demo_model(example: Mapping[str, str]) -> None:
    assert DemoModelSettings.from_environment(example) == DemoModelSettings()


def test_its_defaults_are_those_of_the_compose_file_where_nothing_else_reads_them(example: Mapping[str, str]) -> None:
    of_services = {variable for settings in _CLASSES for variable, _ in variables_of(settings)}
    only_there = {name: default for name, default in _of_compose().items() if name not in of_services}

    assert only_there
    assert {name: example[name] for name in only_there} == only_there


def test_a_copy_of_it_changes_nothing() -> None:
    lines = (_ROOT / ".env.example").read_text().splitlines()

    assert [line for line in lines if line and not line.startswith("#")] == []
