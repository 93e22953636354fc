"""Repairs what crashes, a wiped broker and lost messages leave behind.

Every repair looks at the tables alone, is safe to run at any moment and twice, and makes no difference where nothing is
wrong. One process at a time does it. It runs by the clock, and at once when a job is released for later: such a job is
published when it is due.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from persistence import counts
from persistence.announce import Announcer, Dispatcher
from persistence.drafts import AttemptsSpent
from persistence.writer import Incoming, Written, write_batch
from shared import tracing
from shared.contracts import CancelRequested, JobReady
from shared.db import Database, Row
from shared.db.errors import described
from shared.errors import BrokerUnavailableError, DatabaseUnavailableError
from shared.faults import sabotaged
from shared.messaging import JOBS, Publisher
from shared.observability import get_logger
from shared.supervision import supervised

log = get_logger()

# Found by the partial indexes on active conversations and on open jobs; locked by their keys afterwards.
FIND_ASTRAY = """
    with astray as materialized (
        select c.id from conversations c left join jobs j on j.id = c.active_job_id
        where c.active_job_id is not null and (j.id is null or j.status not in ('queued', 'in_progress'))
        union
        select c.id from jobs j join conversations c on c.id = j.conversation_id
        where c.active_job_id is null and j.status in ('queued', 'in_progress')
        limit $1)
    select id from conversations where id = any(array(select id from astray))
    order by id for no key update skip locked
