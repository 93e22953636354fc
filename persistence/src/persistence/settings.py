"""What persistence reads from its environment, with its limits."""

from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from shared.settings import BrokerSettings, well_known

Seconds = Annotated[float, Field(gt=0)]


class PersistenceSettings(BrokerSettings):
    """Variables are prefixed PERSISTENCE_; those of the broker are shared."""

    model_config = SettingsConfigDict(env_prefix="PERSISTENCE_")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8082

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
    deleted_conversations_kept_seconds: Seconds = 30 * 86_400.0
    dead_letters_kept_seconds: Seconds = 30 * 86_400.0

    stop_seconds: Seconds = 10.0  # to finish the batch in hand at the end
