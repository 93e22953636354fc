"""What the chat worker reads from its environment, with its limits."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from chat_worker.agent.loop import TurnLimits
from chat_worker.agent.model import ModelLimits
from chat_worker.agent.prompt import PromptLimits
from chat_worker.agent.tools import ToolClientLimits
from chat_worker.history import HistoryLimits
from chat_worker.outgoing import OutgoingLimits
from chat_worker.summaries import SummaryLimits
from chat_worker.titles import TitleLimits
from shared.settings import BrokerSettings, well_known
from shared.tool_servers import Approval, OnChange

_Seconds = Annotated[float, Field(gt=0)]
_Count = Annotated[int, Field(ge=1)]
_PROMPT_TOKENS_MIN = 500


class ChatWorkerSettings(BrokerSettings):
    """Variables are prefixed CHAT_WORKER_, but for those of the model and the tools."""

    model_config = SettingsConfigDict(env_prefix="CHAT_WORKER_")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8081

    rabbitmq_url: SecretStr = well_known("CHAT_WORKER_RABBITMQ_URL", "RABBITMQ_URL")
    database_url: SecretStr = well_known("CHAT_WORKER_DATABASE_URL")
    database_pool_size: _Count = 10

    openai_base_url: str = well_known("OPENAI_BASE_URL", default="http://127.0.0.1:8091/v1")
    openai_api_key: SecretStr = well_known("OPENAI_API_KEY", default=SecretStr("demo"))
    model: str = well_known("MODEL", default="demo")
    # What the model can take in, prompt and answer together.
    model_context_tokens: Annotated[int, Field(ge=1_000)] = well_known("MODEL_CONTEXT_TOKENS", default=32_000)

    task_tools_url: str = well_known("TASK_TOOLS_URL", default="http://127.0.0.1:8090/mcp")
    tool_token_secret: SecretStr = well_known("TOOL_TOKEN_SECRET")
    task_tools_approval: Approval = Approval.NEVER
    tool_servers_file: Path | None = well_known("TOOL_SERVERS_FILE", default=None)
    # What becomes of a tool of which a server of that file says something else than was accepted.
    tool_pins: OnChange = well_known("TOOL_PINS", default=OnChange.REPORT)

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

    flush_seconds: Annotated[float, Field(ge=0)] = 0.04
    buffer_bytes_max: _Count = 8 * 2**20
    # Persistence keeps many messages of each partition in memory.
    message_bytes_max: _Count = 128 * 2**10

    history_turn_count_max: _Count = 1_000
    # Of the model's context, what is kept free for the answer and the tools' schemas; by default a quarter.
    reserved_token_count: _Count | None = None
    past_output_bytes_max: _Count = 4_000
    # Of the images and files in all messages of a prompt, which do not count as tokens of it; the newest come first.
    prompt_file_bytes_max: _Count = 16 * 2**20
    # Where a model finds the prompt too long; each time half of the history is left out.
    prompt_shortening_count_max: Annotated[int, Field(ge=0)] = 4

    # Where a history outgrows the prompt, its oldest turns are summarised; otherwise they are left out. One takes no
    # longer than this, to make and to send, and never more than an eighth of the prompt.
    summaries_enabled: bool = True
    summary_seconds_max: _Seconds = 30.0
    summary_token_count_max: _Count = 1_000
    # After one could not be made, before the next is tried.
    summary_pause_seconds: Annotated[float, Field(ge=0)] = 60.0
    # After its first answer a conversation gets a better title, in the background, a few at a time.
    titles_enabled: bool = True
    title_count_max: _Count = 2
    title_seconds_max: _Seconds = 20.0
    title_token_count_max: _Count = 100

    step_count_max: _Count = 20
    call_count_max: _Count = 50
    output_token_count_max: _Count = 32_000
    arguments_bytes_max: _Count = 65_536
    # Of one model round, where its endpoint streams it; the rest is not told.
    reasoning_bytes_max: Annotated[int, Field(ge=0)] = 65_536
    model_retry_delays_seconds: tuple[float, ...] = (0.2, 1.0)
    # Of a call that may be repeated and whose outcome is unknown; of the first list of our own tools.
    tool_retry_delays_seconds: tuple[float, ...] = (0.5, 2.0, 5.0)

    # Each of a tool server's calls and lists, and what is taken of them.
    tool_call_seconds: _Seconds = 30.0
    tool_list_seconds: _Seconds = 5.0
    tool_connect_seconds: _Seconds = 2.0
    tool_list_ttl_seconds: Annotated[float, Field(ge=0)] = 60.0
    tool_body_bytes_max: _Count = 2 * 2**20
    tool_result_bytes_max: _Count = 32 * 2**10
    tool_count_max: _Count = 64
    tool_description_chars_max: _Count = 2_000
    # Of the schema of a tool's arguments; one with a larger one is left out.
    tool_schema_bytes_max: _Count = 16 * 2**10
    tool_connection_count_max: _Count = 100

    def turn_limits(self) -> TurnLimits:
        return TurnLimits(
            step_count_max=self.step_count_max,
            call_count_max=self.call_count_max,
            output_token_count_max=self.output_token_count_max,
            arguments_bytes_max=self.arguments_bytes_max,
            retry_delays_seconds=self.model_retry_delays_seconds,
            tool_retry_delays_seconds=self.tool_retry_delays_seconds,
        )

    @model_validator(mode="after")
    def _has_room_for_a_prompt(self) -> Self:
        if self.prompt_token_count_max < _PROMPT_TOKENS_MIN:
            raise ValueError(
                f"CHAT_WORKER_RESERVED_TOKEN_COUNT leaves {self.prompt_token_count_max} of MODEL_CONTEXT_TOKENS for "
                f"the prompt; it has to leave {_PROMPT_TOKENS_MIN}"
            )
        return self

    @property
    def prompt_token_count_max(self) -> int:
        """The budget of every prompt: the model's context without what is reserved."""
        reserved = self.reserved_token_count
        return self.model_context_tokens - (self.model_context_tokens // 4 if reserved is None else reserved)

    def prompt_limits(self) -> PromptLimits:
        return PromptLimits(
            token_count_max=self.prompt_token_count_max,
            past_output_bytes_max=self.past_output_bytes_max,
            shortening_count_max=self.prompt_shortening_count_max,
        )

    def history_limits(self) -> HistoryLimits:
        return HistoryLimits(
            turn_count_max=self.history_turn_count_max,
            # Twice what fits: a summary is made of the turns that fall out, so they have to be read once more.
            bytes_max=2 * self.prompt_limits().history_bytes_max,
            output_bytes_max=self.past_output_bytes_max,
            file_bytes_max=self.prompt_file_bytes_max,
        )

    def summary_limits(self) -> SummaryLimits:
        return SummaryLimits(
            seconds_max=self.summary_seconds_max,
            token_count_max=min(self.summary_token_count_max, self.prompt_token_count_max // 8),
            turn_count_max=max(1, self.history_turn_count_max * 3 // 4),
            pause_seconds=self.summary_pause_seconds,
        )

    def title_limits(self) -> TitleLimits:
        return TitleLimits(
            count_max=self.title_count_max,
            seconds_max=self.title_seconds_max,
            token_count_max=self.title_token_count_max,
        )

    def model_limits(self) -> ModelLimits:
        return ModelLimits(reasoning_bytes_max=self.reasoning_bytes_max)

    def tool_client_limits(self) -> ToolClientLimits:
        return ToolClientLimits(
            call_seconds=self.tool_call_seconds,
            list_seconds=self.tool_list_seconds,
            connect_seconds=self.tool_connect_seconds,
            list_ttl_seconds=self.tool_list_ttl_seconds,
            first_list_delays_seconds=self.tool_retry_delays_seconds,
            body_bytes_max=self.tool_body_bytes_max,
            result_bytes_max=self.tool_result_bytes_max,
            tool_count_max=self.tool_count_max,
            description_chars_max=self.tool_description_chars_max,
            schema_bytes_max=self.tool_schema_bytes_max,
            connection_count_max=self.tool_connection_count_max,
        )

    def outgoing_limits(self) -> OutgoingLimits:
        return OutgoingLimits(
            flush_seconds=self.flush_seconds,
            buffer_bytes_max=self.buffer_bytes_max,
            message_bytes_max=self.message_bytes_max,
        )
