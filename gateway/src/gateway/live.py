"""What is stored right now: one bounded queue per gateway process on `chat.live`, shared out in memory by job."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from shared.contracts import LiveBatch, LiveEvents, decode
from shared.errors import InvalidInputError
from shared.messaging import LIVE, Broker, Listener
from shared.observability import get_logger

log = get_logger()

_WAITING_MAX = 512  # batches; a reader that far behind reads the journal instead


class Tail:
    """The live end of one job for one reader. Never blocks the fan-out: what does not fit is dropped and told."""

    def __init__(self) -> None:
        self._waiting: deque[LiveEvents] = deque()
        self._news = asyncio.Event()
        self._must_resync = False

    def push(self, events: LiveEvents) -> None:
        if len(self._waiting) >= _WAITING_MAX:
            self.resync()
            return
        self._waiting.append(events)
        self._news.set()

    def resync(self) -> None:
        """Something may have been missed."""
        self._waiting.clear()
        self._must_resync = True
        self._news.set()

    async def next(self, seconds: float) -> list[LiveEvents] | None:
        """What arrived, waiting up to `seconds` for something (then []); None: read the journal again."""
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
    """Hands every live batch to the tails of its jobs."""

    def __init__(self, broker: Broker) -> None:
        self._tails: dict[UUID, set[Tail]] = {}
        self._listener = Listener(broker, LIVE, self._take, self._resync_all)

    def start(self) -> None:
        self._listener.start()

    async def stop(self) -> None:
        await self._listener.stop()

    @property
    def is_up(self) -> bool:
        return self._listener.is_up

    @contextmanager
    def tail(self, job_id: UUID) -> Iterator[Tail]:
        tail = Tail()
        tails = self._tails.setdefault(job_id, set())
        tails.add(tail)
        try:
            yield tail
        finally:
            tails.discard(tail)
            if not tails:
                self._tails.pop(job_id, None)

    def resync(self, job_id: UUID) -> None:
        """Let those who follow the job read its journal again: it changed in a way that no event tells."""
        for tail in self._tails.get(job_id, ()):
            tail.resync()

    def _take(self, body: bytes) -> None:
        try:
            batch = decode(body)
        except InvalidInputError:
            log.warning("live_batch_unreadable", bytes=len(body))
            return
        if isinstance(batch, LiveBatch):
            for events in batch.jobs:
                for tail in self._tails.get(events.job_id, ()):
                    tail.push(events)

    def _resync_all(self) -> None:
        for tails in self._tails.values():
            for tail in tails:
                tail.resync()
