"""How an attempt begins: the job is claimed, and what it goes on from is read, in the same round trip.

Jobs that come while a claim is under way are claimed together, by the next statement.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from uuid import UUID

from chat_worker.agent.values import JsonObject
from chat_worker.history import HistoryLimits
from chat_worker.leases import Leases
from shared.contracts import JobReady
from shared.db import Database
from shared.db.together import Together


@dataclass(frozen=True, slots=True)
class Claim:
    """The job as its row says at the start of an attempt. `attempt` is the fence."""

    job_id: UUID
    user_id: str
    conversation_id: UUID
    attempt: int
    next_seq: int
    request: JsonObject
    is_cancelled: bool
    claimed_at: float  # or later, on the event loop's clock


@dataclass(frozen=True, slots=True)
class Begun:
    """A claim, and the rows of the job's history; later attempts have to read these by themselves."""

    claim: Claim
    history: Sequence[Any]


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    ready: JobReady
    delivery_id: str | None


class Claims:
    def __init__(self, database: Database, leases: Leases, limits: HistoryLimits) -> None:
        self._database = database
        self._leases = leases
        self._limits = limits
        self._together = Together(self._begin, _is_of_another_job)

    async def claim(self, ready: JobReady, delivery_id: str | None) -> Begun | None:
        """Claim the job; None: it ended, waits for its turn, or is a live worker's.

        `delivery_id` as `Runner.run` has it. Raises DatabaseUnavailableError: then it may have been claimed, or not.
        One that nobody waits for any more is broken off: carried out late, it would take the job from who has it then.
        """
        return await self._together.ask(_Asked(ready, delivery_id))

    async def _begin(self, together: Sequence[_Asked]) -> list[Begun | None]:
        claimed_at = asyncio.get_running_loop().time()
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                """
                select *, case when attempt is not null then extract(epoch from clock_timestamp())::float8 end as now
                from begin_attempts($1, $2, $3, $4, $5, $6, $7, $8)
                """,
                self._leases.worker_id,
                self._leases.lease_seconds,
                [asked.ready.user_id for asked in together],
                [asked.ready.job_id for asked in together],
                [asked.delivery_id for asked in together],
                *self._limits.of_chain,
            )
        users = {asked.ready.job_id: asked.ready.user_id for asked in together}
        begun: dict[UUID, Begun] = {}
        for job_id, of_job in groupby(rows, key=lambda row: row["claimed_id"]):
            claimed, *history = of_job
            self._leases.clock.set(claimed["now"])
            begun[job_id] = Begun(_claim(claimed, users[job_id], claimed_at), history)
        return [begun.get(asked.ready.job_id) for asked in together]


def _is_of_another_job(together: Sequence[_Asked], asked: _Asked) -> bool:
    """The second delivery of a job waits for what becomes of the first."""
    return all(asked.ready.job_id != other.ready.job_id for other in together)


def _claim(row: Any, user_id: str, claimed_at: float) -> Claim:
    return Claim(
        job_id=row["claimed_id"],
        user_id=user_id,
        conversation_id=row["conversation_id"],
        attempt=row["attempt"],
        next_seq=row["next_seq"],
        request=row["request"],
        is_cancelled=row["cancel_requested"],
        claimed_at=claimed_at,
    )
