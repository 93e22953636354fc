"""What is told after a commit: live events, answers to barriers, and which jobs may run now.

None of it is needed for correctness: gateways read the journal, workers ask again, maintenance publishes again. So a
failure here is logged and forgotten, and writing never waits for it.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

from persistence import counts
from persistence.writer import Written
from shared.contracts import JobReady, LiveBatch
from shared.db import Database
from shared.errors import BrokerUnavailableError, DatabaseUnavailableError
from shared.faults import reach
from shared.messaging import JOBS, LIVE, Publisher, is_reply_queue
from shared.observability import get_logger
from shared.supervision import supervised

log = get_logger()

_UNTOLD_MAX = 16  # batches, each bounded in bytes
_IN_FLIGHT_MAX = 200  # unconfirmed publications
_WAITING_MAX = 10_000  # jobs; maintenance finds the others


class Announcer:
    """Tells gateways and workers what batches stored, one batch after the other."""

    def __init__(
        self, publisher: Publisher, dispatcher: "Dispatcher", wake_webhooks: Callable[[], None] | None = None
    ) -> None:
        """`wake_webhooks` is called where webhooks are to be sent; without it their sender finds them by itself."""
        self._publisher = publisher
        self._dispatcher = dispatcher
        self._wake_webhooks = wake_webhooks
        self._untold: asyncio.Queue[Written] = asyncio.Queue(_UNTOLD_MAX)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = supervised(self._run(), "announcer")

    async def drained(self) -> None:
        """Returns when everything announced so far is told."""
        await self._untold.join()

    async def stop(self, seconds: float) -> None:
        """Tell what is left, within `seconds`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.drained(), seconds)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def announce(self, written: Written) -> None:
        """Count what was written, and tell soon what there is to tell.

        Live events that find no room are left to the journal.
        """
        _count(written)
        self._dispatcher.dispatch(written.ready)
        if written.has_webhooks and self._wake_webhooks is not None:
            self._wake_webhooks()
        if not written.live and not written.touched and not written.replies:
            return
        try:
            self._untold.put_nowait(written)
        except asyncio.QueueFull:
            counts.ANNOUNCEMENTS_DROPPED.inc()
            log.warning("announcement_dropped", job_count=len(written.live), reply_count=len(written.replies))

    async def _run(self) -> None:
        while True:
            written = await self._untold.get()
            try:
                await self._tell(written)
            except Exception:
                log.exception("announcement_failed")
            finally:
                self._untold.task_done()

    async def _tell(self, written: Written) -> None:
        reach("persistence.before_fan_out")
        if written.live or written.touched:
            await self._publisher.tell(LIVE, LiveBatch(jobs=written.live, conversations=written.touched))
        for reply in written.replies:
            if is_reply_queue(reply.queue):
                await self._publisher.reply(reply.queue, reply.message)
            else:
                log.warning("reply_queue_refused", job_id=str(reply.message.job_id))


def _count(written: Written) -> None:
    """Of what is committed now."""
    counts.EVENTS.inc(sum(len(live.events) for live in written.live))
    for place, count in written.places.items():
        counts.CHUNKS.labels(place).inc(count)
    for cause, count in written.retries.items():
        counts.RETRIES.labels(cause).inc(count)
    for outcome, count in written.resumes.items():
        counts.RESUMES.labels(outcome).inc(count)
    for ended in written.ended:
        counts.JOBS_ENDED.labels(ended.status.value).inc()


class Dispatcher:
    """Publishes jobs that may run and notes those the broker has confirmed; the rest is left to maintenance."""

    def __init__(self, publisher: Publisher, database: Database) -> None:
        self._publisher = publisher
        self._database = database
        self._waiting: dict[UUID, JobReady] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = supervised(self._run(), "dispatcher")

    async def drained(self) -> None:
        """Returns when everything dispatched so far is published, or given up."""
        await self._idle.wait()

    async def stop(self, seconds: float) -> None:
        """Publish what is left, within `seconds`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.drained(), seconds)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def dispatch(self, jobs: Iterable[JobReady]) -> None:
        """Publish `jobs` soon; those that wait for it already are not taken twice."""
        for job in jobs:
            if len(self._waiting) < _WAITING_MAX:
                self._waiting.setdefault(job.job_id, job)
        if self._waiting:
            self._idle.clear()
            self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                while self._waiting:
                    await self._publish_some()
            except Exception:
                log.exception("dispatch_failed")
            finally:
                self._idle.set()

    async def _publish_some(self) -> None:
        jobs = [self._waiting.pop(job_id) for job_id in list(self._waiting)[:_IN_FLIGHT_MAX]]
        reach("persistence.before_dispatch")
        confirmed = await asyncio.gather(*(self._publish(job) for job in jobs))
        await self._note([job_id for job_id in confirmed if job_id])

    async def _publish(self, job: JobReady) -> UUID | None:
        try:
            await self._publisher.send(JOBS, job)
        except BrokerUnavailableError as error:
            log.warning("dispatch_unconfirmed", job_id=str(job.job_id), cause=error.message)
            return None
        reach("dispatch.after_confirm")
        return job.job_id

    async def _note(self, job_ids: Sequence[UUID]) -> None:
        if not job_ids:
            return
        try:
            async with self._database.transaction(None) as connection:
                # A job that a worker has claimed, or released, meanwhile needs no note.
                await connection.execute(
                    """
                    update jobs set dispatched_at = clock_timestamp()
                    where id in (select id from jobs
                                 where id = any($1::uuid[]) and status = 'queued' and available_at <= clock_timestamp()
                                 order by id for no key update)
                    """,
                    job_ids,
                )
        except DatabaseUnavailableError:
            log.warning("dispatch_unnoted", count=len(job_ids))
