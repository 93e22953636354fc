"""The HTTP server: uvicorn, with limits on what happens before there is a request, and on who takes no answer.

Nobody is known at that point, so that everybody can send. An application cannot limit any of it.
"""

import asyncio
import socket
import sys
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.settings import GatewaySettings
from shared.observability import get_logger

log = get_logger()

_HEAD_TOO_LARGE = "431 Request Header Fields Too Large"
_HEAD_TOO_SLOW = "408 Request Timeout"


def server_of(app: Any, settings: GatewaySettings, stopping: asyncio.Event) -> "Server":
    """A server of `app`; `stopping` is set as soon as it is told to stop."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        ws="none",
        http=_http_protocol(settings.head_bytes_max, settings.head_seconds_max),
        limit_concurrency=settings.connections_max,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
    return Server(config, stopping)


def listening_socket(config: uvicorn.Config, send_timeout_seconds: float) -> socket.socket:
    """A bound socket whose connections are broken once their reader has taken nothing for so long.

    uvicorn closes a connection politely, which means: after the reader took the rest, be it never.
    """
    listener = config.bind_socket()
    if sys.platform == "linux":
        milliseconds = max(1, int(send_timeout_seconds * 1000))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)  # connections inherit it
    return listener


class Server(uvicorn.Server):
    """Tells open streams of a stop as soon as it is asked for; uvicorn waits for them before it says so itself."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        super().handle_exit(sig, frame)


def _http_protocol(head_bytes_max: int, head_seconds_max: float) -> type[asyncio.Protocol]:
    """uvicorn takes a class and makes the protocols itself, so that their limits are the class's."""
    limits = {"head_bytes_max": head_bytes_max, "head_seconds_max": head_seconds_max}
    return type("BoundedHttpProtocol", (_BoundedHttpProtocol,), limits)


class _BoundedHttpProtocol(HttpToolsProtocol):
    """A connection whose request heads (the line and the headers) have a greatest length, and a time to arrive in."""

    head_bytes_max: int
    head_seconds_max: float

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._is_in_head = True
        self._heads_count = 0
        self._head_bytes = 0  # of a head that is not whole yet
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was_in_head, heads_count = self._is_in_head, self._heads_count
        super().data_received(data)
        if self.transport.is_closing() or not self._is_in_head:
            return
        if was_in_head and self._heads_count == heads_count:
            self._head_bytes += len(data)
        if self._head_bytes > self.head_bytes_max:
            self._refuse(_HEAD_TOO_LARGE)
        elif self._is_idle and self._head_timer is None:
            self._start_timer()

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._heads_count += 1
        self._head_bytes = 0
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_in_head = True  # of the next request, if one comes

    @property
    def _is_idle(self) -> bool:
        """Whether no answer is under way. (Between two requests uvicorn's own timer runs.)"""
        return self.cycle is None or self.cycle.response_complete

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.head_seconds_max, self._refuse, _HEAD_TOO_SLOW)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: str) -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        log.info("request_refused", status=status)
        if self._is_idle and (self._heads_count or self._head_bytes):
            self.transport.write(f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode())
        self.transport.close()
