"""What processes tell of what they do: traces, metrics, and logs that join by the response's id."""

import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import httpx2
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from shared.ids import uuid7
from tests.support import promql
from tests.support.backends import Backends, new_backends
from tests.support.client import Client, JsonObject, events_of
from tests.support.collector import Collector, ToldSpan, running_collector
from tests.support.stack import ServiceProcess, Stack, running_stack
from tests.support.waiting import wait_until

_PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
_ROW = re.compile(r"^\| `(?P<name>[a-z_]+)` \| (?P<type>\w+) \| (?P<labels>[^|]*)\| ", re.MULTILINE)
_TELLERS = {
    "Every process": {"gateway", "chat-worker", "persistence", "task-tools"},
    "On the broker: gateway, chat-worker, persistence": {"gateway", "chat-worker", "persistence"},
    "The model: chat-worker, and for completions the gateway": {"gateway", "chat-worker"},
    "Gateway": {"gateway"},
    "Chat-worker": {"chat-worker"},
    "Persistence": {"persistence"},
    "The state of the system": {"persistence"},
    "Task-tools": {"task-tools"},
}
_RULES = [
    rule
    for group in yaml.safe_load((Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml").read_text())[
        "groups"
    ]
    for rule in group["rules"]
]
_ROOT, _ATTEMPT = "POST /v1/responses", "process chat.jobs"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with running_collector() as running:
        yield running


@pytest.fixture(scope="module")
def own_backends() -> Iterator[Backends]:
    with new_backends() as backends:
        yield backends


@pytest.fixture(scope="module")
async def traced(
    own_backends: Backends, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """A system whose processes all send their traces to `collector`."""
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "PERSISTENCE_DISPATCH_GRACE_SECONDS": "1",
    }
    async with running_stack(own_backends, tmp_path_factory.mktemp("traced"), variables=variables) as running:
        yield running


@pytest.fixture
async def client(traced: Stack) -> AsyncIterator[Client]:
    client = Client(traced.gateway().url, f"user-{uuid7().hex[-12:]}")
    yield client
    await client.close()


async def streamed(client: Client, text: str, headers: Mapping[str, str] | None = None) -> list[JsonObject]:
    """The events of a new response, as its own request streams them."""
    body = {"model": "todo", "input": text, "stream": True}
    async with client.http.stream("POST", "/v1/responses", json=body, headers=dict(headers or {})) as answer:
        assert answer.status_code == httpx2.codes.OK
        return [event async for event in events_of(answer)]


async def trace_of(
    collector: Collector, response_id: str, *names: str, whole: Callable[[list[ToldSpan]], bool] = lambda _: True
) -> list[ToldSpan]:
    """The spans of the response's trace, once those with these names have come and it is `whole`."""

    async def look() -> list[ToldSpan]:
        spans = collector.spans(response_id.removeprefix("resp_"))
        return spans if set(names) <= {span.name for span in spans} and whole(spans) else []

    return await wait_until(look, what=f"spans {names} of {response_id}")


def only(spans: list[ToldSpan], name: str) -> ToldSpan:
    [found] = [span for span in spans if span.name == name]
    return found


def stored_in(spans: list[ToldSpan]) -> list[ToldSpan]:
    return [span for span in spans if span.service == "parley-persistence" and "parley.event_count" in span.attributes]


async def test_a_response_is_one_trace_through_all_processes(client: Client, collector: Collector) -> None:
    clients_own = f"{uuid7().hex}-00f067aa0ba902b7"

    events = await streamed(client, "add a task: canarycontent", {"traceparent": f"00-{clients_own}-01"})

    response_id = events[0]["response"]["id"]

    def whole(spans: list[ToldSpan]) -> bool:
        """The first event was stored with the acceptance."""
        counts: list[int] = [span.attributes["parley.event_count"] for span in stored_in(spans)]
        return sum(counts) == len(events) - 1

    spans = await trace_of(collector, response_id, _ROOT, _ATTEMPT, "tools/call add_task", whole=whole)
    parents = {span.span_id: span for span in spans}
    root, attempt = only(spans, _ROOT), only(spans, _ATTEMPT)
    told = {(span.service, span.name, span.kind, getattr(parents.get(span.parent_id), "name", None)) for span in spans}
    assert {
        ("parley-gateway", _ROOT, "SERVER", None),
        ("parley-gateway", "accept turn", "CLIENT", _ROOT),
        ("parley-gateway", "publish chat.jobs", "PRODUCER", _ROOT),
        ("parley-gateway", "stream events", "INTERNAL", _ROOT),
        ("parley-chat-worker", _ATTEMPT, "CONSUMER", "publish chat.jobs"),
        ("parley-chat-worker", "read history", "CLIENT", _ATTEMPT),
        ("parley-chat-worker", "chat demo", "CLIENT", _ATTEMPT),
        ("parley-chat-worker", "execute_tool add_task", "CLIENT", _ATTEMPT),
        ("parley-chat-worker", "flush events", "INTERNAL", _ATTEMPT),
        ("parley-task-tools", "tools/call add_task", "SERVER", "execute_tool add_task"),
    } <= told
    assert {(span.kind, span.parent_id) for span in stored_in(spans)} == {("CONSUMER", attempt.span_id)}
    assert root.span_id == response_id[-16:], "found by the response's id alone"
    assert (root.links, root.is_failed) == ([(clients_own[:32], clients_own[33:])], False)
    assert only(spans, "stream events").attributes["parley.stream.event_count"] == len(events)
    assert sum(span.name == "chat demo" for span in spans) == 2, "one for the call, one for the answer"
    assert all(root.started_ns <= span.started_ns <= span.ended_ns for span in spans)


async def test_nothing_that_users_say_and_nobody_s_id_is_in_a_trace(client: Client, collector: Collector) -> None:
    events = await streamed(client, "add a task: canarytask [[demo: error=500]]", {"x-request-id": "canaryrequest"})
    other = await streamed(client, "list my tasks, canaryword")

    for response in (events[0]["response"], other[0]["response"]):
        await trace_of(collector, response["id"], _ROOT, _ATTEMPT)

    sent = b"".join(collector.bodies)
    assert b"execute_tool list_tasks" in sent
    assert [word for word in (b"canary", client.user_id.encode()) if word in sent] == []


async def test_a_second_attempt_is_in_the_same_trace_and_names_the_first(
    traced: Stack, client: Client, collector: Collector
) -> None:
    await traced.restart_with({"chat-worker-0": {"PARLEY_FAULT": "worker.mid_text:5"}})
    created = await client.create("[[demo: tokens=20]] go", background=True)

    async def is_dead() -> bool:
        return not traced.processes["chat-worker-0"].is_running

    await wait_until(is_dead, what="the worker's end")
    await traced.heal()
    await client.ended(created["id"])

    first_id, second_id = (f"{int(created['id'][-16:], 16) + number:016x}" for number in (1, 2))

    def whole(spans: list[ToldSpan]) -> bool:
        return second_id in {span.parent_id for span in stored_in(spans)}

    spans = await trace_of(collector, created["id"], _ATTEMPT, "resume journal", whole=whole)
    second = only(spans, _ATTEMPT)
    assert (second.span_id, second.attributes["parley.attempt"]) == (second_id, 2)
    assert second.links == [(created["id"].removeprefix("resp_"), first_id)]
    assert only(spans, "resume journal").parent_id == second_id


async def test_a_resumed_stream_and_a_stop_are_in_the_response_s_trace(client: Client, collector: Collector) -> None:
    created = await client.create("[[demo: tokens=400 delay_ms=50]] go", background=True)

    async with client.stream(created["id"], starting_after=0) as events:
        await anext(events)
        await client.http.post(f"/v1/responses/{created['id']}/cancel")

    retrieve, cancel = "GET /v1/responses/{response_id}", "POST /v1/responses/{response_id}/cancel"
    spans = await trace_of(collector, created["id"], _ROOT, retrieve, cancel)
    root = only(spans, _ROOT)
    assert only(spans, retrieve).parent_id == only(spans, cancel).parent_id == root.span_id


async def test_no_trace_begins_with_what_is_not_about_a_response(client: Client, collector: Collector) -> None:
    await client.http.get("/v1/models")
    await client.http.post("/v1/responses", json={"model": "no such", "input": "x"})
    completion = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}
    await client.http.post("/v1/chat/completions", json=completion)
    created = await client.create("hello")

    await trace_of(collector, created["id"], _ROOT, _ATTEMPT)

    assert all(trace_id[12] == "7" for trace_id in collector.trace_ids()), "each is a response's id"
    names = {span.name for trace_id in collector.trace_ids() for span in collector.spans(trace_id)}
    assert not {name for name in names if "models" in name or "completions" in name}


