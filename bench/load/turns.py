"""Turns as clients of several kinds live them, and the two ways to make many: a closed and an open loop."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import cast

from bench.load.dialects import Conversation, Dialect, Heard, Resumable
from bench.load.http import Connection, Frames, HttpError, Request
from bench.load.outcomes import Log, Outcome, Way
from bench.words import Wanted, judged

_OK = range(200, 300)
_POLL_SECONDS = 0.25
_AGAIN_SECONDS = 0.05
_TROUBLE_CHARS_MAX = 300


@dataclass(frozen=True, slots=True)
class Mix:
    """Which share of turns is followed how; the rest is streamed in one go."""

    resume: float = 0.0
    poll: float = 0.0
    cancel: float = 0.0

    def ways(self, seed: int) -> "itertools.cycle[Way]":
        """As many of each as the shares say, in an order that `seed` decides."""
        counts = {Way.RESUME: self.resume, Way.POLL: self.poll, Way.CANCEL: self.cancel}
        ways = [way for way, share in counts.items() for _ in range(round(share * 100))]
        ways += [Way.STREAM] * (100 - len(ways))
        random.Random(seed).shuffle(ways)  # noqa: S311 - no secret
        return itertools.cycle(ways)


@dataclass(slots=True)
class Load:
    """Against the system at `url`. `token_of` makes a user's token, where the system wants one."""

    url: str
    dialect: Dialect
    wanted: Wanted
    token_of: Callable[[str], str] = lambda _user_id: ""
    turn_seconds_max: float = 120.0
    turns_per_conversation: int = 10
    mix: Mix = field(default_factory=Mix)
    seed: int = 1
    log: Log = field(default_factory=Log)
    _keys: "itertools.count[int]" = field(default_factory=itertools.count)
    _users: "itertools.count[int]" = field(default_factory=itertools.count)

    # --- The loops

    async def closed(self, clients: int, seconds: float, *, warm_up_seconds: float = 0.0) -> Log:
        """So many clients, each posting its next turn when the last one has ended. The warm-up is not in the log."""
        async with self._connections(clients) as connections:
            ways = self.mix.ways(self.seed)

            async def client(connection: Connection, until: float) -> None:
                conversation: Conversation | None = None
                while _now() < until:
                    if conversation is None or conversation.turn_count >= self.turns_per_conversation:
                        conversation = await self.open(connection)
                    await self.turn(connection, conversation, next(ways), _now())

            if warm_up_seconds:
                kept, self.log = self.log, Log()
                await asyncio.gather(*(client(connection, _now() + warm_up_seconds) for connection in connections))
                self.log = kept
            async with self._measured():
                until = _now() + seconds
                await asyncio.gather(*(client(connection, until) for connection in connections))
        return self.log

    async def counted(self, turns: int, *, conversation: Conversation | None = None) -> Log:
        """So many turns, one after another, on one connection."""
        async with self._connections(1) as [connection]:
            conversation = conversation or await self.open(connection)
            ways = self.mix.ways(self.seed)
            async with self._measured():
                for _ in range(turns):
                    if conversation.turn_count >= self.turns_per_conversation:
                        conversation = await self.open(connection)
                    await self.turn(connection, conversation, next(ways), _now())
        return self.log

    async def open_loop(self, rate: float, seconds: float, *, warm_up_seconds: float = 0.0) -> Log:
        """`rate` turns a second, begun when they are due whether or not others have ended: a turn that has to wait for
        its beginning has waited. Turns that were due in the warm-up run, and are not in the log.
        """
        free: list[tuple[Connection, Conversation]] = []
        made: list[Connection] = []
        ways = self.mix.ways(self.seed)
        measured, warm_up = self.log, Log()

        async def one(due: float, log: Log, way: Way) -> None:
            if free:
                connection, conversation = free.pop()
            else:
                connection = Connection(self.url)
                made.append(connection)
                conversation = await self.open(connection)
            if conversation.turn_count >= self.turns_per_conversation:
                conversation = await self.open(connection)
            await self.turn(connection, conversation, way, due, log)
            free.append((connection, conversation))

        try:
            began = _now()
            tasks: set[asyncio.Task[None]] = set()
            cpu = time.process_time()
            for number in range(round(rate * (warm_up_seconds + seconds))):
                due = began + number / rate
                await asyncio.sleep(max(0.0, due - _now()))
                is_measured = due >= began + warm_up_seconds
                if is_measured and not measured.began_at:
                    measured.began_at, cpu = due, time.process_time()
                tasks.add(asyncio.create_task(one(due, measured if is_measured else warm_up, next(ways))))
            await asyncio.gather(*tasks)
            measured.cpu_seconds = time.process_time() - cpu
            measured.ended_at = _now()
        finally:
            for connection in made:
                connection.close()
        return measured

    # --- One turn

    async def open(self, connection: Connection) -> Conversation:
        """A new conversation of a new user."""
        user_id = f"bench-{self.seed}-{next(self._users)}"
        conversation = Conversation(user_id, self.token_of(user_id))
        request = self.dialect.begin(conversation)
        if request is not None:
            self.dialect.begun(conversation, await _whole(connection, request))
        return conversation

    async def turn(
        self, connection: Connection, conversation: Conversation, way: Way, intended_at: float, log: Log | None = None
    ) -> Outcome:
        """One turn, checked; what goes wrong is in its outcome, which is in the log."""
        log = log or self.log
        wanted = replace(self.wanted, key=f"{self.seed}-{next(self._keys)}")
        outcome = Outcome(way, intended_at)
        turn = _Turn(self.dialect, connection, conversation, wanted, outcome, log)
        conversation.turn_count += 1
        try:
            async with asyncio.timeout(self.turn_seconds_max):
                await turn.run()
        except (HttpError, TimeoutError, ValueError, KeyError, AssertionError) as error:
            outcome.trouble = f"{type(error).__name__}: {error}"[:_TROUBLE_CHARS_MAX]
            connection.close()
        log.outcomes.append(outcome)
        return outcome

    @asynccontextmanager
    async def _connections(self, count: int) -> AsyncIterator[list[Connection]]:
        connections = [Connection(self.url) for _ in range(count)]
        try:
            yield connections
        finally:
            for connection in connections:
                connection.close()

    @asynccontextmanager
    async def _measured(self) -> AsyncIterator[None]:
        cpu, self.log.began_at = time.process_time(), _now()
        try:
            yield
        finally:
            self.log.ended_at = _now()
            self.log.cpu_seconds = time.process_time() - cpu


