"""How a client gets its answer: waiting, following, polling; and how it stops one."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from uuid import UUID

from gateway.auth import User
from gateway.dispatch import Dispatcher
from gateway.limits import StreamSlots
from gateway.live import Live
from gateway.settings import GatewaySettings
from gateway.stream import BEFORE_FIRST, EventStream, Follower, Journal, StreamLimits
from gateway.turns import Accepted
from shared.contracts import CancelRequested, JobReady
from shared.db import Database, Row
from shared.errors import ConflictError, NotFoundError
from shared.events import Event, JsonObject, response_of
from shared.states import JobStatus
from shared.tokens import LEEWAY_SECONDS


class Answers:
    """Everything that happens to a turn after it was accepted, as seen by clients."""

    def __init__(
        self,
        database: Database,
        dispatcher: Dispatcher,
        live: Live,
        settings: GatewaySettings,
        stopping: asyncio.Event,
    ) -> None:
        self._database = database
        self._dispatcher = dispatcher
        self._live = live
        self._settings = settings
        self._stopping = stopping
        self._slots = StreamSlots(settings.streams_per_user_max)

    def check_stream_room(self, user_id: str) -> None:
        """Raises LimitExceededError where the user has as many open streams as allowed; ask before storing anything."""
        self._slots.check(user_id)

    def start(self, accepted: Accepted) -> None:
        """Let the job run now, if its turn has come. A repeated submission was started by the first one."""
        if accepted.is_active and not accepted.is_repeat:
            self._dispatcher.dispatch(
                JobReady(job_id=accepted.job_id, conversation_id=accepted.conversation_id, user_id=accepted.user_id)
            )

    async def wait(self, accepted: Accepted, *, seconds: float) -> JsonObject:
        """The Response object as it ended; as it stands, where that takes longer or this gateway stops."""
        follower = self._follower(accepted.user_id, accepted.job_id)
        final = asyncio.create_task(follower.final(accepted.events, lambda: self.start(accepted)))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((final, stopping), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if final.done():
                return response_of(final.result())
        finally:
            for task in (final, stopping):
                task.cancel()
            await asyncio.gather(final, stopping, return_exceptions=True)
        return await self.response(accepted.user_id, accepted.job_id)

    def stream_new(self, user: User, accepted: Accepted) -> EventStream:
        """The stream of a turn that was just accepted, from its first event."""
        follower = self._follower(accepted.user_id, accepted.job_id)
        return self._stream(user, follower.follow(BEFORE_FIRST, accepted.events, lambda: self.start(accepted)))

    def stream(self, user: User, job_id: UUID, starting_after: int | None) -> EventStream:
        cursor = BEFORE_FIRST if starting_after is None else starting_after
        return self._stream(user, self._follower(user.id, job_id).follow(cursor))

    async def response(self, user_id: str, job_id: UUID) -> JsonObject:
        """The Response object as it stands. Raises NotFoundError."""
        return _as_response(await self._job(user_id, job_id))

    async def conversation_of(self, user_id: str, job_id: UUID) -> UUID:
        """The conversation of the response that a client names as the one before. Raises NotFoundError."""
        try:
            conversation_id: UUID = (await self._job(user_id, job_id))["conversation_id"]
        except NotFoundError as error:
            raise NotFoundError(
                "previous_response_not_found", "No such previous response.", param="previous_response_id"
            ) from error
        return conversation_id

    async def cancel(self, user_id: str, job_id: UUID) -> JsonObject:
        """Ask for the job to be stopped, and wait a moment for it to be. Ended ones stay as they are.

        Raises NotFoundError; ConflictError for an ended response that did not run in the background.
        """
        job = await self._job(user_id, job_id)
        if JobStatus(job["status"]).is_terminal:
            if not job["background"] and job["status"] != JobStatus.CANCELLED:
                raise ConflictError("cannot_cancel", "Cannot cancel a synchronous response.")
            return _as_response(job)
        async with self._database.transaction(user_id) as connection:
            await connection.execute(
                "update jobs set cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp())"
                " where id = $1 and user_id = $2",
                job_id,
                user_id,
            )
        self._dispatcher.cancel(CancelRequested(job_id=job_id, conversation_id=job["conversation_id"]))
        try:
            async with asyncio.timeout(self._settings.cancel_wait_seconds):
                return response_of(await self._follower(user_id, job_id).final())
        except TimeoutError:
            return await self.response(user_id, job_id)

    async def _job(self, user_id: str, job_id: UUID) -> Row:
        async with self._database.transaction(user_id) as connection:
            row = await connection.fetchrow(
                """
                select j.status, j.background, j.request, j.response, j.conversation_id from jobs j
                join conversations c on c.id = j.conversation_id and c.deleted_at is null
                where j.id = $1 and j.user_id = $2
                """,
                job_id,
                user_id,
            )
        if row is None:
            raise NotFoundError("not_found", "No such response.")
        return row

    def _follower(self, user_id: str, job_id: UUID) -> Follower:
        journal = Journal(self._database, user_id, job_id)
        return Follower(journal, self._live, heartbeat_seconds=self._settings.heartbeat_seconds)

    def _stream(self, user: User, batches: AsyncGenerator[Sequence[Event], None]) -> EventStream:
        # A stream does not outlive its token: whoever reconnects shows a new one.
        seconds_max = min(self._settings.stream_seconds_max, user.expires_at + LEEWAY_SECONDS - time.time())
        limits = StreamLimits(self._settings.send_timeout_seconds, seconds_max)
        return EventStream(batches, self._stopping, limits, self._slots.held(user.id))


def _as_response(job: Row) -> JsonObject:
    response: JsonObject = job["response"] or {**job["request"], "status": job["status"]}
    return response
