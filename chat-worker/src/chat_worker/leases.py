"""The jobs that this worker holds, and the ways in which it is told to let go of one.

Postgres knows a job's owner by worker and attempt, until `lease_until` on its own clock. One statement renews the
leases of all jobs held, says which are lost, and finds the cancels whose signal was missed.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from enum import StrEnum
from uuid import UUID

from chat_worker import metrics
from shared.db import Database
from shared.errors import DatabaseUnavailableError
from shared.faults import sabotaged
from shared.observability import get_logger

log = get_logger()

_BEATS_PER_LEASE = 3
_RETRY_SECONDS = 1.0
_SIGNALS_KEPT = 1_000


class StopReason(StrEnum):
    CANCELLED = "cancelled"  # by the user
    LEASE_LOST = "lease_lost"  # another attempt owns the job, or it ended
    LEASE_EXPIRED = "lease_expired"  # Postgres was away: another attempt may own it
    TIME_LIMIT = "time_limit"
    SHUTDOWN = "shutdown"


class Stopped(Exception):  # noqa: N818 - a signal, no error
    """The attempt must not go on."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Lease:
    """One attempt's hold on its job. The first reason to stop counts."""

    def __init__(self, job_id: UUID, attempt: int, expires_at: float) -> None:
        self.job_id = job_id
        self.attempt = attempt
        self.expires_at = expires_at  # on the event loop's clock, and earlier than Postgres thinks
        self.stop_reason: StopReason | None = None
        self._scope: asyncio.Timeout | None = None

    @asynccontextmanager
    async def guard(self, seconds: float) -> AsyncIterator[None]:
        """Interrupt the body when the attempt must stop, or after `seconds`. Raises Stopped then."""
        if self.stop_reason is not None:
            raise Stopped(self.stop_reason)
        try:
            async with asyncio.timeout(seconds) as self._scope:
                yield
        except TimeoutError:
            if self._scope is None or not self._scope.expired():
                raise  # not ours: a bug in the body
            raise Stopped(self.stop_reason or StopReason.TIME_LIMIT) from None
        finally:
            self._scope = None

    def stop(self, reason: StopReason) -> None:
        if self.stop_reason is not None:
            return
        if reason in {StopReason.LEASE_LOST, StopReason.LEASE_EXPIRED} and sabotaged("claim_fence"):
            return
        self.stop_reason = reason
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())


class DatabaseClock:
    """The time of day as Postgres last told it. What others judge is dated by it: this machine's may be wrong."""

    def __init__(self) -> None:
        self._ahead: float | None = None  # of the clock that only measures

    def set(self, now: float) -> None:
        """Take over the time that Postgres just told, in seconds since the epoch."""
        self._ahead = now - time.monotonic()

    def now(self) -> float:
        """In seconds since the epoch; by this machine's clock until Postgres told its time."""
        return time.time() if self._ahead is None else time.monotonic() + self._ahead


class Leases:
    def __init__(self, database: Database, worker_id: str, lease_seconds: float) -> None:
        self.worker_id = worker_id
        self.lease_seconds = lease_seconds
        self.clock = DatabaseClock()
        self._database = database
        self._held: dict[UUID, Lease] = {}
        self._signalled: deque[UUID] = deque(maxlen=_SIGNALS_KEPT)
        self._beat_now = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def held_count(self) -> int:
        return len(self._held)

    @contextmanager
    def hold(self, job_id: UUID, attempt: int, *, claimed_at: float) -> Iterator[Lease]:
        """Keep the lease alive that was claimed at `claimed_at` or later (on the event loop's clock)."""
        if job_id in self._held:  # a redelivery came back to this very worker
            self._held[job_id].stop(StopReason.LEASE_LOST)
        metrics.RUNNING.inc()
        lease = self._held[job_id] = Lease(job_id, attempt, claimed_at + self.lease_seconds)
        if job_id in self._signalled:  # perhaps while it was being claimed
            self.check_soon()
        try:
            yield lease
        finally:
            if self._held.get(job_id) is lease:
                del self._held[job_id]
            metrics.RUNNING.dec()
            self._changed.set()

    def cancel_signalled(self, job_id: UUID) -> None:
        """Look now whether the job's user wants it stopped: the row knows, a message may say anything."""
        self._signalled.append(job_id)
        if job_id in self._held:
            self.check_soon()

    def stop_all(self, reason: StopReason) -> None:
        for lease in list(self._held.values()):
            lease.stop(reason)

    def check_soon(self) -> None:
        """Signals may have been missed."""
        self._beat_now.set()

    async def none_held(self) -> None:
        """Wait until no job runs here."""
        while self._held:
            self._changed.clear()
            await self._changed.wait()

    async def run(self) -> None:
        """Keep the leases alive, until cancelled."""
        while True:
            seconds = self.lease_seconds / _BEATS_PER_LEASE
            try:
                async with asyncio.timeout(seconds):
                    await self.beat()
            except (DatabaseUnavailableError, TimeoutError):
                metrics.LEASE_FAILURES.inc()
                log.warning("lease_renewal_failed", job_count=len(self._held))
                seconds = min(_RETRY_SECONDS, seconds)
            self._stop_expired()
            await self._pause(seconds)

    async def beat(self) -> None:
        """Renew every lease; stop the attempts whose lease is lost and those that were cancelled."""
        held = list(self._held.values())
        if not held:
            return
        renewed_at = asyncio.get_running_loop().time()
        cancelled_by_job = await self._renew(held)
        for lease in held:
            if lease.job_id not in cancelled_by_job:
                lease.stop(StopReason.LEASE_LOST)
                continue
            lease.expires_at = renewed_at + self.lease_seconds
            if cancelled_by_job[lease.job_id]:
                lease.stop(StopReason.CANCELLED)

    async def _renew(self, held: list[Lease]) -> dict[UUID, bool]:
        async with self._database.transaction(None) as connection:
            await connection.execute("select set_config('app.worker_id', $1, true)", self.worker_id)
            rows = await connection.fetch(
                """
                with held as materialized (
                    select j.id from jobs j join unnest($1::uuid[], $2::integer[]) mine (job_id, attempt)
                    on j.id = mine.job_id and j.attempt = mine.attempt
                    where j.worker_id = $3 and j.status = 'in_progress'
                    order by j.id for no key update of j
                )
                update jobs j
                set lease_until = coalesce(to_timestamp($5::float8), clock_timestamp()) + make_interval(secs => $4)
                from held where j.id = held.id
                returning j.id, j.cancel_requested_at is not null as is_cancelled,
                          extract(epoch from clock_timestamp())::float8 as now
                """,
                [lease.job_id for lease in held],
                [lease.attempt for lease in held],
                self.worker_id,
                self.lease_seconds,
                time.time() if sabotaged("lease_clock") else None,
            )
        for row in rows[-1:]:
            self.clock.set(row["now"])
        return {row["id"]: row["is_cancelled"] for row in rows}

    def _stop_expired(self) -> None:
        now = asyncio.get_running_loop().time()
        for lease in list(self._held.values()):
            if lease.expires_at <= now:
                lease.stop(StopReason.LEASE_EXPIRED)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._beat_now.wait()
        except TimeoutError:
            pass
        self._beat_now.clear()
