"""Tells the workers of an accepted job. The commit has already promised it; this only makes it start soon.

A job whose publication was not confirmed stays unmarked in the jobs table, and persistence publishes it again.
"""

import asyncio
from uuid import UUID

from shared.contracts import CancelRequested, JobReady, LiveBatch, Touched
from shared.db import Database
from shared.errors import BrokerUnavailableError, DatabaseUnavailableError
from shared.faults import reach, sabotaged
from shared.messaging import CONTROL, JOBS, LIVE, Publisher, journal_queue, partition_of
from shared.observability import get_logger
from shared.supervision import supervised

log = get_logger()

_MARK_SECONDS = 0.5
_TELL_SECONDS = 0.02
# Locked in the order of their ids, as everywhere. A job that a worker had, even if it queues again, needs no mark: it
# would look like one that its next worker was told of.
_DISPATCHED = """
    update jobs set dispatched_at = clock_timestamp()
    where id in (select id from jobs
                 where id = any($1) and status = 'queued' and attempt = 0 and dispatched_at is null
                   and available_at <= clock_timestamp()
                 order by id for no key update)
"""
_ANSWERED = """
    update jobs set answered_at = clock_timestamp()
    where id in (select id from jobs where id = any($1) and answered_at is null order by id for no key update)
"""


class Dispatcher:
    """Publishes jobs in the background; marks in batches which were confirmed, and whose clients got an answer."""

    def __init__(self, publisher: Publisher, database: Database) -> None:
        self._publisher = publisher
        self._database = database
        self._publications: set[asyncio.Task[None]] = set()
        self._confirmed: list[UUID] = []
        self._answered: list[UUID] = []
        self._touched: list[Touched] = []  # where something is in it, a timer will tell of it
        self._marker: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._marker = supervised(self._mark_for_ever(), "dispatch marker")

    async def stop(self) -> None:
        """Wait for publications under way (each has its timeout), mark them, end."""
        self._tell_touched()
        await asyncio.gather(*self._publications, return_exceptions=True)
        if self._marker is not None:
            self._marker.cancel()
            await asyncio.gather(self._marker, return_exceptions=True)
        await self._mark()

    def dispatch(self, job: JobReady) -> None:
        """Publish without making the caller wait: an answer to a client never waits for the broker."""
        self._in_background(self._publish(job))

    def cancel(self, request: CancelRequested) -> None:
        """Tell the worker that runs the job, and persistence in case none does."""
        self._in_background(self._publish_cancel(request))

    def touched(self, conversation: Touched) -> None:
        """Tell those who follow the conversation, at any gateway, that something happened in it.

        What happens within a moment is told as one message: every gateway gets each.
        """
        if not self._touched:
            asyncio.get_running_loop().call_later(_TELL_SECONDS, self._tell_touched)
        self._touched.append(conversation)

    def answered(self, job_id: UUID) -> None:
        """Note that the client has its answer, so that no later request of the same words is taken for a retry."""
        self._answered.append(job_id)

    def _tell_touched(self) -> None:
        touched, self._touched = self._touched, []
        if touched:
            self._in_background(self._publisher.tell(LIVE, LiveBatch(jobs=[], conversations=touched)))

    async def _publish(self, job: JobReady) -> None:
        try:
            await self._publisher.send(JOBS, job)
        except BrokerUnavailableError as error:
            log.warning("dispatch_unconfirmed", job_id=str(job.job_id), cause=error.message)
            if not sabotaged("confirm"):
                return
        reach("dispatch.after_confirm")
        self._confirmed.append(job.job_id)

    async def _publish_cancel(self, request: CancelRequested) -> None:
        partition = partition_of(request.conversation_id, self._publisher.partition_count)
        try:
            await self._publisher.tell(CONTROL, request)
            await self._publisher.send(journal_queue(partition), request)
        except BrokerUnavailableError as error:
            log.warning("cancel_unconfirmed", job_id=str(request.job_id), cause=error.message)

    def _in_background(self, publication: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.create_task(publication)
        self._publications.add(task)
        task.add_done_callback(self._publications.discard)

    async def _mark_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_MARK_SECONDS)
            await self._mark()

    async def _mark(self) -> None:
        confirmed, self._confirmed = self._confirmed, []
        answered, self._answered = self._answered, []
        # One transaction each: together they would lock jobs out of order.
        await self._update(_DISPATCHED, confirmed)
        await self._update(_ANSWERED, answered)

    async def _update(self, statement: str, job_ids: list[UUID]) -> None:
        if not job_ids:
            return
        try:
            async with self._database.transaction(None) as connection:
                await connection.execute("select set_config('app.scope', 'dispatch', true)")
                await connection.execute(statement, job_ids)
        except DatabaseUnavailableError:
            log.warning("dispatch_unmarked", count=len(job_ids))
