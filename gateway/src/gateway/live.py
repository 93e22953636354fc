"""What is stored right now: one bounded queue per gateway process on `chat.live`, shared out in memory.

By job, with the events themselves; by conversation, whose followers then read what happened; and by user.
"""

import asyncio
from types import TracebackType
from typing import Generic, Self, TypeVar
from uuid import UUID

from shared.contracts import LiveBatch, LiveEvents, Refusal, RefusedMessageError, Touched, decode
from shared.messaging import LIVE, Broker, Listener, refuse

_WAITING_MAX = 512  # batches; a reader that far behind reads the journal instead

NewsT = TypeVar("NewsT", LiveEvents, Touched)
KeyT = TypeVar("KeyT", UUID, str)


class Tail(Generic[KeyT, NewsT]):
    """The live end of one subject for one reader. Never blocks the fan-out: what does not fit is dropped and told.

    It is one while a `with` holds it. There are as many as streams, so that they are kept small.
    """

    __slots__ = ("_must_resync", "_of", "_reader", "_subject", "_waiting")

    def __init__(self, of: "dict[KeyT, set[Tail[KeyT, NewsT]]]", subject: KeyT) -> None:
        self._of: dict[KeyT, set[Tail[KeyT, NewsT]]] = of
        self._subject: KeyT = subject
        self._waiting: list[NewsT] = []
        self._reader: asyncio.Future[None] | None = None
        self._must_resync = False

    def __enter__(self) -> Self:
        self._of.setdefault(self._subject, set()).add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tails = self._of[self._subject]
        tails.discard(self)
        if not tails:
            del self._of[self._subject]

    def push(self, news: NewsT) -> None:
        if len(self._waiting) >= _WAITING_MAX:
            self.resync()
            return
        self._waiting.append(news)
        self._wake()

    def resync(self) -> None:
        """Something may have been missed."""
        self._waiting = []
        self._must_resync = True
        self._wake()

    async def next(self, seconds: float) -> list[NewsT] | None:
        """What arrived, waiting up to `seconds` for something (then []); None: read again what is stored."""
        if not (self._waiting or self._must_resync):
            await self._news(seconds)
        if self._must_resync:
            self._must_resync = False
            return None
        arrived, self._waiting = self._waiting, []
        return arrived

    async def _news(self, seconds: float) -> None:
        """`asyncio.wait_for` would start a task for each wait."""
        loop = asyncio.get_running_loop()
        self._reader = loop.create_future()
        timer = loop.call_later(seconds, self._wake)
        try:
            await self._reader
        finally:
            timer.cancel()
            self._reader = None

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class Live:
    """Hands every live batch to the tails of its jobs, its conversations and their users."""

    def __init__(self, broker: Broker) -> None:
        self._tails: dict[UUID, set[Tail[UUID, LiveEvents]]] = {}
        self._user_tails: dict[str, set[Tail[str, Touched]]] = {}
        self._listener = Listener(broker, LIVE, self._take, self._resync_all)

    def start(self) -> None:
        self._listener.start()

    async def stop(self) -> None:
        await self._listener.stop()

    @property
    def is_up(self) -> bool:
        return self._listener.is_up

    def tail(self, subject_id: UUID) -> Tail[UUID, LiveEvents]:
        """Of a job; or of a conversation, where nothing arrives but the word to read again."""
        return Tail(self._tails, subject_id)

    def tail_of_user(self, user_id: str) -> Tail[str, Touched]:
        return Tail(self._user_tails, user_id)

    def resync(self, subject_id: UUID) -> None:
        """Let those who follow the job or conversation read again: it changed in a way that no live event tells."""
        for tail in self._tails.get(subject_id, ()):
            tail.resync()

    def _take(self, body: bytes) -> None:
        try:
            batch = _live_batch(body)
        except RefusedMessageError as error:
            refuse(LIVE, error, len(body))
            return
        for events in batch.jobs:
            for tail in self._tails.get(events.job_id, ()):
                tail.push(events)
        for conversation in batch.conversations:
            self.resync(conversation.conversation_id)
            for user_tail in self._user_tails.get(conversation.user_id, ()):
                user_tail.push(conversation)

    def _resync_all(self) -> None:
        for tails in self._tails.values():
            for tail in tails:
                tail.resync()
        for user_tails in self._user_tails.values():
            for user_tail in user_tails:
                user_tail.resync()


def _live_batch(body: bytes) -> LiveBatch:
    batch = decode(body)
    if not isinstance(batch, LiveBatch):
        raise RefusedMessageError(Refusal.MISPLACED, f"{type(batch).__name__} is not for gateways")
    return batch
