"""What the gateway reads from its environment, with its limits."""

from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from shared.settings import BrokerSettings, Profile, well_known


class GatewaySettings(BrokerSettings):
    """Variables are prefixed GATEWAY_, but for those that the whole system shares."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    database_url: SecretStr
    database_pool_size: Annotated[int, Field(ge=1)] = 10
    database_seconds_max: Annotated[float, Field(gt=0)] = 4.0  # of one statement

    jwt_secret: SecretStr = well_known("JWT_SECRET")
    jwt_issuer: str = well_known("JWT_ISSUER", default="parley")
    jwt_audience: str = well_known("JWT_AUDIENCE", default="parley")

    connections_max: Annotated[int, Field(ge=1)] = 10_000
    head_bytes_max: Annotated[int, Field(ge=1_024)] = 32 * 1_024  # request line and headers
    head_seconds_max: Annotated[float, Field(gt=0)] = 10.0
    body_bytes_max: Annotated[int, Field(ge=1_024)] = 256 * 1_024
    body_seconds_max: Annotated[float, Field(gt=0)] = 30.0
    message_chars_max: Annotated[int, Field(ge=1)] = 5_000
    input_chars_max: Annotated[int, Field(ge=1)] = 100_000  # of all input of one POST /v1/responses
    input_items_max: Annotated[int, Field(ge=1)] = 100
    tasks_per_user_max: Annotated[int, Field(ge=1)] = 1_000
    open_jobs_max: Annotated[int, Field(ge=1)] = 10_000  # of all users
    open_jobs_per_user_max: Annotated[int, Field(ge=1)] = 50
    streams_per_user_max: Annotated[int, Field(ge=1)] = 20  # at this process
    waits_per_user_max: Annotated[int, Field(ge=1)] = 50  # at this process
    retry_window_seconds: Annotated[float, Field(ge=0)] = 120.0

    cancel_wait_seconds: Annotated[float, Field(ge=0)] = 2.0  # how long a cancel waits to show its effect
    answer_wait_seconds: Annotated[float, Field(ge=0)] = 30.0  # how long /api/…/chat waits before it says 202
    foreground_wait_seconds: Annotated[float, Field(gt=0)] = 600.0  # how long POST /v1/responses waits for its answer
    heartbeat_seconds: Annotated[float, Field(gt=0)] = 15.0
    stream_seconds_max: Annotated[float, Field(gt=0)] = 3_600.0
    send_timeout_seconds: Annotated[float, Field(gt=0)] = 20.0  # a reader that takes nothing for so long is let go
    shutdown_seconds: Annotated[int, Field(ge=1)] = 10

    docs_enabled: bool | None = None  # None: in the local profile only

    @property
    def shows_docs(self) -> bool:
        """Whether /docs and /openapi.json are served."""
        return self.profile is Profile.LOCAL if self.docs_enabled is None else self.docs_enabled
