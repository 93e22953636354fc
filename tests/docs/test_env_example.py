"""`.env.example` names every setting there is, no other, and the defaults that hold."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import pytest
from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from chat_worker.settings import ChatWorkerSettings
from demo_model.settings import Settings as DemoModelSettings
from gateway.settings import GatewaySettings
from persistence.settings import PersistenceSettings
from shared.db.migrate import MigrateSettings
from shared.settings import ServiceSettings
from task_tools.settings import TaskToolsSettings

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


def _variables(settings: type[ServiceSettings]) -> Iterator[tuple[str, FieldInfo]]:
    """The variables that `settings` reads."""
    for name, field in settings.model_fields.items():
        match field.validation_alias:
            case AliasChoices(choices=variables):
                yield from ((str(variable), field) for variable in variables)
            case None:
                yield f"{settings.model_config.get('env_prefix', '')}{name}".upper(), field
            case other:
                raise AssertionError(f"{settings.__name__}.{name} is read from {other}")


def _of_demo_model() -> set[str]:
    return {f"DEMO_MODEL_{field.name.upper()}" for field in fields(DemoModelSettings)}


def _of_compose() -> dict[str, str]:
    return dict(_IN_COMPOSE.findall((_ROOT / "docker-compose.yml").read_text()))


def test_it_names_every_setting_and_no_other(example: Mapping[str, str]) -> None:
    of_services = {variable for settings in _CLASSES for variable, _ in _variables(settings)}

    assert set(example) == of_services | _of_demo_model() | set(_of_compose())


@pytest.mark.parametrize("settings", _CLASSES, ids=lambda settings: settings.__name__)
def test_its_defaults_are_those_of_the_service(
    settings: type[ServiceSettings], example: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    required = {
        variable: "0" * 64
        for variable, field in _variables(settings)
        if field.is_required() or variable == "JWT_SECRET"  # or an identity provider in its place
    }
    for variable, _ in _variables(settings):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in required.items():
        monkeypatch.setenv(variable, value)
    by_default = settings()

    for variable, _ in _variables(settings):
        monkeypatch.setenv(variable, example[variable] or required.get(variable, ""))

    assert settings() == by_default


@pytest.mark.parametrize("settings", _CLASSES, ids=lambda settings: settings.__name__)
def test_what_has_no_default_is_left_empty_and_nothing_else(
    settings: type[ServiceSettings], example: Mapping[str, str]
) -> None:
    without = {variable for variable, field in _variables(settings) if field.is_required() or field.default is None}

    assert {variable for variable, _ in _variables(settings) if not example[variable]} == without


def test_its_defaults_are_those_of_the_demo_model(example: Mapping[str, str]) -> None:
    assert DemoModelSettings.from_environment(example) == DemoModelSettings()


def test_its_defaults_are_those_of_the_compose_file_where_nothing_else_reads_them(example: Mapping[str, str]) -> None:
    of_services = {variable for settings in _CLASSES for variable, _ in _variables(settings)}
    only_there = {name: default for name, default in _of_compose().items() if name not in of_services}

    assert only_there
    assert {name: example[name] for name in only_there} == only_there


def test_a_copy_of_it_changes_nothing() -> None:
    lines = (_ROOT / ".env.example").read_text().splitlines()

    assert [line for line in lines if line and not line.startswith("#")] == []