@dataclass(slots=True)
class _Turn:
    dialect: Dialect
    connection: Connection
    conversation: Conversation
    wanted: Wanted
    outcome: Outcome
    log: Log
    heard: Heard = field(default_factory=Heard)
    _last_at: float = 0.0
    _frames: Frames = field(default_factory=Frames)
    _refusal: bytes = b""
    _stop_after: int | None = None  # pieces
    _stopped: "asyncio.Event" = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        match self.outcome.way:
            case Way.STREAM:
                await self._stream(self._post())
            case Way.RESUME:
                await self._resume()
            case Way.POLL:
                await self._poll()
            case Way.CANCEL:
                await self._cancel()
            case Way.PERSIST:
                await self._persist()

    @property
    def _resumable(self) -> Resumable:
        assert hasattr(self.dialect, "resume"), f"{self.dialect.name} cannot resume"
        return cast(Resumable, self.dialect)

    def _post(self) -> Request:
        return self.dialect.post(self.conversation, self.wanted.directive)

    async def _stream(self, request: Request) -> None:
        status = await self.connection.send(request, self._take)
        if status not in _OK:
            raise HttpError(f"{status}: {self._refusal[:200].decode(errors='replace')}")
        self._end()

    async def _resume(self) -> None:
        """Break the connection in the middle, then ask for the rest on a new one."""
        self._stop_after = max(1, self.wanted.tokens // 2)
        streaming = asyncio.create_task(self.connection.send(self._post(), self._take))
        stopped = asyncio.create_task(self._stopped.wait())
        await asyncio.wait({streaming, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if streaming.done():
            await streaming
        else:
            streaming.cancel()
            await asyncio.gather(streaming, return_exceptions=True)
        self._stop_after, self._frames = None, Frames()
        if self.heard.is_ended:
            self._end()
        else:
            await self._stream(self._resumable.resume(self.conversation, self.heard))

    async def _poll(self) -> None:
        dialect = self._resumable
        request = dialect.post_apart(self.conversation, self.wanted.directive, self.wanted.key)
        dialect.posted(self.conversation, self.heard, await _whole(self.connection, request))
        while True:
            body = await _whole(self.connection, dialect.poll(self.conversation, self.heard))
            state, text = dialect.polled(body)
            if state != "running":
                break
            await asyncio.sleep(_POLL_SECONDS)
        if state != "completed":
            raise HttpError(f"ended as {state}")
        self.outcome.ended_at = _now()
        self.outcome.verdict = judged(self.wanted, text)

    async def _persist(self) -> None:
        """Post until it is accepted; then follow, and again after every loss."""
        dialect = self._resumable
        post = dialect.post_apart(self.conversation, self.wanted.directive, self.wanted.key)
        while not self.heard.is_ended:
            self._frames = Frames()
            try:
                if not self.heard.response_id:
                    dialect.posted(self.conversation, self.heard, await _whole(self.connection, post))
                await self.connection.send(dialect.resume(self.conversation, self.heard), self._take)
            except HttpError:
                self.connection.close()
            if not self.heard.is_ended:
                await asyncio.sleep(_AGAIN_SECONDS)
        self._end()

    async def _cancel(self) -> None:
        """Stop it once it speaks; the answer must be a beginning of the right one."""
        dialect = self._resumable
        request = dialect.post_apart(self.conversation, self.wanted.directive, self.wanted.key)
        dialect.posted(self.conversation, self.heard, await _whole(self.connection, request))
        await asyncio.sleep(self.wanted.seconds / 2)
        body = await _whole(self.connection, dialect.cancel(self.conversation, self.heard))
        state, text = dialect.polled(body)
        if state not in {"cancelled", "completed"}:
            raise HttpError(f"cancelled, and it is {state}")
        self.outcome.ended_at = _now()
        self.outcome.verdict = judged(replace(self.wanted, tokens=len(text.split())), text)

    def _take(self, status: int, piece: bytes) -> None:
        self.log.bytes_received += len(piece)
        if status not in _OK:
            self._refusal += piece
            return
        if self._stopped.is_set() and self._stop_after is not None:
            return
        now, before = _now(), len(self.heard.pieces)
        for frame in self._frames.feed(piece):
            self.dialect.hear(frame, self.conversation, self.heard)
            if self._stop_after is not None and len(self.heard.pieces) >= self._stop_after:
                self._stopped.set()
                break
        if self.heard.is_ended and self.outcome.ended_at is None:
            self.outcome.ended_at = now
        count = len(self.heard.pieces) - before
        if count <= 0:
            return
        if self.outcome.first_at is None:
            self.outcome.first_at = self._last_at = now
            count -= 1
        if count:
            self.log.gaps.append(now - self._last_at)
            self.log.gaps.extend([0.0] * (count - 1))
            self._last_at = now

    def _end(self) -> None:
        if self.heard.trouble:
            raise HttpError(self.heard.trouble)
        if not self.heard.is_ended:
            raise HttpError("the stream ended without an end")
        self.outcome.verdict = judged(self.wanted, self.heard.text)


async def _whole(connection: Connection, request: Request) -> bytes:
    """The body of a small answer. Raises HttpError unless its status is 2xx."""
    pieces: list[bytes] = []
    status = await connection.send(request, lambda _status, piece: pieces.append(piece))
    body = b"".join(pieces)
    if status not in _OK:
        raise HttpError(f"{status}: {body[:200].decode(errors='replace')}")
    return body


def _now() -> float:
    """The clock of all outcomes; uvloop's own knows whole milliseconds only."""
    return time.perf_counter()
