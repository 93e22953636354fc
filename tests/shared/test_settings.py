"""A service says in one line each what its environment lacks, and takes no weak secret outside the local profile."""

import pytest
from pydantic import SecretStr

from shared.settings import ServiceSettings, settings_or_exit, well_known


class _Settings(ServiceSettings):
    token_secret: SecretStr = well_known("TOKEN_SECRET")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOKEN_SECRET", "PARLEY_PROFILE", "LOG_FORMAT"):
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


@pytest.mark.parametrize("secret", ["short", "change-me-" + "x" * 32])
def test_a_weak_secret_is_refused_outside_the_local_profile(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("TOKEN_SECRET", secret)

    with pytest.raises(SystemExit) as ended:
        settings_or_exit(_Settings, "gateway")

    assert "TOKEN_SECRET" in str(ended.value.code)
    assert secret not in str(ended.value.code)
    monkeypatch.setenv("PARLEY_PROFILE", "local")
    assert settings_or_exit(_Settings, "gateway").token_secret.get_secret_value() == secret
