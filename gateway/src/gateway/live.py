"""What is stored right now: one bounded queue per gateway process on `chat.live`, shared out in memory.

By job, with the events themselves; by conversation, whose followers then read what happened; and by user.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar
from uuid import UUID

from shared.contracts import LiveBatch, LiveEvents, Refusal, RefusedMessageError, Touched, decode
from shared.messaging import LIVE, Broker, Listener, refuse

_WAITING_MAX = 512  # batches; a reader that far behind reads the journal instead


NewsT = TypeVar("NewsT", LiveEvents, Touched)
KeyT = TypeVar("KeyT", UUID, str)


class Tail(Generic[NewsT]):
    """The live end of one subject for one reader. Never blocks the fan-out: what does not fit is dropped and told."""

    def __init__(self) -> None:
        self._waiting: deque[NewsT] = deque()
        self._news = asyncio.Event()
        self._must_resync = False

    def push(self, news: NewsT) -> None:
        if len(self._waiting) >= _WAITING_MAX:
            self.resync()
            return
        self._waiting.append(news)
        self._news.set()

    def resync(self) -> None:
        """Something may have been missed."""
        self._waiting.clear()
        self._must_resync = True
        self._news.set()

    async def next(self, seconds: float) -> list[NewsT] | None:
        """What arrived, waiting up to `seconds` for something (then []); None: read again what is stored."""
        if not self._news.is_set():
            try:
                await asyncio.wait_for(self._news.wait(), seconds)
            except TimeoutError:
                return []
        self._news.clear()
        if self._must_resync:
            self._must_resync = False
            return None
        arrived = list(self._waiting)
        self._waiting.clear()
        return arrived


class Live:
    """Hands every live batch to the tails of its jobs, its conversations and their users."""

    def __init__(self, broker: Broker) -> None:
        self._tails: dict[UUID, set[Tail[LiveEvents]]] = {}
        self._user_tails: dict[str, set[Tail[Touched]]] = {}
        self._listener = Listener(broker, LIVE, self._take, self._resync_all)

    def start(self) -> None:
        self._listener.start()

    async def stop(self) -> None:
        await self._listener.stop()

    @property
    def is_up(self) -> bool:
        return self._listener.is_up

    @contextmanager
    def tail(self, subject_id: UUID) -> Iterator[Tail[LiveEvents]]:
        """Of a job; or of a conversation, where nothing arrives but the word to read again."""
        with _entered(self._tails, subject_id, Tail[LiveEvents]()) as tail:
            yield tail

    @contextmanager
    def tail_of_user(self, user_id: str) -> Iterator[Tail[Touched]]:
        with _entered(self._user_tails, user_id, Tail[Touched]()) as tail:
            yield tail

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


@contextmanager
def _entered(all_tails: dict[KeyT, set[Tail[NewsT]]], key: KeyT, tail: Tail[NewsT]) -> Iterator[Tail[NewsT]]:
    tails = all_tails.setdefault(key, set())
    tails.add(tail)
    try:
        yield tail
    finally:
        tails.discard(tail)
        if not tails:
            all_tails.pop(key, None)
