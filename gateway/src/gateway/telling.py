"""What a request turns out to be about: a response. From then on its lines in the log say so, and the response's trace
has a span of it. And how the request went, in the log and in numbers.

Its address is in no log: it may hold anything that a client wrote there, also a secret. The route's template is.
"""

import time
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Self
from uuid import UUID

from starlette.types import Scope

from gateway.metrics import count_request, route_of
from shared import tracing
from shared.observability import bind_ids, get_logger, unbind_ids

log = get_logger()

_IDS = ("request_id", "job_id", "conversation_id")


class ToldRequest:
    """Around all that happens for a request, which is of one task and those that it starts."""

    __slots__ = ("_outer", "_route", "_scope", "_started_at", "_status", "method", "span", "started_ns")

    def __init__(self, scope: Scope) -> None:
        self.method: str = scope["method"]
        self.started_ns = tracing.now_ns()
        self.span: tracing.Span | None = None
        self._started_at = time.monotonic()
        self._scope: Scope | None = scope
        self._route, self._status = "other", 0
        self._outer: Token[ToldRequest | None] | None = None

    def __enter__(self) -> Self:
        assert self._scope is not None
        bind_ids(request_id=self._scope["state"]["request_id"])
        self._outer = _request.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.let_go()
        count_request(self.method, self._route, self._status)
        note = log.debug if self._route.startswith("/health/") else log.info
        milliseconds = round((time.monotonic() - self._started_at) * 1000, 1)
        note("request", method=self.method, route=self._route, status=self._status, duration_ms=milliseconds)
        assert self._outer is not None
        _request.reset(self._outer)
        unbind_ids(*_IDS)
        if self.span is not None:
            self._end_span(self.span)

    @property
    def route(self) -> str:
        return self._route if self._scope is None else route_of(self._scope)

    @property
    def scope(self) -> Scope | None:
        """None where it was let go."""
        return self._scope

    def let_go(self) -> None:
        """Hold the scope no longer: its answer has begun, and may take long."""
        if self._scope is not None:
            self._route, self._status = route_of(self._scope), self._scope["state"].get("status", 0)
            self._scope = None

    def _end_span(self, span: tracing.Span) -> None:
        span.set("http.response.status_code", self._status)
        if self._status >= 500:  # noqa: PLR2004
            span.fail(str(self._status))
        tracing.leave()
        span.end()


_request: ContextVar[ToldRequest | None] = ContextVar("parley_request", default=None)


def about(job_id: UUID, conversation_id: UUID | None = None) -> None:
    """The request is about this response of its user's."""
    bind_ids(job_id=str(job_id), **({} if conversation_id is None else {"conversation_id": str(conversation_id)}))


def trace_request(job_id: UUID, *, is_first: bool) -> None:
    """Let the response's trace have a span of this request; `is_first`: it is the one that the trace begins with."""
    request = _request.get()
    if not tracing.is_on() or request is None or request.span is not None or request.scope is None:
        return
    first = tracing.response(job_id)
    request.span = tracing.start(
        f"{request.method} {request.route}",
        tracing.Kind.SERVER,
        {"http.request.method": request.method, "http.route": request.route},
        parent=None if is_first else first,
        own=first if is_first else None,
        links=_links(request.scope),
        started_ns=request.started_ns,
    )
    tracing.enter(request.span)


def _links(scope: Scope) -> list[tracing.Position]:
    """The client's own trace, if it sent word of one; the response's goes on when the client's has long ended."""
    name = tracing.HEADER.encode()
    told = next((value for key, value in scope["headers"] if key == name), b"")
    position = tracing.position_of(told.decode("latin-1"))
    return [position] if position else []
