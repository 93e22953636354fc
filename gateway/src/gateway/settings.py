"""What the gateway reads from its environment, with its limits."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from shared.agents import AGENTS
from shared.egress import EgressSettings
from shared.settings import BrokerSettings, Profile, well_known


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
    database_url: SecretStr
    database_pool_size: Annotated[int, Field(ge=1)] = 10
    database_seconds_max: Annotated[float, Field(gt=0)] = 4.0  # of one statement

    jwt_secret: SecretStr = well_known("JWT_SECRET")
    jwt_issuer: str = well_known("JWT_ISSUER", default="parley")
    jwt_audience: str = well_known("JWT_AUDIENCE", default="parley")

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

    connections_max: Annotated[int, Field(ge=1)] = 10_000
    head_bytes_max: Annotated[int, Field(ge=1_024)] = 32 * 1_024  # request line and headers
    head_seconds_max: Annotated[float, Field(gt=0)] = 10.0
    body_bytes_max: Annotated[int, Field(ge=1_024)] = 256 * 1_024
    body_seconds_max: Annotated[float, Field(gt=0)] = 30.0
    # A body that may hold images and files as data URLs, or is an upload.
    large_body_bytes_max: Annotated[int, Field(ge=1_024)] = 12 * 2**20
    large_body_seconds_max: Annotated[float, Field(gt=0)] = 120.0
    transfers_per_user_max: Annotated[int, Field(ge=1)] = 4  # large bodies and files on their way, at this process
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
    open_jobs_max: Annotated[int, Field(ge=1)] = 10_000  # of all users
    open_jobs_per_user_max: Annotated[int, Field(ge=1)] = 50
    streams_per_user_max: Annotated[int, Field(ge=1)] = 20  # at this process
    feeds_per_user_max: Annotated[int, Field(ge=1)] = 20  # streams of conversations' events, at this process
    waits_per_user_max: Annotated[int, Field(ge=1)] = 50  # at this process
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

    @model_validator(mode="after")
    def _names_an_agent(self) -> Self:
        if self.default_model is not None and self.default_model not in AGENTS:
            raise ValueError(f"GATEWAY_DEFAULT_MODEL must be one of: {', '.join(sorted(AGENTS))}")
        return self

    @property
    def shows_docs(self) -> bool:
        """Whether /docs and /openapi.json are served."""
        return self.profile is Profile.LOCAL if self.docs_enabled is None else self.docs_enabled
