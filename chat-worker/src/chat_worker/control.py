"""What the worker hears besides its jobs: cancels, and persistence's answers to where an attempt goes on."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias
from uuid import UUID

from shared import contracts
from shared.contracts import CancelRequested, Refusal, RefusedMessageError, ResumeReply, ResumeRequest
from shared.errors import BrokerUnavailableError
from shared.messaging import CONTROL, journal_queue, partition_of, refuse
from shared.observability import get_logger

log = get_logger()

_Key: TypeAlias = tuple[UUID, int]


class Asker(Protocol):
    """Publishes a request, confirmed; raises BrokerUnavailableError. As `messaging.Publisher` does."""

    def send(self, queue: str, message: contracts.Message, *, reply_to: str | None = None) -> Awaitable[None]: ...


class Control:
    """`on_message` takes what the worker's own queue brings, `reply_queue` says how that queue is called now."""

    def __init__(  # noqa: PLR0913 - where from, where to, how long
        self,
        publisher: Asker,
        reply_queue: Callable[[], str | None],
        on_cancel: Callable[[UUID], None],
        *,
        partition_count: int,
        ask_seconds: float,
        wait_seconds_max: float,
    ) -> None:
        self._publisher = publisher
        self._reply_queue = reply_queue
        self._on_cancel = on_cancel
        self._partition_count = partition_count
        self._ask_seconds = ask_seconds
        self._wait_seconds_max = wait_seconds_max
        self._waiting: dict[_Key, asyncio.Future[ResumeReply]] = {}

    def on_message(self, body: bytes) -> None:
        try:
            message = contracts.decode(body)
        except RefusedMessageError as error:
            refuse(CONTROL, error, len(body))
            return
        match message:
            case CancelRequested(job_id=job_id):
                self._on_cancel(job_id)
            case ResumeReply(job_id=job_id, attempt=attempt):
                waiting = self._waiting.get((job_id, attempt))
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
            case _:
                misplaced = RefusedMessageError(Refusal.MISPLACED, f"{type(message).__name__} is not for workers")
                refuse(CONTROL, misplaced, len(body))

    async def ask_to_resume(self, job_id: UUID, conversation_id: UUID, attempt: int) -> ResumeReply:
        """Where the attempt goes on; all that an earlier one sent before is stored then, or never will be.

        The same question again, after a loss, gets the same answer. Raises BrokerUnavailableError if none comes.
        """
        request = ResumeRequest(job_id=job_id, conversation_id=conversation_id, attempt=attempt)
        reply: asyncio.Future[ResumeReply] = asyncio.get_running_loop().create_future()
        self._waiting[job_id, attempt] = reply
        try:
            async with asyncio.timeout(self._wait_seconds_max):
                while not reply.done():
                    await self._ask(request)
                    await asyncio.wait([reply], timeout=self._ask_seconds)
        except TimeoutError:
            message = "The response could not be continued: its journal did not answer."
            raise BrokerUnavailableError("resume_unanswered", message) from None
        finally:
            del self._waiting[job_id, attempt]
        return reply.result()

    async def _ask(self, request: ResumeRequest) -> None:
        reply_to = self._reply_queue()
        if reply_to is None:
            return
        queue = journal_queue(partition_of(request.conversation_id, self._partition_count))
        try:
            await self._publisher.send(queue, request, reply_to=reply_to)
        except BrokerUnavailableError:
            log.warning("resume_request_unconfirmed", queue=queue)
