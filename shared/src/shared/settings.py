"""Settings that several services share. Each service composes its own frozen class of these, read once at its start."""

import ipaddress
import ssl
import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

SECRET_BYTES_MIN = 32
_EXAMPLE_SECRETS = ("change-me", "changeme", "example", "secret-secret", "only-for-trying")
# Of servers as they come, and of stacks for trying them out.
_KNOWN_PASSWORDS = frozenset(
    {
        *("admin", "demo", "guest", "password", "postgres", "rabbitmq", "root", "secret", "test"),
        *("parley", "gateway", "worker", "persistence", "tools"),
    }
)


class Profile(StrEnum):
    LOCAL = "local"
    PRODUCTION = "production"


class LogFormat(StrEnum):
    CONSOLE = "console"
    JSON = "json"


def well_known(*names: str, **rules: Any) -> Any:
    """A field read from the first of the variables `names` that is set, without the service's prefix."""
    return Field(validation_alias=AliasChoices(*names), **rules)


class ServiceSettings(BaseSettings):
    """What every service has.

    Short and example secrets are refused outside the local profile, and within it where others can reach the service.
    """

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
    # The service's address is of a network of its own, of which somebody else publishes what may be reached.
    private_network: bool = well_known("PARLEY_PRIVATE_NETWORK", default=False)
    # Where traces go, by OTLP over HTTP. None: there are none. The SDK reads the other variables of its own.
    otlp_endpoint: str | None = well_known("OTEL_EXPORTER_OTLP_ENDPOINT", default=None, pattern=r"^https?://")
    traces_sampler_arg: float = well_known("OTEL_TRACES_SAMPLER_ARG", default=1.0, ge=0, le=1)
    otel_sdk_disabled: bool = well_known("OTEL_SDK_DISABLED", default=False)
    # For tests, see `shared.faults`.
    fault: str | None = well_known("PARLEY_FAULT", default=None)
    sabotage: str | None = well_known("PARLEY_SABOTAGE", default=None)

    @model_validator(mode="after")
    def _is_fit_for_its_profile(self) -> Self:
        if self.profile is Profile.LOCAL and not self._is_public:
            return self
        if self.profile is Profile.PRODUCTION and (self.fault or self.sabotage):
            raise ValueError("PARLEY_FAULT and PARLEY_SABOTAGE break what is promised: only in the local profile")
        where = "a service that others can reach" if self.profile is Profile.LOCAL else "production"
        for name, value in self._secrets:
            if name.endswith(("_SECRET", "_SECRETS")):
                _refuse_weak(name, value, where)
            elif name.endswith("_URL"):
                _refuse_known_password(name, value, where)
        return self

    @property
    def _secrets(self) -> Iterator[tuple[str, str]]:
        """The secrets by the variables they were read from, or could have been."""
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            for secret in value if isinstance(value, tuple) else (value,):
                if isinstance(secret, SecretStr):
                    alias = field.validation_alias
                    names = alias.choices if isinstance(alias, AliasChoices) else [f"{self._prefix}{name}"]
                    yield str(names[0]).upper(), secret.get_secret_value()

    @property
    def _prefix(self) -> str:
        return str(self.model_config.get("env_prefix", ""))

    @property
    def _is_public(self) -> bool:
        hosts = [value for name, value in self if name == "host" or name.endswith("_host")]
        return not self.private_network and not all(_is_loopback(host) for host in hosts)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_weak(name: str, secret: str, where: str) -> None:
    if len(secret.encode()) < SECRET_BYTES_MIN:
        raise ValueError(
            f"{name} must have at least {SECRET_BYTES_MIN} bytes in {where}; make one with: openssl rand -hex 32"
        )
    if any(example in secret.lower() for example in _EXAMPLE_SECRETS):
        raise ValueError(f"{name} is an example, not for {where}; make one with: openssl rand -hex 32")


def _refuse_known_password(name: str, url: str, where: str) -> None:
    """`url` may be anything that a user wrote: where it holds no password, its use finds out."""
    try:
        password = unquote(urlsplit(url).password or "").lower()
    except ValueError:
        return
    if password in _KNOWN_PASSWORDS or any(example in password for example in _EXAMPLE_SECRETS):
        raise ValueError(f"{name} has a password that everybody knows, not for {where}: give its user one of its own")
    if "no_verify_ssl" in urlsplit(url).query:
        raise ValueError(f"{name} asks not to check the server's certificate, not for {where}: name its CA instead")


class BrokerSettings(ServiceSettings):
    """What the services on the broker share."""

    # A file of PEM certificates: of the authorities that may have signed what amqps:// and https:// servers show.
    tls_ca_file: str | None = well_known("TLS_CA_FILE", default=None)

    # Overridden by each service, which has a user of its own.
    rabbitmq_url: SecretStr = well_known("RABBITMQ_URL")
    partition_count: Annotated[int, Field(ge=1, le=64)] = well_known("JOURNAL_PARTITION_COUNT", default=4)
    publish_timeout_seconds: float = well_known("PUBLISH_TIMEOUT_SECONDS", default=5.0)

    @field_validator("tls_ca_file")
    @classmethod
    def _holds_certificates(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                ssl.create_default_context(cafile=value)
            except OSError as error:  # of which ssl.SSLError is one
                raise ValueError("TLS_CA_FILE is not a readable file of PEM certificates") from error
        return value


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
