"""Chat completions: a stateless pass to the model endpoint, whole or as a stream. Nothing is stored but the usage."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.auth import User
from gateway.denials import Denials
from gateway.limits import Slot, Slots
from gateway.model_endpoint import Answer, ModelEndpoint, Usage, cut_stream, late_answer, new_completion_id
from gateway.problems import openai_error, problem_of
from gateway.settings import GatewaySettings
from gateway.until import Ending, Gone, Signal, Until, disconnected
from gateway.usage import quota_spent
from shared.db import Database
from shared.errors import DatabaseUnavailableError, ParleyError, UnavailableError
from shared.events import JsonObject
from shared.model_calls import ModelCall
from shared.observability import get_logger

log = get_logger()

T = TypeVar("T")

USE = "completion"
_BYTES_PER_TOKEN = 4  # where the endpoint does not say what was used

_HEARTBEAT = b": ping\n\n"
_DONE = b"data: [DONE]\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What to ask the endpoint for: `body`, complete but for the model and how to answer. `agent` is who answers."""

    user_id: str
    agent: str
    body: JsonObject
    wants_usage: bool  # in a stream; what is whole always says it


class Completions:
    """Everything that happens to a completion. One per process: it holds the connections; `close` it at the end."""

    def __init__(self, database: Database, settings: GatewaySettings, stopping: Signal, denials: Denials) -> None:
        self._database = database
        self._denials = denials
        self._settings = settings
        self._stopping = stopping
        self._endpoint = ModelEndpoint(settings)
        self._slots = Slots(
            "completions", per_user_max=settings.completions_per_user_max, all_max=settings.completions_max
        )
        self._notes: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        await self._endpoint.close()
        await asyncio.gather(*self._notes)

    def slot(self, user_id: str) -> Slot:
        """Room for one completion of the user's. Raises LimitExceededError."""
        return self._slots.take(user_id)

    async def check_quota(self, user_id: str) -> None:
        """Raises LimitExceededError (`daily_token_quota_exceeded`) where the user has spent today's tokens."""
        quota = self._settings.tokens_per_day_max
        if quota is None:
            return
        async with self._database.transaction(user_id) as connection:
            spent = await connection.fetchval(
                """
                select input_tokens + output_tokens from usage_by_day
                where user_id = $1 and day = (clock_timestamp() at time zone 'utc')::date
                """,
                user_id,
            )
        if spent is not None and spent >= quota:
            raise await quota_spent(self._database)

    async def whole(self, completion: Completion, receive: Receive) -> bytes:
        """The completion as one JSON object.

        Raises as `ModelEndpoint`; ClientDisconnect when the client goes away, which `receive` tells: then the endpoint
        is not listened to any longer.
        """
        spent = _Spent(completion)
        try:
            answer = await _unless_gone(self._whole(completion), receive)
        except ClientDisconnect:
            self._note(spent)
            raise
        spent.take(answer)
        await asyncio.shield(self._note(spent))
        return answer.rendered("chat.completion", completion.agent, new_completion_id(), with_usage=True)

    async def stream(self, user: User, completion: Completion, receive: Receive, slot: Slot) -> "CompletionStream":
        """The completion as a stream, until `user` is shut out; `slot` is given back at its end.

        Begins when the endpoint does, or where that takes long, with a heartbeat. Raises as `whole` for what fails
        before; what fails later is told within the stream.
        """
        body = {**completion.body, "stream": True, "stream_options": {"include_usage": True}}
        call = ModelCall(USE, self._settings.model)
        asking = asyncio.create_task(self._endpoint.ask(body, self._settings.completion_silence_seconds_max))
        try:
            await _unless_gone(asyncio.wait({asking}, timeout=self._settings.heartbeat_seconds), receive)
            if asking.done():
                asking.result()
        except BaseException as error:
            call.end(asyncio.CancelledError() if isinstance(error, ClientDisconnect) else error)
            await _give_up(asking)
            raise
        frames = self._frames(asking, completion, call)
        return CompletionStream(frames, asking, self._denials.of(user), slot, self._settings.send_timeout_seconds)

    async def _whole(self, completion: Completion) -> Answer:
        with ModelCall(USE, self._settings.model) as call:
            try:
                async with asyncio.timeout(self._settings.completion_seconds_max):
                    answer = await self._ask_whole(completion)
            except TimeoutError as error:
                raise late_answer() from error
            _report(answer.usage, call)
            return answer

    async def _ask_whole(self, completion: Completion) -> Answer:
        response = await self._endpoint.ask(completion.body, self._settings.completion_seconds_max)
        try:
            return await self._endpoint.whole(response)
        finally:
            await response.aclose()

    async def _frames(
        self, asking: asyncio.Task[httpx2.Response], completion: Completion, call: ModelCall
    ) -> AsyncGenerator[bytes, None]:
        """What the client gets to read: frames of the stream, some at a time, and heartbeats between them."""
        spent = _Spent(completion)
        completion_id = new_completion_id()
        is_finished = is_noted = False
        try:
            async with aclosing(self._paced(self._chunks(asking, call))) as batches:
                async for answers in batches:
                    frames = []
                    for answer in answers:
                        spent.take(answer)
                        is_finished = is_finished or answer.is_finished
                        if completion.wants_usage or answer.has_choices or answer.usage is None:
                            rendered = answer.rendered(
                                "chat.completion.chunk",
                                completion.agent,
                                completion_id,
                                with_usage=completion.wants_usage,
                            )
                            frames.append(b"data: " + rendered + b"\n\n")
                    if frames or not answers:
                        yield b"".join(frames) or _HEARTBEAT
            if not is_finished:
                raise cut_stream()
            is_noted = True
            await asyncio.shield(self._note(spent))
            yield _DONE
        except ParleyError as error:
            # A whole answer stays whole, whatever happens to what is said behind it.
            yield _DONE if is_finished else _error_frame(error)
        finally:
            if not (is_noted or _has_failed(asking)):
                self._note(spent)

    async def _chunks(
        self, asking: asyncio.Task[httpx2.Response], call: ModelCall
    ) -> AsyncGenerator[Sequence[Answer], None]:
        with call:
            usage: Usage | None = None
            try:
                async with aclosing(self._endpoint.chunks(await asking)) as batches:
                    async for batch in batches:
                        if call.is_silent and any(answer.has_choices for answer in batch):
                            call.break_silence()
                        usage = next((answer.usage for answer in reversed(batch) if answer.usage), usage)
                        yield batch
            finally:
                _report(usage, call)

    async def _paced(self, batches: AsyncGenerator[Sequence[Answer], None]) -> AsyncGenerator[Sequence[Answer], None]:
        """The same batches; an empty one after each silence of a heartbeat's length.

        Raises UnavailableError where they take too long, or this process stops.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._settings.completion_seconds_max
        stopping = asyncio.create_task(self._stopping.wait())
        pending = asyncio.create_task(_next(batches))
        try:
            while True:
                if stopping.done():
                    # Whoever is nearly done can finish; this stream cannot be resumed elsewhere.
                    deadline = min(deadline, clock() + self._settings.shutdown_seconds / 2)
                pause = min(self._settings.heartbeat_seconds, deadline - clock())
                waiting: set[asyncio.Task[Any]] = {pending} if stopping.done() else {pending, stopping}
                await asyncio.wait(waiting, timeout=max(0.0, pause), return_when=asyncio.FIRST_COMPLETED)
                if pending.done():
                    batch = pending.result()
                    if batch is None:
                        return
                    yield batch
                    pending = asyncio.create_task(_next(batches))
                elif clock() >= deadline:
                    raise _stopped() if stopping.done() else late_answer()
                elif not stopping.done():
                    yield ()
        finally:
            ends = (pending, stopping)
            for task in ends:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
            await batches.aclose()

    def _note(self, spent: "_Spent") -> asyncio.Task[None]:
        """Add to what the user used today, whether or not anybody waits for it."""
        task = asyncio.create_task(self._write_usage(spent.user_id, spent.usage))
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)
        return task

    async def _write_usage(self, user_id: str, usage: Usage) -> None:
        try:
            async with self._database.connection() as connection:
                await connection.execute(
                    "select note_usage($1, $2, $3)", user_id, usage.input_tokens, usage.output_tokens
                )
        except DatabaseUnavailableError:
            # The user has the answer; that is worth more than its count.
            log.warning("usage_lost", input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)


def _report(usage: Usage | None, call: ModelCall) -> None:
    if usage is not None:
        call.used(usage.input_tokens, usage.output_tokens)


class _Spent:
    """What a completion used: what the endpoint says, or an estimate where it does not get to say it."""

    def __init__(self, completion: Completion) -> None:
        self.user_id = completion.user_id
        self._asked = completion.body["messages"]
        self._chunk_count = 0
        self._reported: Usage | None = None

    def take(self, answer: Answer) -> None:
        self._chunk_count += answer.has_choices  # about one token each
        self._reported = answer.usage or self._reported

    @property
    def usage(self) -> Usage:
        if self._reported is not None:
            return self._reported
        return Usage(_text_bytes(self._asked) // _BYTES_PER_TOKEN, self._chunk_count)


class CompletionStream(Response):
    """Server-sent chunks of one completion; they end with `[DONE]`, or with an error.

    When the client goes away, or takes nothing for too long, the endpoint is not listened to any longer.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        asking: asyncio.Task[httpx2.Response],
        shut_out: Ending,
        slot: Slot,
        send_timeout_seconds: float,
    ) -> None:
        """What `asking` gives, which `frames` are read from, is closed at the end, and `slot` given back."""
        super().__init__()
        self._frames = frames
        self._asking = asking
        self._shut_out = shut_out
        self._slot = slot
        self._send_timeout_seconds = send_timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._slot:
            try:
                async with Until(Gone(scope, receive), self._shut_out):
                    await self._pump(send)
            except TimeoutError:
                log.info("stream_closed", cause="slow reader")
            finally:
                await _give_up(self._asking)

    async def _pump(self, send: Send) -> None:
        async with aclosing(self._frames) as frames:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            async for body in frames:
                await self._send_in_time(send, body, more=True)
        await self._send_in_time(send, b"", more=False)

    async def _send_in_time(self, send: Send, body: bytes, *, more: bool) -> None:
        async with asyncio.timeout(self._send_timeout_seconds):
            await send({"type": "http.response.body", "body": body, "more_body": more})


