"""How an attempt begins: the job is claimed, and what it goes on from is read, in the same round trip.

Jobs that come while a claim is under way are claimed together, by the next statement: one transaction for all of them,
which on a disk that takes milliseconds for a commit is what lets a worker begin thousands of jobs a second.
"""

import asyncio
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from uuid import UUID

from chat_worker.agent.values import JsonObject
from chat_worker.history import HistoryLimits
from chat_worker.leases import Leases
from shared.contracts import JobReady
from shared.db import Database

_TOGETHER_MAX = 32
_PATIENCE_SECONDS = 0.02  # a statement that takes longer, as for a row that is locked, holds up no others


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
    answer: "asyncio.Future[Begun | None]"


class Claims:
    def __init__(self, database: Database, leases: Leases, limits: HistoryLimits) -> None:
        self._database = database
        self._leases = leases
        self._limits = limits
        self._waiting: list[_Asked] = []
        self._is_busy = False
        self._under_way: dict[asyncio.Task[None], Sequence[_Asked]] = {}

    async def claim(self, ready: JobReady, delivery_id: str | None) -> Begun | None:
        """Claim the job; None: it ended, waits for its turn, or is a live worker's.

        `delivery_id` as `Runner.run` has it. Raises DatabaseUnavailableError: then it may have been claimed, or not.
        """
        asked = _Asked(ready, delivery_id, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if not self._is_busy:
            self._send()
        try:
            return await asked.answer
        except asyncio.CancelledError:
            self._give_up()
            raise

    def _send(self) -> None:
        """Ask for those that wait, as one statement."""
        together, self._waiting = _each_job_once(self._waiting)
        self._is_busy = bool(together)
        if together:
            # It is about all of them: what it logs names none.
            task = asyncio.create_task(self._carry_out(together), context=Context())
            self._under_way[task] = together
            task.add_done_callback(self._under_way.pop)

    def _give_up(self) -> None:
        """Break off what nobody waits for any more: carried out late, it would take the job from who has it by then."""
        for task, together in self._under_way.items():
            if all(asked.answer.done() for asked in together):
                task.cancel()

    async def _carry_out(self, together: Sequence[_Asked]) -> None:
        overdue = asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, self._send)
        try:
            await self._answer(together)
        finally:
            if asyncio.get_running_loop().time() < overdue.when():
                overdue.cancel()
                self._send()

    async def _answer(self, together: Sequence[_Asked]) -> None:
        try:
            begun = await self._begin(together)
        except Exception as error:  # noqa: BLE001 - goes to who asked
            if len(together) == 1:
                _fail(together[0], error)
            else:  # one of them may have spoilt it for the others, by a row that is locked for long
                await asyncio.gather(*(self._answer([asked]) for asked in together))
        else:
            for asked in together:
                if not asked.answer.done():  # who asked may be gone
                    asked.answer.set_result(begun.get(asked.ready.job_id))

    async def _begin(self, together: Sequence[_Asked]) -> dict[UUID, Begun]:
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
        begun = {}
        for job_id, of_job in groupby(rows, key=lambda row: row["claimed_id"]):
            claimed, *history = of_job
            self._leases.clock.set(claimed["now"])
            begun[job_id] = Begun(_claim(claimed, users[job_id], claimed_at), history)
        return begun


def _each_job_once(waiting: Sequence[_Asked]) -> tuple[list[_Asked], list[_Asked]]:
    """Those to be claimed now, and those that go on waiting: too many, or of a job that is among the former."""
    together: dict[UUID, _Asked] = {}
    later = []
    for asked in waiting:
        if asked.ready.job_id in together or len(together) == _TOGETHER_MAX:
            later.append(asked)
        elif not asked.answer.done():
            together[asked.ready.job_id] = asked
    return list(together.values()), later


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


def _fail(asked: _Asked, error: Exception) -> None:
    if not asked.answer.done():
        asked.answer.set_exception(error)
