"""The HTTP side: routes, the chat-completions endpoint as plain ASGI, pace and faults of its streams.

The endpoint is used under load, with the standing cost of one delta in mind: a delta is one concatenation of bytes, and
those that are due at the same time leave in one write.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from demo_model import answering
from demo_model.completions import Framing, Reply, limited
from demo_model.knobs import FaultCounter, Knobs, Record, Recorder, read_knobs, split_directives
from demo_model.settings import Settings
from demo_model.wire import ChatRequest, Message, RequestError, read_request

MODEL = "demo"
BODY_BYTES_MAX = 32 * 1024 * 1024
FRAMES_PER_WRITE_MAX = 64
SLEEP_SECONDS_MAX = 0.25  # longer pauses listen for the client's leaving
FAULT_AFTER_DEFAULT = 3

_JSON = b"application/json"
_ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_ERROR_CODES = {401: "invalid_api_key", 404: "not_found", 429: "rate_limit_exceeded"}
_HTML = b"<!doctype html><html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"


def create_app(settings: Settings, clock: Callable[[], date] = lambda: datetime.now(UTC).date()) -> Starlette:
    """The demo model as an ASGI app. `clock` gives the day, where the conversation does not."""
    recorder = Recorder()
    routes = [
        Route("/v1/chat/completions", ChatCompletions(settings, recorder, clock), methods=["POST"]),
        Route("/v1/models", _models),
        Route("/v1/models/{model:path}", _model),
        Route("/health/live", _healthy),
        Route("/health/ready", _healthy),
    ]
    if settings.directives:
        routes.append(Route("/demo/requests", _requests))
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error})
    app.state.recorder = recorder
    return app


class ChatCompletions:
    """POST /v1/chat/completions."""

    def __init__(self, settings: Settings, recorder: Recorder, clock: Callable[[], date]) -> None:
        self._settings = settings
        self._recorder = recorder
        self._clock = clock
        self._faults = FaultCounter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if body is None:
            return
        client = _Client(receive, send)
        try:
            request, knobs = self._understand(body, scope)
            reply = answering.answer(request, knobs, self._clock())
            fault = knobs.fault if self._faults.strikes(knobs) else None
            exchange = _Exchange(client, request, knobs, self._pace(knobs), fault)
            await exchange.run(reply)
        except RequestError as error:
            await client.respond(error.status, _error(error.status, error.message, error.param))
        finally:
            client.close()

    def _understand(self, body: bytes, scope: Scope) -> tuple[ChatRequest, Knobs]:
        """The request without directives, and its knobs; recorded."""
        if len(body) > BODY_BYTES_MAX:
            raise RequestError(f"The request is larger than {BODY_BYTES_MAX} bytes.", status=413)
        request = read_request(body)
        directives: list[str] = []
        if self._settings.directives:
            request, directives = _without_directives(request)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        knobs = read_knobs(request.model, headers, directives)
        if self._settings.directives:
            self._recorder.add(_record(request, knobs))
        return request, knobs

    def _pace(self, knobs: Knobs) -> float:
        """Seconds between two deltas."""
        return (self._settings.delay_ms if knobs.delay_ms is None else knobs.delay_ms) / 1000


class _Client:
    """The other end of one exchange: what is sent to it, and whether it is still there."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._send = send
        # Once the body is read, the next thing that can be received is that the client has left.
        self._left = asyncio.ensure_future(receive())

    @property
    def left(self) -> bool:
        return self._left.done()

    async def wait(self, seconds: float | None) -> None:
        """Let time pass, or (None) wait until the client leaves."""
        if seconds is not None and seconds <= SLEEP_SECONDS_MAX:
            await asyncio.sleep(max(seconds, 0))
        else:
            await asyncio.wait({self._left}, timeout=seconds)

    async def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def respond(self, status: int, body: bytes, kind: bytes = _JSON, retry_after: int | None = None) -> None:
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        if retry_after is not None:
            headers.append((b"retry-after", str(retry_after).encode()))
        await self.begin(status, headers)
        await self.write(body, more=False)

    def close(self) -> None:
        self._left.cancel()


