"""Traces: what became of a response, step by step, through all processes. OpenTelemetry is known here and nowhere else.

They are off unless `OTEL_EXPORTER_OTLP_ENDPOINT` names where they go: then nothing of OpenTelemetry is imported, and
every function here returns at once.

A response has one trace, and nobody needs to be told which: the trace's id is the response's, its first span has the
last half of that as its own, and the span of attempt N that plus N (`docs/decisions/0010-trace-ids.md`). So whoever
knows a job can add to its trace, also after a crash; and all processes choose the same responses to trace.

Attributes are ids of ours, numbers and names, by OpenTelemetry's conventions where there are any; never content.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, TypeAlias
from uuid import UUID

from shared.settings import ServiceSettings

HEADER = "traceparent"  # of HTTP, of messages, and in the `_meta` of MCP

Attributes: TypeAlias = Mapping[str, str | int | float | bool]

_HALF = (1 << 64) - 1
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")


class Kind(StrEnum):
    """OpenTelemetry's kinds of spans."""

    INTERNAL = "INTERNAL"
    SERVER = "SERVER"
    CLIENT = "CLIENT"
    PRODUCER = "PRODUCER"
    CONSUMER = "CONSUMER"


class Position(NamedTuple):
    """A span, in this process or another."""

    trace_id: int
    span_id: int


def response(job_id: UUID) -> Position:
    """The first span of a response's trace."""
    return Position(job_id.int, job_id.int & _HALF)


def attempt(job_id: UUID, number: int) -> Position:
    """The span of an attempt at a response."""
    return Position(job_id.int, (job_id.int + number) & _HALF)


def position_of(traceparent: object) -> Position | None:
    """What a header says, if it is one."""
    found = _TRACEPARENT.fullmatch(traceparent) if isinstance(traceparent, str) else None
    position = found and Position(int(found[1], 16), int(found[2], 16))
    return position if position and all(position) else None


def sent_by(headers: Mapping[str, Any] | None, job_id: UUID) -> Position | None:
    """The span that sent a message about the job; None where the message does not say, or names another trace."""
    position = position_of((headers or {}).get(HEADER))
    return position if position and position.trace_id == job_id.int else None


class Span:
    """Something that takes its time. This one is of no trace: whatever it is told, it forgets."""

    __slots__ = ()

    def set(self, name: str, value: str | float | bool) -> None:  # noqa: FBT001
        """Set an attribute."""

    def fail(self, error_type: str) -> None:
        """It went wrong; `error_type` is one of few words, or the name of a class."""

    def end(self) -> None:
        """It is over. Nothing more can be said of it."""

    @property
    def header(self) -> str | None:
        """Its position as `traceparent`, for whoever goes on from here."""
        return None

    @property
    def headers(self) -> dict[str, Any] | None:
        """The same, for a message."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Ends it; as failed where the body raises."""


class RecordedSpan(Span):
    """One that will be sent."""

    __slots__ = ("position",)

    def __init__(self, position: Position) -> None:
        self.position = position

    @property
    def header(self) -> str | None:
        return f"00-{self.position.trace_id:032x}-{self.position.span_id:016x}-03"  # sampled, and random

    @property
    def headers(self) -> dict[str, Any] | None:
        return {HEADER: self.header}

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.fail(kind.__name__)  # never what it says, which may quote content
        self.end()


class Recorder(Protocol):
    """What makes the spans of the traces that are wanted."""

    def wants(self, trace_id: int) -> bool: ...

    def start(  # noqa: PLR0913, PLR0917 - as below
        self,
        name: str,
        kind: Kind,
        attributes: Attributes | None,
        parent: Position | None,
        own: Position | None,
        links: Sequence[Position],
        started_ns: int | None,
    ) -> RecordedSpan: ...

    def stop(self) -> None:
        """Send what is left, or give it up soon."""
        ...


NOBODYS = Span()
_current: ContextVar[RecordedSpan | None] = ContextVar("parley_span", default=None)
_recorder: Recorder | None = None


def is_on() -> bool:
    return _recorder is not None


def start(  # noqa: PLR0913 - what a span is made of
    name: str,
    kind: Kind = Kind.INTERNAL,
    attributes: Attributes | None = None,
    *,
    parent: Position | None = None,
    own: Position | None = None,
    links: Sequence[Position] = (),
    started_ns: int | None = None,
) -> Span:
    """A span of the trace that `own` or `parent` is of, else of the one that was entered here.

    It is under the span that was entered, if that is of its trace, else under `parent`; its id is random unless `own`
    gives it. `started_ns`: as `time.time_ns`, where it began earlier. End it, or use it as a context manager.
    """
    if _recorder is None:
        return NOBODYS
    inner = _current.get()
    above = inner.position if inner is not None else None
    of = own or parent or above
    if of is None or not _recorder.wants(of.trace_id):
        return NOBODYS
    if above is None or above.trace_id != of.trace_id:
        above = parent
    return _recorder.start(name, kind, attributes, above, own, links, started_ns)


@contextmanager
def entered(span: Span) -> Iterator[Span]:
    """`span` is the one that spans started in the body are under. Ends it; as failed where the body raises.

    Not for the body of an asynchronous generator, which lends what it enters to whoever reads from it.
    """
    if not isinstance(span, RecordedSpan):
        yield span
        return
    with span:
        token = _current.set(span)
        try:
            yield span
        finally:
            _current.reset(token)


def enter(span: Span) -> None:
    """As `entered`, for the rest of this task; whoever started `span` ends it."""
    if isinstance(span, RecordedSpan):
        _current.set(span)


def leave() -> None:
    """Nothing is entered in this task any more."""
    if _recorder is not None:
        _current.set(None)


def now_ns() -> int:
    """For `started_ns`; 0 where nobody asks."""
    return time.time_ns() if _recorder is not None else 0


@contextmanager
def traced(service: str, settings: ServiceSettings) -> Iterator[None]:
    """Record traces while the body runs, if the settings say so; at the end send what is left, or give it up soon."""
    global _recorder  # noqa: PLW0603 - what everybody would have to be handed
    if settings.otlp_endpoint is None or settings.otel_sdk_disabled:
        yield
        return
    from shared.tracing.otel import SdkRecorder  # noqa: PLC0415 - where it is not wanted, it costs nothing

    recorder = _recorder = SdkRecorder(service, settings.otlp_endpoint, settings.traces_sampler_arg)
    try:
        yield
    finally:
        _recorder = None
        recorder.stop()
