"""What the chat worker reads from its environment, with its limits."""

from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from chat_worker.agent.loop import TurnLimits
from chat_worker.agent.prompt import PromptLimits
from chat_worker.outgoing import OutgoingLimits
from shared.settings import BrokerSettings, well_known

_Seconds = Annotated[float, Field(gt=0)]
_Count = Annotated[int, Field(ge=1)]


class ChatWorkerSettings(BrokerSettings):
    """Variables are prefixed CHAT_WORKER_, but for those of the model and the tools."""

    model_config = SettingsConfigDict(env_prefix="CHAT_WORKER_")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8081

    database_url: SecretStr = well_known("CHAT_WORKER_DATABASE_URL")
    database_pool_size: _Count = 10

    openai_base_url: str = well_known("OPENAI_BASE_URL", default="http://127.0.0.1:8091/v1")
    openai_api_key: SecretStr = well_known("OPENAI_API_KEY", default=SecretStr("demo"))
    model: str = well_known("MODEL", default="demo")

    task_tools_url: str = well_known("TASK_TOOLS_URL", default="http://127.0.0.1:8090/mcp")
    tool_token_secret: SecretStr = well_known("TOOL_TOKEN_SECRET")

    # Jobs that run at the same time; as many are taken from the broker, never more.
    concurrency: Annotated[int, Field(ge=1, le=1_000)] = 32
    # How long a job belongs to a worker that is not heard of; renewed three times as often.
    lease_seconds: _Seconds = 30.0
    attempts_max: _Count = 4
    # Below the broker's own limit for an unacknowledged delivery (30 min), together with the seconds below.
    turn_seconds_max: Annotated[float, Field(gt=0, le=1_200)] = 600.0
    # For Postgres, before a delivery is handed back; the broker's fuse counts how often it is.
    claim_seconds_max: _Seconds = 30.0
    # For persistence to say where to go on, and how often it is asked.
    resume_seconds_max: _Seconds = 60.0
    resume_ask_seconds: _Seconds = 2.0
    # For the broker to confirm the end of an attempt, before the delivery is handed back.
    flush_seconds_max: Annotated[float, Field(gt=0, le=300)] = 60.0
    # Jobs wait, there is room, and none is delivered for so long: the process ends, to be started anew.
    intake_watch_seconds: _Seconds = 60.0
    # What a running turn gets when the process is told to stop.
    grace_seconds: Annotated[float, Field(ge=0)] = 20.0
    # Before the next attempt, by attempts made; the last one repeats.
    release_delays_seconds: Annotated[tuple[float, ...], Field(min_length=1)] = (2.0, 10.0, 30.0)
    # The longest wait that a model endpoint can ask for.
    release_delay_seconds_max: _Seconds = 300.0

    flush_seconds: Annotated[float, Field(ge=0)] = 0.025
    buffer_bytes_max: _Count = 8 * 2**20
    message_bytes_max: _Count = 2**20

    history_turn_count_max: _Count = 200
    prompt_token_count_max: _Count = 24_000
    past_output_bytes_max: _Count = 4_000

    step_count_max: _Count = 20
    call_count_max: _Count = 50
    output_token_count_max: _Count = 32_000

    def turn_limits(self) -> TurnLimits:
        return TurnLimits(
            step_count_max=self.step_count_max,
            call_count_max=self.call_count_max,
            output_token_count_max=self.output_token_count_max,
        )

    def prompt_limits(self) -> PromptLimits:
        return PromptLimits(
            token_count_max=self.prompt_token_count_max, past_output_bytes_max=self.past_output_bytes_max
        )

    def outgoing_limits(self) -> OutgoingLimits:
        return OutgoingLimits(
            flush_seconds=self.flush_seconds,
            buffer_bytes_max=self.buffer_bytes_max,
            message_bytes_max=self.message_bytes_max,
        )