async def _unless_gone(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """What `work` gives. Raises ClientDisconnect, and ends the work, when the client goes away first."""
    working = asyncio.create_task(work)
    gone = asyncio.create_task(disconnected(receive))
    ends: tuple[asyncio.Task[Any], ...] = (working, gone)
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in ends:
            task.cancel()
        await asyncio.gather(*ends, return_exceptions=True)


async def _give_up(asking: asyncio.Task[httpx2.Response]) -> None:
    """Listen no longer to what was asked, whether or not it is being answered."""
    asking.cancel()
    [outcome] = await asyncio.gather(asking, return_exceptions=True)
    if isinstance(outcome, httpx2.Response):
        await outcome.aclose()


def _has_failed(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


async def _next(batches: AsyncGenerator[Sequence[Answer], None]) -> Sequence[Answer] | None:
    return await anext(batches, None)


def _stopped() -> UnavailableError:
    return UnavailableError("gateway_stopping", "The service is being restarted; please ask again.")


def _error_frame(error: ParleyError) -> bytes:
    return b"data: " + msgspec.json.encode(openai_error(problem_of(error))) + b"\n\n"


def _text_bytes(value: object) -> int:
    """Of the texts in messages; images and files are not counted."""
    match value:
        case str():
            return 0 if value.startswith("data:") else len(value.encode())
        case dict():
            return sum(map(_text_bytes, value.values()))
        case list():
            return sum(map(_text_bytes, value))
        case _:
            return 0
