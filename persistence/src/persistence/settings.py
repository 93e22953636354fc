"""What persistence reads from its environment, with its limits."""

from typing import Annotated, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from persistence.webhooks import signing_key
from shared.egress import EgressPolicy, EgressSettings
from shared.errors import InvalidInputError
from shared.settings import BrokerSettings, well_known

Seconds = Annotated[float, Field(gt=0)]

_WEBHOOK_RETRY_DELAYS_SECONDS = (5.0, 30.0, 120.0, 600.0, 1_800.0, 7_200.0, 14_400.0, 28_800.0, 32_400.0)


class PersistenceSettings(BrokerSettings, EgressSettings):
    """Variables are prefixed PERSISTENCE_; those of the broker and of outgoing requests are shared."""

    model_config = SettingsConfigDict(env_prefix="PERSISTENCE_")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8082

    rabbitmq_url: SecretStr = well_known("PERSISTENCE_RABBITMQ_URL", "RABBITMQ_URL")
    database_url: SecretStr = well_known("PERSISTENCE_DATABASE_URL")
    database_pool_size: Annotated[int, Field(ge=2)] = 5

    # Messages of one partition that wait here unacknowledged. Times the partitions, times what workers put into one
    # message (CHAT_WORKER_MESSAGE_BYTES_MAX, and a single event may be larger), it is what waits in memory.
    prefetch_count: Annotated[int, Field(ge=1, le=65_535)] = 64
    batch_chunks_max: Annotated[int, Field(ge=1)] = 1_000
    batch_bytes_max: Annotated[int, Field(ge=1)] = 4 * 2**20
    retry_seconds_max: Seconds = 5.0  # the longest pause between two tries to write a batch while Postgres is away
    # Tries to write a batch that fail though Postgres answers; then its messages go one by one, and one that fails as
    # often alone is thrown out.
    batch_tries_max: Annotated[int, Field(ge=1)] = 3

    maintenance_seconds: Seconds = 2.0  # between two rounds of repairs; a released job is on time nevertheless
    dispatch_grace_seconds: Seconds = 5.0  # what the gateway has to get a new job confirmed, or a cancel carried out
    wiped_broker_grace_seconds: Seconds = 10.0  # a job may be sent and not claimed so long, though chat.jobs is empty
    redispatch_seconds: Seconds = 300.0  # a job that is sent and not claimed so long is sent again in any case
    lease_grace_seconds: Annotated[float, Field(ge=0)] = 2.0  # after a lease ran out, for its owner to be late
    # Workers end a job at their own, lower limit; this ends one whose every worker dies before it can.
    attempts_max: Annotated[int, Field(ge=1)] = 10
    repairs_max: Annotated[int, Field(ge=1)] = 500  # rows that one repair takes at a time

    retention_round_seconds: Seconds = 60.0  # between two looks for what is old
    roll_up_after_seconds: Seconds = 3_600.0  # after its end a job's journal is packed and its ledger deleted
    # How long these are kept: keys of tool calls, which no repeat may outlive; hidden conversations; dead letters.
    tool_keys_kept_seconds: Seconds = 7 * 86_400.0
    conversations_kept_seconds: Seconds | None = None  # since anything was said in them; None: for ever
    deleted_conversations_kept_seconds: Seconds = 30 * 86_400.0
    unstored_responses_kept_seconds: Seconds = 600.0  # after their end
    dead_letters_kept_seconds: Seconds = 30 * 86_400.0
    unused_files_kept_seconds: Seconds = 86_400.0  # that came within messages, when no message refers to them any more
    webhook_deliveries_kept_seconds: Seconds = 7 * 86_400.0  # from the event on, also where they are still waiting
    purges_kept_seconds: Seconds = 30 * 86_400.0  # that they were, once they are finished
    # The database itself keeps entries of the last thirty days.
    audit_log_kept_seconds: Annotated[float, Field(ge=30 * 86_400.0)] = 365 * 86_400.0

    # Words of messages get into the search's index behind their storing: so often, and so many messages at a time.
    # Until then a search looks at them one by one.
    index_round_seconds: Seconds = 0.5
    index_messages_max: Annotated[int, Field(ge=1)] = 50

    purge_round_seconds: Seconds = 2.0  # between two looks for users to purge
    # What is under way when a purge begins has so long to end: jobs that run, tool calls. It finishes afterwards.
    purge_settle_seconds: Annotated[float, Field(ge=0)] = 30.0

    # The endpoint of the whole deployment, which hears of the responses of all users; both or none.
    webhook_url: str | None = None
    webhook_secret: SecretStr | None = None
    webhook_round_seconds: Seconds = 1.0  # between two looks for deliveries that are due
    webhook_concurrency: Annotated[int, Field(ge=1)] = 32  # requests at a time, of this process
    webhook_endpoint_concurrency: Annotated[int, Field(ge=1)] = 4  # of those, to one endpoint
    webhook_timeout_seconds: Seconds = 10.0  # of one request, from resolving the name to the answer's end
    webhook_answer_bytes_max: Annotated[int, Field(ge=1)] = 4_096  # read, never kept
    # Between two attempts at a delivery; after the last one it is given up. These make about 24 hours.
    webhook_retry_delays_seconds: tuple[Seconds, ...] = _WEBHOOK_RETRY_DELAYS_SECONDS
    webhook_retry_after_seconds_max: Annotated[float, Field(ge=0)] = 3_600.0  # the longest pause a receiver can ask for
    webhook_disable_after_seconds: Seconds = 5 * 86_400.0  # of nothing but failures

    stop_seconds: Seconds = 10.0  # to finish the batch in hand at the end

    @model_validator(mode="after")
    def _has_a_usable_webhook(self) -> Self:
        if (self.webhook_url is None) is not (self.webhook_secret is None):
            raise ValueError("PERSISTENCE_WEBHOOK_URL and PERSISTENCE_WEBHOOK_SECRET go together: set both, or none")
        if self.webhook_secret is not None:
            try:
                signing_key(self.webhook_secret.get_secret_value())
            except ValueError as error:
                raise ValueError(f"PERSISTENCE_WEBHOOK_SECRET: {error}") from error
        if self.webhook_url is not None:
            try:
                EgressPolicy.of(self).checked_url(self.webhook_url)
            except InvalidInputError as error:
                raise ValueError(f"PERSISTENCE_WEBHOOK_URL: {error.message}") from error
        return self
