"""Traces: off, they cost nothing; on, every process knows a response's trace by its id."""

import subprocess
import sys
from collections.abc import Iterator
from uuid import UUID

import pytest

from shared import tracing
from shared.ids import uuid7
from shared.settings import ServiceSettings
from shared.tracing import Kind, Position, position_of, sent_by, traced
from tests.support.collector import Collector, running_collector

_JOB = UUID("0199c3f2-a4d8-7b3f-8e5d-2c1b0a998877")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with running_collector() as running:
        yield running


def settings(endpoint: str | None = None, **more: object) -> ServiceSettings:
    return ServiceSettings.model_validate({"otlp_endpoint": endpoint, **more})


def test_the_first_span_and_those_of_attempts_are_known_by_the_response_s_id() -> None:
    assert tracing.response(_JOB) == Position(_JOB.int, 0x8E5D2C1B0A998877)
    assert tracing.attempt(_JOB, 2) == Position(_JOB.int, 0x8E5D2C1B0A998879)


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"00-0199c3f2a4d87b3f8e5d2c1b0a998877-8e5d2c1b0a998877-01",
        "",
        "00-0199c3f2a4d87b3f8e5d2c1b0a998877-8e5d2c1b0a998877",
        "00-0199C3F2A4D87B3F8E5D2C1B0A998877-8E5D2C1B0A998877-01",
        "00-00000000000000000000000000000000-8e5d2c1b0a998877-01",
        "00-0199c3f2a4d87b3f8e5d2c1b0a998877-0000000000000000-01",
        "00-0199c3f2a4d87b3f8e5d2c1b0a998877-8e5d2c1b0a998877-01\n",
        f"00-{'0' * 10_000}",
    ],
)
def test_what_is_no_traceparent_is_nothing(header: object) -> None:
    assert position_of(header) is None


def test_a_message_that_names_another_trace_is_not_believed() -> None:
    other = uuid7()
    headers = {"traceparent": f"00-{other.hex}-00f067aa0ba902b7-01"}

    assert sent_by(headers, other) == Position(other.int, 0x00F067AA0BA902B7)
    assert sent_by(headers, _JOB) is None
    assert sent_by(None, _JOB) is None


def test_spans_are_sent_with_their_places_and_kinds(collector: Collector) -> None:
    with traced("gateway", settings(collector.url)):
        first = tracing.start("first", Kind.SERVER, own=tracing.response(_JOB), links=[Position(1, 2)])
        with tracing.entered(first), pytest.raises(ValueError, match="canary"):
            _fail_within()
        tracing.start("attempt", parent=tracing.response(_JOB), own=tracing.attempt(_JOB, 1)).end()

    spans = {span.name: span for span in collector.spans(_JOB.hex)}
    assert (spans["first"].span_id, spans["first"].parent_id, spans["first"].kind) == (_JOB.hex[16:], "", "SERVER")
    assert spans["first"].links == [(f"{1:032x}", f"{2:016x}")]
    assert spans["within"].parent_id == spans["attempt"].parent_id == spans["first"].span_id
    assert spans["within"].attributes == {"count": 3, "error.type": "ValueError"}
    assert spans["within"].is_failed
    assert int(spans["attempt"].span_id, 16) == int(_JOB.hex[16:], 16) + 1
    assert b"canary" not in b"".join(collector.bodies)


def _fail_within() -> None:
    with tracing.start("within") as span:
        assert position_of(span.header) == sent_by(span.headers, _JOB)
        span.set("count", 3)
        raise ValueError("canary")


def test_a_span_of_no_response_is_none(collector: Collector) -> None:
    with traced("gateway", settings(collector.url)), tracing.start("nobody's") as span:
        assert span.header is None

    assert collector.bodies == []


def test_a_span_of_another_response_is_not_under_the_one_that_is_entered(collector: Collector) -> None:
    other = uuid7()

    with traced("gateway", settings(collector.url)), tracing.entered(tracing.start("one", own=tracing.response(_JOB))):
        tracing.start("other", parent=tracing.response(other)).end()

    [span] = collector.spans(other.hex)
    assert span.parent_id == other.hex[16:]


@pytest.mark.parametrize("part", [0.0, 0.25, 1.0])
def test_a_part_of_all_responses_is_traced_by_their_ids_alone(collector: Collector, part: float) -> None:
    jobs = [uuid7() for _ in range(2_000)]

    def chosen(service: str) -> set[UUID]:
        with traced(service, settings(collector.url, traces_sampler_arg=part)):
            return {job for job in jobs if tracing.start("x", parent=tracing.response(job)).header is not None}

    here, there = chosen("gateway"), chosen("persistence")

    assert here == there
    assert abs(len(here) / len(jobs) - part) < 0.06  # six standard deviations


@pytest.mark.parametrize(
    "off",
    [{"endpoint": None}, {"endpoint": "http://127.0.0.1:9", "otel_sdk_disabled": True}],
    ids=["unset", "disabled"],
)
def test_where_they_are_off_no_span_is_anything(off: dict[str, object]) -> None:
    with traced("gateway", settings(**off)):  # type: ignore[arg-type]
        span = tracing.start("x", own=tracing.response(_JOB))

        assert not tracing.is_on()
        assert span is tracing.NOBODYS
        with tracing.entered(span) as entered:
            entered.set("a", 1)
            entered.fail("x")
        assert (span.header, span.headers, tracing.now_ns()) == (None, None, 0)


_SERVICES = ["gateway", "chat_worker", "persistence", "task_tools"]


@pytest.mark.parametrize("service", _SERVICES)
def test_where_they_are_off_the_sdk_is_not_even_imported(service: str) -> None:
    """FastAPI and the MCP library import OpenTelemetry's API, which does nothing by itself; persistence has neither."""
    code = f"""
import sys
import {service}.app
from shared.settings import ServiceSettings
from shared.tracing import traced
with traced("{service.replace("_", "-")}", ServiceSettings()):
    loaded = [name for name in sys.modules if name.startswith("opentelemetry.")]
print(*loaded)
"""

    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()

    assert not [name for name in loaded if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))]
    assert "requests" not in loaded
    if service == "persistence":
        assert loaded in ([], ["opentelemetry.semconv"])


def test_a_collector_that_is_away_holds_nobody_up() -> None:
    """Neither who records, nor the end of the process: it is given up after two seconds."""
    code = f"""
import logging, uuid
from shared import tracing
from shared.settings import ServiceSettings
logging.disable()
with tracing.traced("gateway", ServiceSettings(otlp_endpoint="http://127.0.0.1:9")):
    for number in range(5_000):
        tracing.start("x", own=tracing.response(uuid.UUID("{_JOB}"))).end()
print("ended")
"""

    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)

    assert done.stdout == "ended\n"
