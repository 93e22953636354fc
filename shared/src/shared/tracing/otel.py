"""Spans by OpenTelemetry's SDK, sent in batches by OTLP over HTTP. Imported only where traces are on."""

import os
import platform
import threading
from collections.abc import Sequence
from importlib.metadata import version

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from shared.tracing import Attributes, Kind, Position, RecordedSpan

_RANDOM_BITS = (1 << 56) - 1  # of a trace id, says the W3C; a UUIDv7 has more of them
_LAST_WORDS_SECONDS = 2.0
_KINDS = {kind: trace.SpanKind[kind.value] for kind in Kind}
_FAILED = trace.Status(trace.StatusCode.ERROR)
_SAMPLED = trace.TraceFlags(trace.TraceFlags.SAMPLED | trace.TraceFlags.RANDOM_TRACE_ID)


class SdkRecorder:
    """`part` of all responses are traced, the same ones in every process. The environment tells the SDK the rest."""

    def __init__(self, service: str, endpoint: str, part: float) -> None:
        own = {
            "service.name": f"parley-{service}",
            "service.version": version(f"parley-{service}"),
            "service.instance.id": f"{platform.node()}.{os.getpid()}",
        }
        self._ids = _Ids()
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # see `wants`
            resource=Resource.create(own).merge(OTELResourceDetector().detect()),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        # Not made the process's own: libraries would begin to tell what they do, in their way.
        self._tracer = self._provider.get_tracer("parley", own["service.version"])
        self._bound = round(part * (_RANDOM_BITS + 1))

    def wants(self, trace_id: int) -> bool:
        """The SDK's own way to choose looks at bits that are the same in all UUIDs."""
        return trace_id & _RANDOM_BITS < self._bound

    def start(  # noqa: PLR0913, PLR0917 - what a span is made of
        self,
        name: str,
        kind: Kind,
        attributes: Attributes | None,
        parent: Position | None,
        own: Position | None,
        links: Sequence[Position],
        started_ns: int | None,
    ) -> RecordedSpan:
        above = trace.INVALID_SPAN if parent is None else trace.NonRecordingSpan(_context_of(parent))
        self._ids.given = own
        span = self._tracer.start_span(
            name,
            context=trace.set_span_in_context(above),
            kind=_KINDS[kind],
            attributes=attributes,
            links=[trace.Link(_context_of(link)) for link in links],
            start_time=started_ns,
        )
        self._ids.given = None
        return _SdkSpan(span)

    def stop(self) -> None:
        # A collector that is away would hold up the end of the process for half a minute.
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(_LAST_WORDS_SECONDS)


class _SdkSpan(RecordedSpan):
    __slots__ = ("_span",)

    def __init__(self, span: trace.Span) -> None:
        context = span.get_span_context()
        super().__init__(Position(context.trace_id, context.span_id))
        self._span = span

    def set(self, name: str, value: str | float | bool) -> None:  # noqa: FBT001
        self._span.set_attribute(name, value)

    def fail(self, error_type: str) -> None:
        self._span.set_attribute("error.type", error_type)
        self._span.set_status(_FAILED)

    def end(self) -> None:
        self._span.end()


class _Ids(RandomIdGenerator):
    """Random ones, but for a span whose own are given."""

    def __init__(self) -> None:
        self.given: Position | None = None

    def generate_trace_id(self) -> int:
        return super().generate_trace_id() if self.given is None else self.given.trace_id

    def generate_span_id(self) -> int:
        return super().generate_span_id() if self.given is None else self.given.span_id


def _context_of(position: Position) -> trace.SpanContext:
    return trace.SpanContext(position.trace_id, position.span_id, is_remote=True, trace_flags=_SAMPLED)
