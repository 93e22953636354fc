"""Settings that several services share. Each service composes its own frozen class of these, read once at its start."""

import sys
from enum import StrEnum
from typing import Annotated, Any, Self, TypeVar

from pydantic import AliasChoices, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

SECRET_BYTES_MIN = 32
_EXAMPLE_SECRETS = ("change-me", "changeme", "example", "secret-secret")


class Profile(StrEnum):
    LOCAL = "local"
    PRODUCTION = "production"


class LogFormat(StrEnum):
    CONSOLE = "console"
    JSON = "json"


def well_known(name: str, **rules: Any) -> Any:
    """A field read from the variable `name` as it stands, without the service's prefix."""
    return Field(validation_alias=AliasChoices(name), **rules)


class ServiceSettings(BaseSettings):
    """What every service has. Outside the local profile, short and example secrets are refused."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        populate_by_name=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,  # an input may be a secret
    )

    profile: Profile = well_known("PARLEY_PROFILE", default=Profile.PRODUCTION)
    log_format: LogFormat = well_known("LOG_FORMAT", default=LogFormat.JSON)
    log_level: str = well_known("LOG_LEVEL", default="INFO")
    # For tests, see `shared.faults`.
    fault: str | None = well_known("PARLEY_FAULT", default=None)
    sabotage: str | None = well_known("PARLEY_SABOTAGE", default=None)

    @model_validator(mode="after")
    def _is_fit_for_its_profile(self) -> Self:
        if self.profile is Profile.LOCAL:
            return self
        if self.fault or self.sabotage:
            raise ValueError("PARLEY_FAULT and PARLEY_SABOTAGE break what is promised: only in the local profile")
        for name, value in self:
            if name.endswith("_secret") and isinstance(value, SecretStr):
                _refuse_weak(name, value.get_secret_value())
        return self


def _refuse_weak(name: str, secret: str) -> None:
    if len(secret.encode()) < SECRET_BYTES_MIN:
        raise ValueError(
            f"{name.upper()} must have at least {SECRET_BYTES_MIN} bytes; make one with: openssl rand -hex 32"
        )
    if any(example in secret.lower() for example in _EXAMPLE_SECRETS):
        raise ValueError(f"{name.upper()} is an example; make one with: openssl rand -hex 32")


class BrokerSettings(ServiceSettings):
    """What the services on the broker share."""

    rabbitmq_url: SecretStr = well_known("RABBITMQ_URL", default=SecretStr("amqp://guest:guest@127.0.0.1:5672/"))
    partition_count: Annotated[int, Field(ge=1, le=64)] = well_known("JOURNAL_PARTITION_COUNT", default=4)
    publish_timeout_seconds: float = well_known("PUBLISH_TIMEOUT_SECONDS", default=5.0)


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


def settings_or_exit(kind: type[SettingsT], service: str) -> SettingsT:
    """The service's settings from the environment; ends the process with one line for each variable that is wrong."""
    try:
        return kind()
    except ValidationError as error:
        lines = [f"{service}: {_variable(kind, fault['loc'])}{fault['msg']}" for fault in error.errors()]
        sys.exit("\n".join(lines))


def _variable(kind: type[ServiceSettings], location: tuple[int | str, ...]) -> str:
    """The environment variable behind the place of a validation error; nothing where the message names it."""
    if not location:
        return ""
    name = str(location[0])
    return f"{name}: " if name.isupper() else f"{kind.model_config.get('env_prefix', '')}{name}: ".upper()
