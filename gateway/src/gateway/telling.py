"""What a request turns out to be about: a response. From then on its lines in the log say so, and the response's trace
has a span of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from uuid import UUID

from starlette.types import Scope

from gateway.metrics import route_of
from shared import tracing
from shared.observability import bind_ids, unbind_ids

_IDS = ("job_id", "conversation_id")


class _Request:
    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.started_ns = tracing.now_ns()
        self.span: tracing.Span | None = None


_request: ContextVar[_Request | None] = ContextVar("parley_request", default=None)


@contextmanager
def request_told(scope: Scope) -> Iterator[None]:
    """Around all that happens for a request, which is of one task and those that it starts."""
    request = _Request(scope)
    token = _request.set(request)
    try:
        yield
    finally:
        _request.reset(token)
        unbind_ids(*_IDS)
        if request.span is not None:
            _end(request.span, request)


def about(job_id: UUID, conversation_id: UUID | None = None) -> None:
    """The request is about this response of its user's."""
    bind_ids(job_id=str(job_id), **({} if conversation_id is None else {"conversation_id": str(conversation_id)}))


def trace_request(job_id: UUID, *, is_first: bool) -> None:
    """Let the response's trace have a span of this request; `is_first`: it is the one that the trace begins with."""
    request = _request.get()
    if request is None or request.span is not None or not tracing.is_on():
        return
    method = request.scope["method"]
    first = tracing.response(job_id)
    request.span = tracing.start(
        f"{method} {route_of(request.scope)}",
        tracing.Kind.SERVER,
        {"http.request.method": method, "http.route": route_of(request.scope)},
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


def _end(span: tracing.Span, request: _Request) -> None:
    status = request.scope["state"].get("status", 0)
    span.set("http.response.status_code", status)
    if status >= 500:  # noqa: PLR2004
        span.fail(str(status))
    tracing.leave()
    span.end()