class _Exchange:
    """One answer on its way: whole or streamed, at its pace, with its fault if it has one."""

    def __init__(self, client: _Client, request: ChatRequest, knobs: Knobs, delay: float, fault: str | None) -> None:
        self._client = client
        self._request = request
        self._knobs = knobs
        self._delay = delay
        self._fault = fault
        self._framing = Framing(request)
        self._sent = 0  # deltas

    async def run(self, reply: Reply) -> None:
        """Send the reply. Returns without an end of the response where the fault is a broken connection."""
        if self._fault and await self._failed_before_a_word():
            return
        if self._fault:
            reply = answering.spoiled(reply, self._fault, self._request)
        reply = limited(reply, self._request.max_completion_tokens or self._request.max_tokens)
        if self._request.stream:
            await self._stream(reply)
        else:
            await self._whole(reply)

    async def _failed_before_a_word(self) -> bool:
        """Carry out the faults that take the place of the answer."""
        knobs = self._knobs
        if knobs.status and (not knobs.fault_after or not self._request.stream):
            await self._client.wait(knobs.first_delay_ms / 1000)
            await self._client.respond(knobs.status, self._status_error(), retry_after=knobs.retry_after)
        elif self._fault == "html":
            await self._client.respond(200, _HTML, b"text/html")
        elif self._fault == "hang" and (not knobs.fault_after or not self._request.stream):
            await self._client.wait(None)
        else:
            return False
        return True

    # The answer in one piece

    async def _whole(self, reply: Reply) -> None:
        if self._fault == "endless" and reply.finish != "length":
            await self._client.wait(None)
            return
        finish: str | None = reply.finish
        if self._fault == "content_filter":
            reply, finish = limited(reply, self._fault_after(FAULT_AFTER_DEFAULT)), "content_filter"
        if self._fault == "no_finish":
            finish = None
        body = self._framing.whole(reply, finish)
        tokens = len(list(reply.pieces)) + sum(len(call.pieces) for call in reply.calls)
        await self._client.wait(self._knobs.first_delay_ms / 1000 + tokens * self._delay)
        match self._fault:
            case "cut":
                await self._client.begin(200, [(b"content-type", _JSON), (b"content-length", str(len(body)).encode())])
                await self._client.write(body[: len(body) // 2])
            case "garbage":
                await self._client.respond(200, body[: len(body) // 2])
            case _:
                await self._client.respond(200, body)

    # The answer in deltas

    async def _stream(self, reply: Reply) -> None:
        await self._client.begin(
            200, [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        )
        if not await self._play(self._frames(reply)):
            return
        if self._fault:
            await self._end_with_fault(reply)
        else:
            await self._client.write(self._framing.last(reply.finish, self._sent), more=False)

    def _frames(self, reply: Reply) -> Iterator[bytes]:
        """The frames up to the end of the text, or up to the fault."""
        stop_after = self._stop_after()
        first = self._framing.first(reply)
        for frame in self._framing.deltas(reply):
            if stop_after is not None and self._sent >= stop_after:
                break
            self._sent += 1
            yield first + frame
            first = b""
        if first:
            yield first

    def _stop_after(self) -> int | None:
        if self._fault in {"cut", "garbage", "content_filter"}:
            return self._fault_after(FAULT_AFTER_DEFAULT)
        if self._fault == "hang" or (self._fault and self._knobs.status):
            return self._fault_after(0)
        return None

    def _fault_after(self, default: int) -> int:
        return default if self._knobs.fault_after is None else self._knobs.fault_after

    async def _play(self, frames: Iterator[bytes]) -> bool:
        """Write the frames at their pace, those that are late together. False if the client left meanwhile."""
        now = asyncio.get_running_loop().time
        due = now() + self._knobs.first_delay_ms / 1000
        waiting: list[bytes] = []
        for frame in frames:
            ahead = due - now()
            if ahead > 0 or len(waiting) >= FRAMES_PER_WRITE_MAX:
                if waiting:
                    await self._client.write(b"".join(waiting))
                    waiting.clear()
                await self._client.wait(ahead)  # lets others run even when there is nothing to wait for
                if self._client.left:
                    return False
            waiting.append(frame)
            due += self._delay
        await self._client.write(b"".join(waiting))
        return not self._client.left

    async def _end_with_fault(self, reply: Reply) -> None:
        match self._fault:
            case "cut":
                return  # the server closes a connection whose response has no end
            case "hang":
                await self._client.wait(None)
            case "garbage":
                await self._client.write(b'data: {"id": "chatcmpl-\xff\xfe garbage\n\n', more=False)
            case "no_finish":
                await self._client.write(b"", more=False)
            case "content_filter":
                await self._client.write(self._framing.last("content_filter", self._sent), more=False)
            case _ if self._knobs.status:
                await self._client.write(b"data: " + self._status_error() + b"\n\n", more=False)
            case _:
                await self._client.write(self._framing.last(reply.finish, self._sent), more=False)

    def _status_error(self) -> bytes:
        status = self._knobs.status or 500
        return _error(status, f"The demo model was asked to fail with status {status}.", None)


# The other routes


async def _models(_request: Request) -> Response:
    return _json({"object": "list", "data": [_model_object(MODEL)]})


async def _model(request: Request) -> Response:
    """Any name is served, as any name may be asked for in completions."""
    return _json(_model_object(request.path_params["model"]))


async def _healthy(_request: Request) -> Response:
    return _json({"status": "ok"})


async def _requests(request: Request) -> Response:
    """How often, and with how many messages, the model was asked; with `?key=` only the requests with that key."""
    recorder: Recorder = request.app.state.recorder
    key = request.query_params.get("key")
    records = recorder.of(key)
    return _json(
        {"key": key, "count": len(records), "counts": recorder.counts(), "requests": [asdict(one) for one in records]}
    )


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Response(_error(error.status_code, error.detail, None), error.status_code, media_type="application/json")


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _model_object(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1_767_225_600, "owned_by": "parley"}


def _error(status: int, message: str, param: str | None) -> bytes:
    """OpenAI's error object."""
    kind = _ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")  # noqa: PLR2004 - HTTP
    return msgspec.json.encode(
        {"error": {"message": message, "type": kind, "param": param, "code": _ERROR_CODES.get(status)}}
    )


async def _body(receive: Receive) -> bytes | None:
    """The request's body, cut off soon after the limit; None if the client left before it was complete."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        size += len(message.get("body", b""))
        if size <= BODY_BYTES_MAX or len(parts) == 0:
            parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts) if size <= BODY_BYTES_MAX else bytes(BODY_BYTES_MAX + 1)


def _without_directives(request: ChatRequest) -> tuple[ChatRequest, list[str]]:
    """The request with the directives taken out of all user messages, and those of the last one."""
    messages: list[Message] = []
    directives: list[str] = []
    for message in request.messages:
        if message.role != "user" or "[[" not in message.text:
            directives = [] if message.role == "user" else directives
            messages.append(message)
            continue
        text, directives = split_directives(message.text)
        parts = [{"type": "text", "text": text}, *message.attachments]
        messages.append(msgspec.structs.replace(message, content=parts if message.attachments else text))
    return msgspec.structs.replace(request, messages=messages), directives


def _record(request: ChatRequest, knobs: Knobs) -> Record:
    return Record(
        key=knobs.key,
        model=request.model,
        messages=len(request.messages),
        user_messages=sum(message.role == "user" for message in request.messages),
        last_user_message=answering.last_user_text(request.messages),
        tools=tuple(tool.function.name for tool in request.tools or ()),
        stream=bool(request.stream),
    )
