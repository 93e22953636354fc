"""What the gateway reads from its environment, with its limits."""

import re
from enum import StrEnum
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from shared.agents import AGENTS
from shared.egress import EgressSettings
from shared.settings import BrokerSettings, Profile, well_known

_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:.]+\](:[0-9]{1,5})?")


PublicKeyAlgorithm: TypeAlias = Literal["RS256", "PS256", "ES256", "ES384", "EdDSA"]


class SameSite(StrEnum):
    """Whether browsers send the session's cookie when a link on another site leads here."""

    LAX = "lax"
    STRICT = "strict"


class ModelInput(StrEnum):
    """A kind of content that a model can take."""

    TEXT = "text"
    IMAGE = "image"
    FILE = "file"


class GatewaySettings(BrokerSettings, EgressSettings):
    """Variables are prefixed GATEWAY_, but for those that the whole system shares."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    rabbitmq_url: SecretStr = well_known("GATEWAY_RABBITMQ_URL", "RABBITMQ_URL")
    database_url: SecretStr
    database_pool_size: Annotated[int, Field(ge=1)] = 10
    database_seconds_max: Annotated[float, Field(gt=0)] = 4.0  # of one statement

    # Tokens by shared secret (HS256).
    jwt_secret: SecretStr | None = well_known("JWT_SECRET", default=None)
    jwt_previous_secrets: tuple[SecretStr, ...] = well_known("JWT_PREVIOUS_SECRETS", default=())
    jwt_issuer: str = well_known("JWT_ISSUER", default="parley")
    jwt_audience: str = well_known("JWT_AUDIENCE", default="parley")
    # Tokens by an identity provider, whose public keys are at this URL.
    jwt_jwks_url: str | None = well_known("JWT_JWKS_URL", default=None)
    jwt_jwks_issuer: str | None = well_known("JWT_JWKS_ISSUER", default=None)
    jwt_jwks_audience: str | None = well_known("JWT_JWKS_AUDIENCE", default=None)
    jwt_jwks_algorithms: frozenset[PublicKeyAlgorithm] = well_known(
        "JWT_JWKS_ALGORITHMS", default=frozenset({"RS256", "ES256", "EdDSA"}), min_length=1
    )
    jwt_jwks_refresh_seconds: Annotated[float, Field(gt=0)] = well_known("JWT_JWKS_REFRESH_SECONDS", default=300.0)
    # Between two requests for keys, whatever came of the first.
    jwt_jwks_pause_seconds: Annotated[float, Field(gt=0)] = well_known("JWT_JWKS_PAUSE_SECONDS", default=30.0)
    jwt_jwks_stale_seconds_max: Annotated[float, Field(gt=0)] = well_known(
        "JWT_JWKS_STALE_SECONDS_MAX", default=86_400.0
    )
    jwt_jwks_seconds_max: Annotated[float, Field(gt=0)] = well_known("JWT_JWKS_SECONDS_MAX", default=5.0)
    jwt_jwks_bytes_max: Annotated[int, Field(ge=1_024)] = well_known("JWT_JWKS_BYTES_MAX", default=256 * 1_024)
    jwt_jwks_keys_max: Annotated[int, Field(ge=1)] = well_known("JWT_JWKS_KEYS_MAX", default=64)
    # Tokens of either kind.
    jwt_roles_claim: str = well_known("JWT_ROLES_CLAIM", default="roles")
    jwt_leeway_seconds: Annotated[float, Field(ge=0, le=300)] = well_known("JWT_LEEWAY_SECONDS", default=30.0)
    jwt_lifetime_seconds_max: Annotated[float, Field(gt=0)] = well_known("JWT_LIFETIME_SECONDS_MAX", default=86_400.0)
    known_tokens_max: Annotated[int, Field(ge=1)] = 4_096

    session_secret: SecretStr | None = well_known("SESSION_SECRET", default=None)  # None: derived from JWT_SECRET
    session_seconds_max: Annotated[float, Field(gt=0)] = 86_400.0
    session_same_site: SameSite = SameSite.LAX
    logins_per_minute_max: Annotated[int, Field(ge=1)] = 30  # of an address, without a token; the local profile only
    logouts_per_user_max: Annotated[int, Field(ge=1)] = 1_000  # whose tokens have not ended yet
    denials_refresh_seconds: Annotated[float, Field(gt=0, le=60)] = 1.0
    # Origins of web pages, beside the gateway's own, that may send requests: "https://app.example".
    allowed_origins: frozenset[str] = frozenset()

    # The model endpoint, for `POST /v1/chat/completions` alone; all else is asked by workers.
    openai_base_url: str = well_known("OPENAI_BASE_URL", default="http://127.0.0.1:8091/v1")
    openai_api_key: SecretStr = well_known("OPENAI_API_KEY", default=SecretStr("demo"))
    model: str = well_known("MODEL", default="demo")
    model_inputs: Annotated[frozenset[ModelInput], NoDecode] = well_known(
        "MODEL_INPUTS", default=frozenset({ModelInput.TEXT})
    )
    tool_servers_file: Path | None = well_known("TOOL_SERVERS_FILE", default=None)
    default_model: str | None = None  # the agent of a request that names none; None: it is refused
    tokens_per_day_max: Annotated[int | None, Field(ge=1)] = None  # of each user; None: no limit

    web_root: Path | None = None  # of the built page; None: web/dist of a checkout, if it is there
    # Where browsers reach the gateway, such as "https://chat.example"; with https, they are told to use nothing else.
    public_url: str | None = None
    # Origins that may show the widget within their pages, as a Content-Security-Policy names them.
    frame_ancestors: frozenset[str] = frozenset()
    # Addresses and networks of proxies in front, whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
    trusted_proxies: frozenset[str] = frozenset()
    # /metrics and /health on a port of their own. None: /metrics is on the gateway's own, in the local profile only.
    metrics_port: Annotated[int | None, Field(ge=0, le=65_535)] = None
    metrics_host: str = "127.0.0.1"

    # Requests of each user, and those without a user of each address, at this process: so many at once, and so many
    # per second from then on. Reading costs less than writing, which costs 1.
    requests_per_second_max: Annotated[float, Field(gt=0)] = 20.0
    requests_burst_max: Annotated[int, Field(ge=1)] = 200
    anonymous_requests_per_second_max: Annotated[float, Field(gt=0)] = 20.0
    anonymous_requests_burst_max: Annotated[int, Field(ge=1)] = 200
    read_request_cost: Annotated[float, Field(gt=0, le=1)] = 0.2

    connections_max: Annotated[int, Field(ge=1)] = 10_000
    pipelined_requests_max: Annotated[int, Field(ge=1)] = 16  # that wait on a connection for the answer before theirs
    head_bytes_max: Annotated[int, Field(ge=1_024)] = 32 * 1_024  # request line and headers
    head_seconds_max: Annotated[float, Field(gt=0)] = 10.0
    body_bytes_max: Annotated[int, Field(ge=1_024)] = 256 * 1_024
    body_seconds_max: Annotated[float, Field(gt=0)] = 30.0
    json_depth_max: Annotated[int, Field(ge=8, le=200)] = 64  # of a body; each level is one of Python's stack
    json_values_max: Annotated[int, Field(ge=1_000)] = 150_000  # in a body, each comma or bracket counted as one
    # A body that may hold images and files as data URLs, or is an upload.
    large_body_bytes_max: Annotated[int, Field(ge=1_024)] = 12 * 2**20
    large_body_seconds_max: Annotated[float, Field(gt=0)] = 120.0
    transfers_per_user_max: Annotated[int, Field(ge=1)] = 4  # large bodies and files on their way, at this process
    transfers_max: Annotated[int, Field(ge=1)] = 64  # of all users, at this process: each is held in memory
    # Of all that is stored of a user, at this process; each holds some megabytes at a time.
    exports_per_user_max: Annotated[int, Field(ge=1)] = 1
    exports_max: Annotated[int, Field(ge=1)] = 8  # of all users
    exports_per_hour_max: Annotated[int, Field(ge=1)] = 10  # of each user, at this process: each is in the audit log
    file_bytes_max: Annotated[int, Field(ge=1)] = 8 * 2**20
    file_bytes_per_user_max: Annotated[int, Field(ge=1)] = 256 * 2**20  # of all files of a user
    files_per_user_max: Annotated[int, Field(ge=1)] = 1_000
    image_pixels_max: Annotated[int, Field(ge=1)] = 40_000_000
    message_chars_max: Annotated[int, Field(ge=1)] = 5_000
    input_chars_max: Annotated[int, Field(ge=1)] = 100_000  # of all input of one POST /v1/responses
    input_items_max: Annotated[int, Field(ge=1)] = 100
    input_parts_max: Annotated[int, Field(ge=1)] = 500  # texts, images and files in all items of one request
    tools_max: Annotated[int, Field(ge=1)] = 128  # of one POST /v1/responses
    options_bytes_max: Annotated[int, Field(ge=1_024)] = 512 * 1_024  # its tools, schemas, instructions: all but input
    tasks_per_user_max: Annotated[int, Field(ge=1)] = 1_000
    webhook_endpoints_per_user_max: Annotated[int, Field(ge=1)] = 10
    feedback_chars_max: Annotated[int, Field(ge=1, le=10_000)] = 2_000  # of the reason
    shares_per_user_max: Annotated[int, Field(ge=0, le=1_000)] = 100  # 0: nothing can be shared
    share_seconds_max: Annotated[float | None, Field(ge=60)] = None  # None: links may last for ever
    share_reads_per_minute_max: Annotated[int, Field(ge=1)] = 120  # of an address
    share_copy_items_max: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    share_copy_chars_max: Annotated[int, Field(ge=1)] = 1_000_000
    open_jobs_max: Annotated[int, Field(ge=1)] = 10_000  # of all users
    open_jobs_per_user_max: Annotated[int, Field(ge=1)] = 50
    streams_per_user_max: Annotated[int, Field(ge=1)] = 20  # at this process
    streams_max: Annotated[int, Field(ge=1)] = 5_000  # of all users, at this process
    feeds_per_user_max: Annotated[int, Field(ge=1)] = 20  # streams of conversations' events, at this process
    feeds_max: Annotated[int, Field(ge=1)] = 5_000
    waits_per_user_max: Annotated[int, Field(ge=1)] = 50  # at this process
    waits_max: Annotated[int, Field(ge=1)] = 5_000
    retry_window_seconds: Annotated[float, Field(ge=0)] = 120.0

    completions_enabled: bool = True  # POST /v1/chat/completions
    completions_max: Annotated[int, Field(ge=1)] = 200  # under way at this process: connections to the model endpoint
    completions_per_user_max: Annotated[int, Field(ge=1)] = 10  # at this process
    completion_messages_max: Annotated[int, Field(ge=1)] = 1_000
    completion_seconds_max: Annotated[float, Field(gt=0)] = 600.0  # until its end
    completion_silence_seconds_max: Annotated[float, Field(gt=0)] = 120.0  # between two pieces of a stream
    completion_bytes_max: Annotated[int, Field(ge=1_024)] = 64 * 2**20  # of an answer, as the endpoint sends it

    cancel_wait_seconds: Annotated[float, Field(ge=0)] = 2.0  # how long a cancel waits to show its effect
    answer_wait_seconds: Annotated[float, Field(ge=0)] = 30.0  # how long /api/…/chat waits before it says 202
    foreground_wait_seconds: Annotated[float, Field(gt=0)] = 600.0  # how long POST /v1/responses waits for its answer
    heartbeat_seconds: Annotated[float, Field(gt=0)] = 15.0
    stream_seconds_max: Annotated[float, Field(gt=0)] = 3_600.0
    send_timeout_seconds: Annotated[float, Field(gt=0)] = 20.0  # a reader that takes nothing for so long is let go
    shutdown_seconds: Annotated[int, Field(ge=1)] = 10

    docs_enabled: bool | None = None  # None: in the local profile only

    @field_validator("model_inputs", mode="before")
    @classmethod
    def _split_list(cls, value: object) -> object:
        return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: frozenset[str]) -> frozenset[str]:
        for network in value:
            ip_network(network)
        return value

    @field_validator("allowed_origins", "frame_ancestors")
    @classmethod
    def _are_origins(cls, value: frozenset[str]) -> frozenset[str]:
        for origin in value:
            if _ORIGIN.fullmatch(origin) is None:
                raise ValueError(
                    f"'{origin}' is no origin: 'https://' and a host in small letters, perhaps ':' and a port"
                )
        return value

    @model_validator(mode="after")
    def _names_an_agent(self) -> Self:
        if self.default_model is not None and self.default_model not in AGENTS:
            raise ValueError(f"GATEWAY_DEFAULT_MODEL must be one of: {', '.join(sorted(AGENTS))}")
        return self

    @property
    def shows_metrics(self) -> bool:
        """Whether /metrics is served on the gateway's own port."""
        return self.profile is Profile.LOCAL and self.metrics_port is None

    @model_validator(mode="after")
    def _can_verify_tokens(self) -> Self:
        if self.jwt_secret is None and self.jwt_jwks_url is None:
            raise ValueError("JWT_SECRET or JWT_JWKS_URL must be set: how else are tokens to be verified?")
        if self.jwt_secret is None and self.session_secret is None:
            raise ValueError("SESSION_SECRET must be set where JWT_SECRET is not; make one with: openssl rand -hex 32")
        if self.jwt_secret is None and self.jwt_previous_secrets:
            raise ValueError("JWT_PREVIOUS_SECRETS are those before JWT_SECRET, which is not set")
        if self.jwt_jwks_url is not None:
            self._check_jwks(self.jwt_jwks_url)
        return self

    def _check_jwks(self, url: str) -> None:
        if self.jwt_jwks_issuer is None or self.jwt_jwks_audience is None:
            raise ValueError("JWT_JWKS_URL needs JWT_JWKS_ISSUER and JWT_JWKS_AUDIENCE: whose tokens, and for whom")
        parts = urlsplit(url)
        schemes = {"https", "http"} if self.profile is Profile.LOCAL else {"https"}
        if parts.scheme not in schemes or not parts.hostname or parts.username is not None or parts.fragment:
            raise ValueError("JWT_JWKS_URL must be an https URL without a user: who can change the keys can be anybody")

    @property
    def session_secrets(self) -> tuple[SecretStr, ...]:
        """What sessions are sealed with: the first seals, all open."""
        if self.session_secret is not None:
            return (self.session_secret,)
        assert self.jwt_secret is not None
        return (self.jwt_secret, *self.jwt_previous_secrets)

    @property
    def shows_docs(self) -> bool:
        """Whether /docs and /openapi.json are served."""
        return self.profile is Profile.LOCAL if self.docs_enabled is None else self.docs_enabled
