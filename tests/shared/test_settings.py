"""A service says in one line each what its environment lacks, and takes no weak secret outside the local profile."""

import pytest
from pydantic import SecretStr

from shared.settings import ServiceSettings, settings_or_exit, well_known


class _Settings(ServiceSettings):
    host: str = well_known("HOST", default="127.0.0.1")
    token_secret: SecretStr = well_known("TOKEN_SECRET")
    server_url: SecretStr = well_known("OWN_SERVER_URL", "SERVER_URL", default=SecretStr("amqp://user@host/"))


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        *("HOST", "TOKEN_SECRET", "OWN_SERVER_URL", "SERVER_URL"),
        *("PARLEY_PROFILE", "PARLEY_PRIVATE_NETWORK", "LOG_FORMAT"),
    ):
        monkeypatch.delenv(name, raising=False)


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(SystemExit) as ended:
        settings_or_exit(_Settings, "gateway")

    assert ended.value.code == "gateway: TOKEN_SECRET: Field required"


def test_a_wrong_value_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_SECRET", "s" * 32)
    monkeypatch.setenv("LOG_FORMAT", "hunter2")

    with pytest.raises(SystemExit) as ended:
        settings_or_exit(_Settings, "gateway")

    assert str(ended.value.code).startswith("gateway: LOG_FORMAT: ")
    assert "hunter2" not in str(ended.value.code)


@pytest.mark.parametrize("secret", ["short", "change-me-" + "x" * 32, "only-for-trying-it-out-on-one-machine"])
def test_a_weak_secret_is_refused_outside_the_local_profile(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("TOKEN_SECRET", secret)

    with pytest.raises(SystemExit) as ended:
        settings_or_exit(_Settings, "gateway")

    assert "TOKEN_SECRET" in str(ended.value.code)
    assert secret not in str(ended.value.code)
    monkeypatch.setenv("PARLEY_PROFILE", "local")
    assert settings_or_exit(_Settings, "gateway").token_secret.get_secret_value() == secret


_WEAK = {
    "TOKEN_SECRET": "only-for-trying-it-out-on-one-machine",
    "OWN_SERVER_URL": "amqp://guest:guest@host/",
}


@pytest.mark.parametrize("variable", _WEAK)
@pytest.mark.parametrize(
    ("place", "is_refused"),
    [
        ({}, True),
        ({"PARLEY_PROFILE": "local"}, False),
        ({"PARLEY_PROFILE": "local", "HOST": "::1"}, False),
        ({"PARLEY_PROFILE": "local", "HOST": "0.0.0.0"}, True),  # noqa: S104 - what is refused
        ({"PARLEY_PROFILE": "local", "HOST": "chat.example"}, True),
        ({"PARLEY_PROFILE": "local", "HOST": "0.0.0.0", "PARLEY_PRIVATE_NETWORK": "true"}, False),  # noqa: S104
        ({"PARLEY_PRIVATE_NETWORK": "true"}, True),
    ],
)
def test_what_everybody_knows_is_refused_where_others_can_reach_it(
    monkeypatch: pytest.MonkeyPatch, variable: str, place: dict[str, str], *, is_refused: bool
) -> None:
    for name, value in {"TOKEN_SECRET": "s" * 32, **place, variable: _WEAK[variable]}.items():
        monkeypatch.setenv(name, value)

    if not is_refused:
        settings_or_exit(_Settings, "gateway")
        return
    with pytest.raises(SystemExit) as ended:
        settings_or_exit(_Settings, "gateway")

    assert str(ended.value.code).startswith("gateway: ")
    assert variable in str(ended.value.code)
    assert _WEAK[variable] not in str(ended.value.code)


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("amqp://parley:parley@rabbitmq/", "everybody knows"),
        ("postgresql://parley_gateway:gateway@postgres/parley", "everybody knows"),
        ("postgresql://user:p%6Fstgres@postgres/parley", "everybody knows"),
        ("amqps://user:5e884898@rabbitmq/?no_verify_ssl=1", "certificate"),
    ],
)
def test_a_connection_that_protects_nothing_is_refused_in_production(
    monkeypatch: pytest.MonkeyPatch, url: str, word: str
) -> None:
    monkeypatch.setenv("TOKEN_SECRET", "s" * 32)
    monkeypatch.setenv("SERVER_URL", url)

    with pytest.raises(SystemExit, match=word):
        settings_or_exit(_Settings, "gateway")


def test_the_services_own_connection_wins_and_an_empty_one_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_SECRET", "s" * 32)
    monkeypatch.setenv("SERVER_URL", "amqp://all:5e884898@host/")
    monkeypatch.setenv("OWN_SERVER_URL", "")
    assert "all:" in settings_or_exit(_Settings, "gateway").server_url.get_secret_value()

    monkeypatch.setenv("OWN_SERVER_URL", "amqp://own:5e884898@host/")
    settings = settings_or_exit(_Settings, "gateway")

    assert "own:" in settings.server_url.get_secret_value()
    assert "5e884898" not in f"{settings!r} {settings} {settings.model_dump_json()}"
