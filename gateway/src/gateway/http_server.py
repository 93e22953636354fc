"""The HTTP server: uvicorn, with limits on what happens before there is a request, and on who takes no answer.

Nobody is known at that point, so that everybody can send. An application cannot limit any of it.
"""

import asyncio
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from http import HTTPStatus
from types import FrameType
from typing import Any

import uvicorn
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway import metrics
from gateway.headers import API_HEADERS
from gateway.problems import Problem, render
from gateway.settings import GatewaySettings
from gateway.until import GONE_EXTENSION, Signal
from shared.ids import uuid7
from shared.observability import get_logger

log = get_logger()

_REFUSED_CONNECTIONS_MAX = 100  # that are told so at the same time; more are broken without a word
_FRAMING_PER_BODY_BYTE = 16  # the smallest chunk has one byte of six
_UNHEARD = asyncio.Event()  # in place of those of requests of which nobody waits for more

_HEAD_TOO_LARGE = Problem(
    status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    code="head_too_large",
    message="The request's address and headers are too large.",
)
_HEAD_TOO_SLOW = Problem(
    status=HTTPStatus.REQUEST_TIMEOUT, code="head_too_slow", message="The request's headers did not arrive in time."
)
_MALFORMED = Problem(status=HTTPStatus.BAD_REQUEST, code="malformed_request", message="This is no valid HTTP request.")
_TOO_MANY_CONNECTIONS = Problem(
    status=HTTPStatus.SERVICE_UNAVAILABLE,
    code="too_many_connections",
    message="Too many connections are open; please try again a little later.",
    retry_after_seconds=5,
)


def server_of(app: Any, settings: GatewaySettings, stopping: Signal, *, internal_app: Any | None = None) -> "Server":
    """A server of `app`; `stopping` is set as soon as it is told to stop.

    `internal_app` is served with it, where the settings name a port for it.
    """
    config = _config(app, settings, host=settings.host, port=settings.port)
    if settings.metrics_port is None:
        return Server(config, stopping)
    internal = _config(internal_app, settings, host=settings.metrics_host, port=settings.metrics_port, lifespan="off")
    return Server(config, stopping, Companion(internal))


def _config(app: Any, settings: GatewaySettings, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="uvloop",
        ws="none",
        http=_http_protocol(settings),
        # uvicorn would believe a proxy on this machine, and whom a variable of the environment names.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=sorted(settings.trusted_proxies),
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_seconds,
        **more,
    )


def listening_socket(config: uvicorn.Config, send_timeout_seconds: float) -> socket.socket:
    """A bound socket whose connections are broken once their reader has taken nothing for so long.

    uvicorn closes a connection politely, which means: after the reader took the rest, be it never.
    """
    listener = config.bind_socket()
    if sys.platform == "linux":
        milliseconds = max(1, int(send_timeout_seconds * 1000))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)  # connections inherit it
    return listener


class Companion(uvicorn.Server):
    """A server beside another one of the process, which alone hears signals."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


class Server(uvicorn.Server):
    """Tells open streams of a stop as soon as it is asked for; uvicorn waits for them before it says so itself.

    `companion` is there from its start to its end.
    """

    def __init__(self, config: uvicorn.Config, stopping: Signal, companion: Companion | None = None) -> None:
        super().__init__(config)
        self._stopping = stopping
        self.companion = companion
        self._companion_runs: asyncio.Task[None] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.companion is not None:
            self._companion_runs = asyncio.create_task(self.companion.serve())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.companion is not None and self._companion_runs is not None:
            self.companion.should_exit = True
            await self._companion_runs

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        super().handle_exit(sig, frame)


def _http_protocol(settings: GatewaySettings) -> type[asyncio.Protocol]:
    """uvicorn takes a class and makes the protocols itself, so that their limits are the class's."""
    return type("BoundedHttpProtocol", (_BoundedHttpProtocol,), {"limits": settings, "__slots__": ()})


class _Pipeline(list[tuple[RequestResponseCycle, ASGI3Application]]):
    """What uvicorn puts requests into that came too early. Its own, a deque, takes 760 bytes of each connection."""

    __slots__ = ()

    def appendleft(self, waiting: tuple[RequestResponseCycle, ASGI3Application]) -> None:
        self.insert(0, waiting)


class _TooManyWaitingError(Exception):
    """More requests came on a connection than may wait there."""


