"""A turn from its acceptance to its answer: accepting, waiting, following, polling; and how a client stops one."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from uuid import UUID

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from gateway import metrics
from gateway.auth import User
from gateway.denials import Denials
from gateway.dispatch import Dispatcher
from gateway.limits import OpenJobs, Slot, Slots
from gateway.live import Live
from gateway.metrics import SentEvents
from gateway.settings import GatewaySettings
from gateway.stream import BEFORE_FIRST, EventStream, Follower, Journal, StreamLimits
from gateway.telling import about, trace_request
from gateway.turns import Acceptance, Accepted, AcceptLimits, Submission, Turn, find_repeated
from gateway.until import Signal, disconnected
from gateway.writer import delete_conversation
from shared import tracing
from shared.contracts import CancelRequested, JobReady, Touched
from shared.db import Database, Row
from shared.errors import InvalidInputError, LimitExceededError, NotFoundError
from shared.events import Event, JsonObject, response_of
from shared.observability import get_logger
from shared.states import JobStatus

log = get_logger()


class Answers:
    """Everything that happens to a turn, as seen by clients."""

    def __init__(  # noqa: PLR0913, PLR0917 - what it works with
        self,
        database: Database,
        dispatcher: Dispatcher,
        live: Live,
        settings: GatewaySettings,
        stopping: Signal,
        denials: Denials,
    ) -> None:
        self._database = database
        self._denials = denials
        self._dispatcher = dispatcher
        self._live = live
        self._settings = settings
        self._stopping = stopping
        self._open_jobs = OpenJobs(database, settings.open_jobs_max)
        accept_limits = AcceptLimits(
            open_jobs_max=settings.open_jobs_per_user_max,
            tokens_per_day_max=settings.tokens_per_day_max,
            retry_window_seconds=settings.retry_window_seconds,
        )
        self._acceptance = Acceptance(database, accept_limits)
        self._streams = Slots("streams", per_user_max=settings.streams_per_user_max, all_max=settings.streams_max)
        self._waits = Slots("waits", per_user_max=settings.waits_per_user_max, all_max=settings.waits_max)
        # Some connections stay free for accepting, however many streams read at once.
        self._journal_reads = asyncio.Semaphore(max(1, settings.database_pool_size // 2))

    def stream_slot(self, user_id: str) -> Slot:
        """Room for one stream of the user's, to be taken before anything is stored. Raises LimitExceededError."""
        return self._streams.take(user_id)

    def wait_slot(self, user_id: str) -> Slot:
        """Room for one request of the user's that waits for an answer. Raises LimitExceededError."""
        return self._waits.take(user_id)

    async def accept(self, turn: Turn) -> Accepted:
        """As `Acceptance.accept`, within the limits of this gateway; tells the workers which jobs it interrupts.

        Raises UnavailableError as well, where the whole system has too much to do.
        """
        await self._open_jobs.check()
        began_at, began_ns = time.perf_counter(), tracing.now_ns()
        accepted = await self._acceptance.accept(turn)
        metrics.ACCEPT_SECONDS.observe(time.perf_counter() - began_at)
        self._tell_accepted(accepted)
        tracing.start("accept turn", tracing.Kind.CLIENT, {"db.system.name": "postgresql"}, started_ns=began_ns).end()
        self._tell_cancelled(accepted.interrupted, accepted.conversation_id)
        if not accepted.is_repeat and (turn.store or turn.conversation_id is not None):
            what = "conversation.response.created"
            self._dispatcher.touched(Touched(conversation_id=accepted.conversation_id, user_id=turn.user_id, what=what))
        return accepted

    async def repeated(self, user_id: str, submission: Submission) -> Accepted | None:
        """The turn that this submission asked for before, if it comes again."""
        window = self._settings.retry_window_seconds
        found = await find_repeated(self._database, user_id, submission, retry_window_seconds=window)
        if found is None:
            return None
        job_id, conversation_id = found
        accepted = Accepted(job_id, conversation_id, user_id, response={}, events=(), is_active=False, is_repeat=True)
        self._tell_accepted(accepted)
        return accepted

    def start(self, accepted: Accepted) -> None:
        """Let the job run now, if its turn has come. A repeated submission was started by the first one."""
        if accepted.is_active and not accepted.is_repeat:
            self._dispatcher.dispatch(
                JobReady(job_id=accepted.job_id, conversation_id=accepted.conversation_id, user_id=accepted.user_id)
            )

    async def wait(self, accepted: Accepted, receive: Receive, *, seconds: float) -> JsonObject:
        """The Response object as it ended; as it stands, where that takes longer or this gateway stops.

        Raises ClientDisconnect when the client goes away, which `receive` tells.
        """
        follower = self._follower(accepted.user_id, accepted.job_id)
        final = asyncio.create_task(follower.final(_known(accepted), lambda: self.start(accepted)))
        gone = asyncio.create_task(disconnected(receive))
        stopping = asyncio.create_task(self._stopping.wait())
        ends: tuple[asyncio.Task[object], ...] = (final, gone, stopping)
        try:
            with tracing.start("wait for response"):
                await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise ClientDisconnect
            if final.done():
                return response_of(final.result())
        finally:
            for task in ends:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
        return _as_response(await self._job(accepted.user_id, accepted.job_id, is_own=True))

    def answered(self, accepted: Accepted) -> Callable[[], None]:
        """To be called when the client has its answer: until then the same request may come again as a blind retry."""
        return lambda: self._dispatcher.answered(accepted.job_id)

    def stream_new(self, user: User, accepted: Accepted, slot: Slot) -> EventStream:
        """The stream of a turn that was just accepted, from its first event."""
        follower = self._follower(accepted.user_id, accepted.job_id)
        batches = follower.follow(BEFORE_FIRST, _known(accepted), lambda: self.start(accepted))
        sent = SentEvents(accepted_at=None if accepted.is_repeat else time.perf_counter())
        return self._stream(user, batches, slot, sent, self.answered(accepted))

    def stream(self, user: User, job_id: UUID, starting_after: int | None, slot: Slot) -> EventStream:
        """The stream of a response that there is."""
        cursor = BEFORE_FIRST if starting_after is None else starting_after
        if starting_after is not None:
            metrics.RESUMES.inc()
        trace_request(job_id, is_first=False)
        return self._stream(user, self._follower(user.id, job_id).follow(cursor), slot, SentEvents())

    async def response(self, user_id: str, job_id: UUID) -> JsonObject:
        """The Response object as it stands. Raises NotFoundError."""
        job = await self._job(user_id, job_id)
        about(job_id, job["conversation_id"])
        return _as_response(job)

    async def conversation_of(self, user_id: str, job_id: UUID) -> UUID:
        """The conversation of the response that a client names as the one before.

        Raises NotFoundError, also for one that is not stored.
        """
        try:
            job = await self._job(user_id, job_id)
        except NotFoundError as error:
            raise previous_response_not_found() from error
        if not job["store"]:
            raise previous_response_not_found()
        conversation_id: UUID = job["conversation_id"]
        return conversation_id

    async def cancel(self, user_id: str, job_id: UUID) -> JsonObject:
        """Ask for the job to be stopped, and wait a moment for it to be. Ended ones stay as they are.

        Raises NotFoundError; InvalidInputError for an ended response that did not run in the background.
        """
        job = await self._job(user_id, job_id)
        about(job_id, job["conversation_id"])
        trace_request(job_id, is_first=False)
        if JobStatus(job["status"]).is_terminal:
            if not job["background"] and job["status"] != JobStatus.CANCELLED:
                raise InvalidInputError("cannot_cancel", "Cannot cancel a synchronous response.")
            return _as_response(job)
        async with self._database.transaction(user_id) as connection:
            is_first = await connection.fetchval(
                """
                update jobs set cancel_requested_at = clock_timestamp()
                where id = $1 and user_id = $2 and cancel_requested_at is null
                  and status in ('queued', 'in_progress') returning true
                """,
                job_id,
                user_id,
            )
        if is_first:
            self._tell_cancelled([job_id], job["conversation_id"])
        try:
            with self.wait_slot(user_id):
                async with asyncio.timeout(self._settings.cancel_wait_seconds):
                    return response_of(await self._follower(user_id, job_id).final())
        except (TimeoutError, LimitExceededError):
            return await self.response(user_id, job_id)

    async def delete(self, user_id: str, job_id: UUID) -> None:
        """Let nobody find the response any more; if it is queued or running, stop it. Raises NotFoundError.

        What was said stays in the conversation.
        """
        job = await self._job(user_id, job_id)
        about(job_id, job["conversation_id"])
        async with self._database.transaction(user_id) as connection:
            is_open = await connection.fetchval(
                """
                update jobs
                set deleted_at = clock_timestamp(),
                    cancel_requested_at = case when status in ('queued', 'in_progress')
                        then coalesce(cancel_requested_at, clock_timestamp()) else cancel_requested_at end
                where id = $1 and user_id = $2 and deleted_at is null
                returning status in ('queued', 'in_progress')
                """,
                job_id,
                user_id,
            )
        if is_open:
            self._tell_cancelled([job_id], job["conversation_id"])
        self._live.resync(job_id)

    async def delete_conversation(self, user_id: str, conversation_id: UUID) -> None:
        """Hide the conversation and stop what is queued or running in it. Raises NotFoundError."""
        job_ids = await delete_conversation(self._database, user_id, conversation_id)
        self._tell_cancelled(job_ids, conversation_id)
        for job_id in job_ids:
            self._live.resync(job_id)

    def _tell_accepted(self, accepted: Accepted) -> None:
        metrics.TURNS.labels("repeated" if accepted.is_repeat else "accepted").inc()
        about(accepted.job_id, accepted.conversation_id)
        trace_request(accepted.job_id, is_first=not accepted.is_repeat)
        log.info("turn_repeated" if accepted.is_repeat else "turn_accepted", is_active=accepted.is_active)

    def _tell_cancelled(self, job_ids: Sequence[UUID], conversation_id: UUID) -> None:
        for job_id in job_ids:
            self._dispatcher.cancel(CancelRequested(job_id=job_id, conversation_id=conversation_id))

    async def _job(self, user_id: str, job_id: UUID, *, is_own: bool = False) -> Row:
        """Raises NotFoundError. One that is not stored and has ended is there for the request that made it alone."""
        async with self._database.transaction(user_id) as connection:
            row = await connection.fetchrow(
                """
                select j.status, j.background, j.store, j.request, j.response, j.conversation_id from jobs j
                join conversations c on c.id = j.conversation_id and c.deleted_at is null
                where j.id = $1 and j.user_id = $2 and j.deleted_at is null
                  and ($3 or j.store or j.status in ('queued', 'in_progress'))
                """,
                job_id,
                user_id,
                is_own,
            )
        if row is None:
            raise NotFoundError("not_found", "No such response.")
        return row

    def _follower(self, user_id: str, job_id: UUID) -> Follower:
        journal = Journal(self._database, self._journal_reads, user_id, job_id)
        heartbeat_seconds = self._settings.heartbeat_seconds
        return Follower(journal, self._live, heartbeat_seconds=heartbeat_seconds, on_gap=metrics.count_gap)

    def _stream(
        self,
        user: User,
        batches: AsyncGenerator[Sequence[Event], None],
        slot: Slot,
        sent: SentEvents,
        on_begun: Callable[[], None] | None = None,
    ) -> EventStream:
        limits = StreamLimits.of(self._settings, user)
        return EventStream(batches, (self._stopping, self._denials.of(user)), limits, slot, sent, on_begun)


def _known(accepted: Accepted) -> Sequence[Event]:
    """The events that need not be read: nobody lets an active job run before its follower listens.

    One that waits for its turn may have run meanwhile; persistence starts it, whoever follows.
    """
    return accepted.events if accepted.is_active else ()


def previous_response_not_found() -> NotFoundError:
    return NotFoundError("previous_response_not_found", "No such previous response.", param="previous_response_id")


def _as_response(job: Row) -> JsonObject:
    response: JsonObject = job["response"] or {**job["request"], "status": job["status"]}
    return response