async def scraped(process: ServiceProcess) -> str:
    async with httpx2.AsyncClient() as http:
        return (await http.get(f"{process.url}/metrics")).text


def _documented(kind: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Of the page: what a process tells, with type and labels."""
    found = {}
    for section in _PAGE.split("\n## ")[1:]:
        if kind in _TELLERS.get(section.partition("\n")[0], ()):
            for row in _ROW.finditer(section):
                found[row["name"]] = (row["type"], frozenset(re.findall(r"`(\w+)`", row["labels"])))
    return found


def _served(text: str) -> dict[str, tuple[str, frozenset[str] | None]]:
    """What is told, with type and labels; None: of labels that have no series yet."""
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    return {name: (kind, _labels_of(name, text)) for name, kind in types.items()}


def _labels_of(name: str, text: str) -> frozenset[str] | None:
    found = re.search(rf"^{name}(?:_bucket)?((?:{{.*}})?) ", text, re.MULTILINE)
    return found and frozenset(re.findall(r'(\w+)="', found[1])) - {"le"}


@pytest.mark.parametrize("kind", ["gateway", "chat-worker", "persistence", "task-tools"])
async def test_every_metric_that_a_process_serves_is_on_the_page_and_none_else(
    traced: Stack, client: Client, kind: str
) -> None:
    await streamed(client, "add a task: buy milk")

    served = _served(await scraped(traced.of_kind(kind)[0]))

    documented = _documented(kind)
    assert served.keys() == documented.keys()
    assert {name: kind for name, (kind, _) in served.items()} == {name: kind for name, (kind, _) in documented.items()}
    with_series = {name: labels for name, (_, labels) in served.items() if labels is not None}
    assert with_series == {name: documented[name][1] for name in with_series}
    assert len(with_series) > len(served) / 2


async def test_what_an_alert_must_see_rising_is_told_as_nothing_before(traced: Stack) -> None:
    """A series that appears with its first count has not risen, for Prometheus: nobody would hear of that first one."""
    told = [
        (sample.name, sample.labels)
        for process in traced.processes.values()
        if process.kind != "demo-model"
        for family in text_string_to_metric_families(await scraped(process))
        for sample in family.samples
    ]
    wanted = [each for rule in _RULES for each in promql.rising(rule["expr"])]

    assert len(wanted) > 5
    for name, labels in wanted:
        assert any(name == one and labels.items() <= its.items() for one, its in told), f"{name}{labels}"
    refused = {labels["place"] for name, labels in told if name == "parley_messages_refused_total"}
    assert refused == {"chat.live", "chat.jobs", "chat.control", "chat.journal"}


async def _samples(stack: Stack) -> "defaultdict[str, float]":
    """Of all processes, added up."""
    samples = defaultdict[str, float](float)
    for process in stack.processes.values():
        if process.kind != "demo-model":
            for family in text_string_to_metric_families(await scraped(process)):
                for sample in family.samples:
                    labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                    samples[f"{sample.name}{{{labels}}}" if labels else sample.name] += sample.value
    return samples


async def test_a_turn_is_counted_wherever_it_passes(traced: Stack, client: Client) -> None:
    before = await _samples(traced)
    ended = "parley_worker_attempts_total{cause=,outcome=completed}"

    events = await streamed(client, "add a task: buy milk", {"idempotency-key": "milk"})
    await streamed(client, "add a task: buy milk", {"idempotency-key": "milk"})
    await client.events(events[0]["response"]["id"], starting_after=2)

    async def after() -> "defaultdict[str, float] | None":
        now = await _samples(traced)
        return now if now[ended] > before[ended] else None

    now = await wait_until(after, what="the end of the attempt")
    assert now is not None
    count = len(events)
    rise = {
        "parley_gateway_turns_total{outcome=accepted}": 1,
        "parley_gateway_turns_total{outcome=repeated}": 1,
        "parley_gateway_accept_seconds_count": 2,
        "parley_gateway_first_token_seconds_count": 1,
        "parley_gateway_events_sent_total": count + count + count - 3,
        "parley_gateway_resumes_total": 1,
        "parley_gateway_streams_closed_total{cause=ended}": 3,
        "parley_gateway_open{kind=streams}": 0,
        "parley_broker_publish_seconds_count{exchange=chat.ready}": 1,
        ended: 1,
        "parley_worker_attempt_seconds_count": 1,
        "parley_worker_claim_wait_seconds_count": 1,
        "parley_worker_message_events_sum": count - 1,  # the first was stored with the acceptance
        "parley_worker_outgoing_bytes": 0,
        "parley_worker_jobs_running": 0,
        "parley_worker_tool_calls_total{outcome=ok,server=tasks,tool=add_task}": 1,
        "parley_worker_tool_call_seconds_count{server=tasks}": 1,
        "parley_model_calls_total{outcome=ok,use=answer}": 2,
        "parley_model_call_seconds_count{use=answer}": 2,
        "parley_task_tools_calls_total{outcome=ok,tool=add_task}": 1,
        "parley_persistence_events_total": count - 1,
        "parley_persistence_jobs_ended_total{status=completed}": 1,
        "parley_persistence_chunks_total{place=known}": 0,
    }
    assert {name: now[name] - before[name] for name in rise} == rise
    message_count = now["parley_worker_message_events_count"] - before["parley_worker_message_events_count"]
    for name in (
        "parley_persistence_batch_messages_sum",
        "parley_persistence_batch_chunks_sum",
        "parley_persistence_chunks_total{place=next}",
        "parley_persistence_chunk_seconds_count",
    ):
        assert now[name] - before[name] == message_count, name
    for name in ("parley_model_tokens_total{kind=input,use=answer}", "parley_persistence_batch_seconds_sum"):
        assert now[name] > before[name], name


async def test_one_search_by_the_response_s_id_joins_its_life_in_all_logs(traced: Stack, client: Client) -> None:
    response_id = (await streamed(client, "add a task: buy milk"))[0]["response"]["id"]

    async def told() -> dict[str, list[str]]:
        found = {
            kind: _events_about(response_id, traced.logs(kind)) for kind in ("gateway", "chat-worker", "persistence")
        }
        return found if "request" in found["gateway"] and found["chat-worker"] and found["persistence"] else {}

    events = await wait_until(told, what="lines in all logs")
    assert events["gateway"] == ["turn_accepted", "request"]
    assert events["chat-worker"] == ["attempt_ended"]
    assert events["persistence"] == ["job_ended"]


def _events_about(response_id: str, log: str) -> list[str]:
    lines = [json.loads(line) for line in log.splitlines() if response_id in line]
    assert all(line["response_id"] == response_id for line in lines)
    return [line["event"] for line in lines]


def test_whatever_tells_of_a_job_has_the_response_s_id(traced: Stack) -> None:
    lines = [
        json.loads(line)
        for kind in ("gateway", "chat-worker", "persistence", "task-tools")
        for line in traced.logs(kind).splitlines()
        if '"job_id"' in line
    ]

    assert lines
    assert all(line["response_id"] == f"resp_{line['job_id'].replace('-', '')}" for line in lines)