class _BoundedHttpProtocol(HttpToolsProtocol):
    """A connection whose request heads (the line and the headers) have a greatest length, and a time to arrive in.

    So do bodies that nobody reads any more, and what comes with the chunks of a body: their extensions, its trailers.
    """

    # Beside uvicorn's own, which are in a dictionary that would double with them.
    __slots__ = (
        "_answered",
        "_body_bytes",
        "_framing_bytes",
        "_head_bytes",
        "_heads_count",
        "_is_in_head",
        "_served_app",
        "_tell_gone",
        "_timer",
    )
    limits: GatewaySettings

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.pipeline = _Pipeline()  # type: ignore[assignment]
        self._served_app = self.app
        self.url = b""
        self._is_in_head = True
        self._heads_count = 0
        self._head_bytes = 0  # of a head that is not whole yet
        self._body_bytes = 0  # of a body that is not whole yet: what it says
        self._framing_bytes = 0  # and all that came with it
        self._timer: asyncio.TimerHandle | None = None
        self._answered: RequestResponseCycle | None = None
        self._tell_gone: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        metrics.CONNECTIONS.inc()
        if len(self.connections) > self.limits.connections_max + _REFUSED_CONNECTIONS_MAX:
            metrics.REFUSED.labels(_TOO_MANY_CONNECTIONS.code).inc()
            transport.abort()
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        metrics.CONNECTIONS.dec()
        self._stop_timer()
        if self._answered is not None:
            # uvicorn tells the last request that came, and not the one before it that is being answered.
            self._answered.disconnected = True
            self._answered.message_event.set()
        super().connection_lost(exc)
        tell_gone, self._tell_gone = self._tell_gone, None
        if tell_gone is not None:
            tell_gone()

    def data_received(self, data: bytes) -> None:
        was_in_head, heads_count, body_bytes = self._is_in_head, self._heads_count, self._body_bytes
        super().data_received(data)
        if self.transport.is_closing():
            return
        is_same_request = self._heads_count == heads_count
        if not self._is_in_head:
            if is_same_request:
                self._framing_bytes += len(data) - (self._body_bytes - body_bytes)
            if self._framing_bytes > self.limits.head_bytes_max + _FRAMING_PER_BODY_BYTE * self._body_bytes:
                self._refuse(_HEAD_TOO_LARGE)
            return
        if was_in_head and is_same_request:
            self._head_bytes += len(data)
        if self._head_bytes > self.limits.head_bytes_max:
            self._refuse(_HEAD_TOO_LARGE)
        elif self._is_idle and self._timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._heads_count += 1
        self._head_bytes = self._body_bytes = self._framing_bytes = 0
        self._stop_timer()
        if len(self.pipeline) >= self.limits.pipelined_requests_max:
            raise _TooManyWaitingError  # the parser ends, and with it the connection
        is_one_too_many = len(self.connections) > self.limits.connections_max
        self.app = _refuse_connection if is_one_too_many else self._served_app
        self.scope["extensions"] = {GONE_EXTENSION: {"tell": self._when_gone}}
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._tell_gone is None or self.cycle is not self._answered:
            super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_in_head = True  # of the next request, if one comes
        self._stop_timer()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def _when_gone(self, tell: Callable[[], None]) -> None:
        """For the application, which reads nothing more of the request that it answers: call `tell` when the client has
        gone away. What is left of the body is dropped as it comes.
        """
        assert self._answered is not None
        if self._answered.disconnected:
            tell()
            return
        self._tell_gone = tell
        self._answered.body = bytearray()
        self._answered.message_event = _UNHEARD
        self.flow.resume_reading()  # who does not read does not hear that the client goes away, either

    def on_response_complete(self) -> None:
        self._tell_gone = None
        super().on_response_complete()
        if not self._is_in_head and not self.transport.is_closing():
            # Every byte of a body puts off uvicorn's own timer, also of one that nobody reads any more.
            self._stop_timer()
            self._timer = self.loop.call_later(self.limits.head_seconds_max, self.transport.close)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        self._refuse(_MALFORMED)

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing to say: the request is answered as if it did not ask for another protocol."""

    @property
    def _is_idle(self) -> bool:
        """Whether no answer is under way. (Between two requests uvicorn's own timer runs.)"""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _has_said_nothing(self) -> bool:
        """Whether the client has got no part of an answer that it still waits for, and waits for no other."""
        return not self.pipeline and (self._is_idle or not self.cycle.response_started)

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(self.limits.head_seconds_max, self._refuse, _HEAD_TOO_SLOW)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, problem: Problem) -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        log.info("request_refused", status=int(problem.status), code=problem.code)
        # To whom has sent nothing there is nothing to answer.
        if self._has_said_nothing and (self._heads_count or self._head_bytes or problem is not _HEAD_TOO_SLOW):
            self.transport.write(_raw_answer(self.url, problem))
        else:
            metrics.REFUSED.labels(problem.code).inc()
        self.transport.close()


async def _refuse_connection(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers that there are too many connections."""
    await _answer(scope, _TOO_MANY_CONNECTIONS)(scope, receive, send)


def _raw_answer(url: bytes, problem: Problem) -> bytes:
    """The whole answer to a request that no application sees, for `url` as far as it is known."""
    answer = _answer({"path": url.decode("latin-1")}, problem)
    status = HTTPStatus(answer.status_code)
    lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
    lines += [name + b": " + value for name, value in answer.raw_headers]
    return b"\r\n".join([*lines, b"", bytes(answer.body)])


def _answer(scope: Scope, problem: Problem) -> JSONResponse:
    request_id = f"req_{uuid7().hex}"
    scope["state"] = {"request_id": request_id}
    return render(scope, problem, {**API_HEADERS, "x-request-id": request_id, "connection": "close"})