"""
LOCK = 7214002  # of Postgres; any number that nothing else in the database locks


@dataclass(frozen=True, slots=True)
class Limits:
    """When a repair takes something for broken; each outlasts what is normal in a busy system."""

    round_seconds: float
    dispatch_grace_seconds: float
    wiped_broker_grace_seconds: float
    redispatch_seconds: float
    lease_grace_seconds: float
    attempts_max: int
    repairs_max: int


class Maintenance:
    """Runs the repairs until stopped."""

    def __init__(
        self, database: Database, publisher: Publisher, announcer: Announcer, dispatcher: Dispatcher, limits: Limits
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._announcer = announcer
        self._dispatcher = dispatcher
        self._limits = limits
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = supervised(self._run(), "maintenance")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def wake(self) -> None:
        """Look again at what is due, now."""
        self._wake.set()

    async def run_once(self) -> float:
        """One round of all repairs; returns the seconds until the next one is wanted."""
        await self.requeue_expired_leases()
        await self.repair_active_jobs()
        await self.end_abandoned_jobs()
        return await self.publish_due_jobs()

    async def requeue_expired_leases(self) -> None:
        """Give jobs whose worker is gone to the next one.

        The fence of the journal stays: what the worker sent before it died is stored until the next attempt asks.
        """
        async with self._alone() as connection:
            rows = connection and await connection.fetch(
                """
                update jobs
                set status = 'queued', worker_id = null, lease_until = null, dispatched_at = null,
                    available_at = clock_timestamp()
                where id in (select id from jobs
                             where status = 'in_progress'
                               and lease_until < clock_timestamp() - make_interval(secs => $1)
                             order by id limit $2 for no key update skip locked)
                returning id, attempt
                """,
                self._limits.lease_grace_seconds,
                self._limits.repairs_max,
            )
        for row in rows or []:
            counts.RETRIES.labels("lease_expired").inc()
            _tell_expired(row["id"], row["attempt"])
            log.warning("lease_expired", job_id=str(row["id"]), attempt=row["attempt"])

    async def repair_active_jobs(self) -> None:
        """Point conversations whose active job ended, or is missing, to the one that should run."""
        async with self._alone() as connection:
            rows = connection and await _repair_active_jobs(connection, self._limits.repairs_max)
        for row in rows or []:
            counts.REPAIRS.labels("active_job").inc()
            log.warning("active_job_repaired", conversation_id=str(row["id"]), job_id=str(row["active_job_id"]))

    async def end_abandoned_jobs(self) -> None:
        """End waiting jobs whose cancel nobody carried out, and those that no worker survives."""
        written = Written()
        async with self._alone() as connection:
            if connection and (batch := await self._find_abandoned(connection)):
                written = await write_batch(connection, batch)
        for ended in written.ended:
            counts.REPAIRS.labels("abandoned_job").inc()
            log.warning("abandoned_job_ended", job_id=str(ended.job_id), status=ended.status.value)
        self._announcer.announce(written)

    async def publish_due_jobs(self) -> float:
        """Publish the active jobs that wait for a worker without one having been told; returns the seconds to wait."""
        async with self._alone() as connection:
            if not connection or not self._publisher.is_up or sabotaged("outbox"):
                return self._limits.round_seconds
            unsent = await self._find_unsent(connection)
            unclaimed = await self._find_unclaimed(connection)
            next_due = await connection.fetchval(
                """
                select extract(epoch from min(available_at) - clock_timestamp())::double precision from jobs
                where status = 'queued' and dispatched_at is null and available_at > clock_timestamp()
                """
            )
        if unclaimed and not await self._is_jobs_queue_empty():
            unclaimed = [row for row in unclaimed if row["waits_seconds"] > self._limits.redispatch_seconds]
        for _ in unsent:
            counts.REPAIRS.labels("unsent").inc()
        for row in unclaimed:
            counts.REPAIRS.labels("published_again").inc()
            log.warning("job_published_again", job_id=str(row["id"]), waits_seconds=round(row["waits_seconds"], 1))
        self._dispatcher.dispatch(
            JobReady(job_id=row["id"], conversation_id=row["conversation_id"], user_id=row["user_id"])
            for row in [*unsent, *unclaimed]
        )
        return min(self._limits.round_seconds, max(next_due or self._limits.round_seconds, 0.0))

    async def _run(self) -> None:
        pause = 0.0
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)
            self._wake.clear()
            try:
                pause = await self.run_once()
            except DatabaseUnavailableError:
                pause = self._limits.round_seconds
            except Exception as error:  # noqa: BLE001
                log.error("maintenance_failed", **described(error))  # noqa: TRY400 - a traceback may quote what rows hold
                pause = self._limits.round_seconds

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[asyncpg.Connection | None]:
        """A transaction that no other process's maintenance overlaps; None where one is at it."""
        async with self._database.transaction(None) as connection:
            is_free = await connection.fetchval("select pg_try_advisory_xact_lock($1)", LOCK)
            yield connection if is_free else None

    async def _find_abandoned(self, connection: asyncpg.Connection) -> list[Incoming]:
        rows = await connection.fetch(
            """
            select id, conversation_id, cancel_requested_at is not null as is_cancelled from jobs
            where status = 'queued'
              and (cancel_requested_at < clock_timestamp() - make_interval(secs => $1) or attempt >= $2)
            order by id limit $3
            """,
            self._limits.dispatch_grace_seconds,
            self._limits.attempts_max,
            self._limits.repairs_max,
        )
        return [
            Incoming(
                (CancelRequested if row["is_cancelled"] else AttemptsSpent)(
                    job_id=row["id"], conversation_id=row["conversation_id"]
                )
            )
            for row in rows
        ]

    async def _find_unsent(self, connection: asyncpg.Connection) -> list[Row]:
        """Due jobs that no confirm is known of; the gateway has a while to publish a new one by itself."""
        rows: list[Row] = await connection.fetch(
            """
            select j.id, j.conversation_id, j.user_id
            from jobs j join conversations c on c.id = j.conversation_id and c.active_job_id = j.id
            where j.status = 'queued' and j.available_at <= clock_timestamp()
              and j.dispatched_at is null
              and (j.attempt > 0 or j.available_at < clock_timestamp() - make_interval(secs => $1))
            order by j.available_at limit $2
            """,
            self._limits.dispatch_grace_seconds,
            self._limits.repairs_max,
        )
        return rows

    async def _find_unclaimed(self, connection: asyncpg.Connection) -> list[Row]:
        """Due jobs that were sent a while ago, and that no worker took."""
        rows: list[Row] = await connection.fetch(
            """
            select j.id, j.conversation_id, j.user_id,
                   extract(epoch from clock_timestamp() - j.dispatched_at)::double precision as waits_seconds
            from jobs j join conversations c on c.id = j.conversation_id and c.active_job_id = j.id
            where j.status = 'queued' and j.available_at <= clock_timestamp()
              and j.dispatched_at < clock_timestamp() - make_interval(secs => $1)
            order by j.dispatched_at limit $2
            """,
            self._limits.wiped_broker_grace_seconds,
            self._limits.repairs_max,
        )
        return rows

    async def _is_jobs_queue_empty(self) -> bool:
        try:
            return await self._publisher.queue_length(JOBS) == 0
        except BrokerUnavailableError:
            return False  # nothing could be published anyway


def _tell_expired(job_id: UUID, number: int) -> None:
    """Let the job's trace say where its attempt ended, which is not there to say so itself."""
    with tracing.start("expire lease", attributes={"parley.attempt": number}, parent=tracing.attempt(job_id, number)):
        pass


async def _repair_active_jobs(connection: asyncpg.Connection, repairs_max: int) -> list[Row]:
    locked = await connection.fetch(FIND_ASTRAY, repairs_max)
    if not locked:
        return []
    # Looked at again with a new snapshot, now that nobody can change them.
    rows: list[Row] = await connection.fetch(
        """
        update conversations c
        set active_job_id = (select j.id from jobs j
                             where j.conversation_id = c.id and j.status in ('queued', 'in_progress')
                             order by j.status = 'in_progress' desc, j.turn limit 1)
        where c.id = any($1::uuid[])
          and not exists (select from jobs j where j.id = c.active_job_id and j.status in ('queued', 'in_progress'))
        returning c.id, c.active_job_id
        """,
        [row["id"] for row in locked],
    )
    return rows
