"""The events of a response: numbers, framing of items, and taking over from what is stored."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from shared.events import Event, Failure, ResponseEvents, Usage, is_terminal, response_of, type_of
from shared.states import JobStatus

NOW = datetime(2026, 11, 22, tzinfo=UTC)
RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": int(NOW.timestamp()) - 2,
    "status": "queued",
    "output": [],
    "usage": None,
}


def decoded(events: list[Event]) -> list[dict[str, Any]]:
    return [json.loads(event) for event in events]


def a_text_turn(writer: ResponseEvents, *deltas: str) -> list[Event]:
    events = [writer.created(), writer.in_progress()]
    for delta in deltas:
        events += writer.text(delta)
    events += writer.close_message()
    return events + writer.end(JobStatus.COMPLETED, ended_at=NOW, usage=Usage(3, 2))


def test_a_text_turn_is_framed_as_the_wire_says() -> None:
    events = a_text_turn(ResponseEvents(RESPONSE), "Hel", "lo")

    assert [type_of(event) for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event["sequence_number"] for event in decoded(events)] == list(range(10))
    final = response_of(events[-1])
    assert final["output"][0]["content"][0]["text"] == "Hello"
    assert final["usage"]["total_tokens"] == 5
    assert final["completed_at"] == int(NOW.timestamp())


def test_a_tool_call_is_one_item_with_its_result() -> None:
    writer = ResponseEvents(RESPONSE)

    events = decoded(writer.open_mcp_call("mcp_1", "tasks", "add_task", "{}") + writer.close_mcp_call("[]", None, 42))

    assert [event["type"] for event in events] == [
        "response.output_item.added",
        "response.mcp_call.in_progress",
        "response.mcp_call_arguments.done",
        "response.mcp_call.completed",
        "response.output_item.done",
    ]
    assert events[0]["item"]["arguments"] == ""
    assert events[-1]["item"] == writer.output[0]
    assert writer.output[0]["arguments"] == "{}"
    assert writer.output[0]["output"] == "[]"
    assert (events[0]["item"]["duration_ms"], events[-1]["item"]["duration_ms"]) == (None, 42)


@pytest.mark.parametrize(("seconds_later", "told_later"), [(3, 3), (-600, 0)])
def test_nothing_ends_before_it_began_whatever_two_clocks_say(seconds_later: int, told_later: int) -> None:
    created_at = int(NOW.timestamp()) - seconds_later
    writer = ResponseEvents(RESPONSE | {"created_at": created_at})

    final = response_of(writer.end(JobStatus.COMPLETED, ended_at=NOW, usage=None)[-1])

    assert final["completed_at"] == created_at + told_later


def test_an_abandoned_item_is_closed_and_not_part_of_the_output() -> None:
    writer = ResponseEvents(RESPONSE)
    writer.text("partial")

    closing = decoded(writer.abandon())
    writer.text("whole")
    writer.close_message()
    final = response_of(writer.end(JobStatus.COMPLETED, ended_at=NOW, usage=None)[-1])

    assert closing[-1]["item"]["status"] == "incomplete"
    assert [item["content"][0]["text"] for item in final["output"]] == ["whole"]
    assert writer.next_output_index == 2


def test_a_cancelled_response_keeps_what_was_said() -> None:
    writer = ResponseEvents(RESPONSE)
    writer.text("so far")

    events = writer.end(JobStatus.CANCELLED, ended_at=NOW, usage=None)

    assert type_of(events[-1]) == "response.incomplete"
    final = response_of(events[-1])
    assert final["status"] == "cancelled"
    assert final["incomplete_details"] is None
    assert final["output"][0]["status"] == "incomplete"
    assert final["output"][0]["content"][0]["text"] == "so far"


def test_a_tool_call_that_is_open_at_the_end_is_kept_with_its_outcome_unknown() -> None:
    writer = ResponseEvents(RESPONSE)
    writer.open_mcp_call("mcp_1", "tasks", "add_task", "{}")

    events = decoded(writer.end(JobStatus.CANCELLED, ended_at=NOW, usage=None))

    [call] = events[-1]["response"]["output"]
    assert [event["type"] for event in events[:-1]] == ["response.mcp_call.failed", "response.output_item.done"]
    assert call["status"] == "failed"
    assert call["error"]["content"][0]["text"].startswith("outcome unknown")
    assert call["duration_ms"] is None


def test_a_failed_response_says_why_and_drops_what_was_half_said() -> None:
    writer = ResponseEvents(RESPONSE)
    writer.text("so far")

    events = writer.end(JobStatus.FAILED, ended_at=NOW, usage=None, failure=Failure("model_unavailable", "Down."))

    final = response_of(events[-1])
    assert final["error"] == {"code": "server_error", "message": "Down.", "type": "model_unavailable"}
    assert final["output"] == []


def test_a_call_of_the_clients_is_told_whole() -> None:
    writer = ResponseEvents(RESPONSE)

    events = decoded(writer.function_call("fc_1", "call_1", "get_weather", '{"city":"Graz"}'))

    assert [event["type"] for event in events] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    assert events[0]["item"]["arguments"] == ""
    assert (events[2]["name"], events[2]["arguments"]) == ("get_weather", '{"city":"Graz"}')
    assert writer.output == [
        {
            "id": "fc_1",
            "type": "function_call",
            "call_id": "call_1",
            "name": "get_weather",
            "arguments": '{"city":"Graz"}',
            "status": "completed",
        }
    ]


def test_a_question_for_approval_is_an_item_without_a_status() -> None:
    writer = ResponseEvents(RESPONSE)

    added, done = decoded(writer.approval_request("mcpr_1", "mail", "wipe", "{}"))

    assert added["item"] == done["item"] == writer.output[0]
    assert set(done["item"]) == {"id", "type", "server_label", "name", "arguments"}


def test_reasoning_ends_where_text_begins() -> None:
    writer = ResponseEvents(RESPONSE)

    events = decoded([*writer.reasoning("Let "), *writer.reasoning("me see."), *writer.text("Hi.")])

    assert [event["type"] for event in events] == [
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
    ]
    assert writer.output[0]["summary"] == [{"type": "summary_text", "text": "Let me see."}]


def test_reasoning_that_led_to_nothing_is_not_part_of_the_output() -> None:
    for status in (JobStatus.CANCELLED, JobStatus.FAILED):
        writer = ResponseEvents(RESPONSE)
        writer.reasoning("Hm")

        events = decoded(writer.end(status, ended_at=NOW, usage=None))

        assert events[-2]["item"]["status"] == "incomplete"
        assert events[-1]["response"]["output"] == []


def _play(writer: ResponseEvents, kind: str) -> list[Event]:
    """An item of `kind`, whole."""
    match kind:
        case "message":
            return [*writer.text("Hel"), *writer.text("lo"), *writer.close_message()]
        case "reasoning":
            return [*writer.reasoning("Let me "), *writer.reasoning("see."), *writer.close_message()]
        case "mcp_call":
            return [
                *writer.open_mcp_call("mcp_1", "tasks", "add_task", "{}", "mcpr_1"),
                *writer.close_mcp_call("ok", None),
            ]
        case "function_call":
            return writer.function_call("fc_1", "call_1", "fly", '{"to":"Graz"}')
        case _:
            return writer.approval_request("mcpr_1", "mail", "wipe", "{}")


KINDS = ("message", "reasoning", "mcp_call", "function_call", "mcp_approval_request")


@pytest.mark.parametrize("kind", KINDS)
def test_the_strict_types_of_openais_client_take_every_event(kind: str) -> None:
    strict: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

    for event in decoded(_play(ResponseEvents(RESPONSE), kind)):
        assert strict.validate_python(event).type == event["type"]


@given(st.lists(st.sampled_from(KINDS), max_size=5), st.data())
def test_whoever_takes_over_at_any_point_goes_on_as_the_dead_would_have(kinds: list[str], data: st.DataObject) -> None:
    writer = ResponseEvents(RESPONSE)
    events = [writer.created(), writer.in_progress()]
    for kind in kinds:
        events += _play(writer, kind)
    cut = data.draw(st.integers(1, len(events)))

    heir = ResponseEvents(RESPONSE)
    heir.replay(events[:cut])
    rest = heir.abandon()
    rest += _play(heir, "message")
    rest += heir.end(JobStatus.COMPLETED, ended_at=NOW, usage=None)

    whole = decoded(events[:cut] + rest)
    assert [event["sequence_number"] for event in whole] == list(range(len(whole)))
    assert [is_terminal(event) for event in rest] == [False] * (len(rest) - 1) + [True]
    added = [event["output_index"] for event in whole if event["type"] == "response.output_item.added"]
    done = [event for event in whole if event["type"] == "response.output_item.done"]
    assert added == [event["output_index"] for event in done] == list(range(len(added)))
    kept = [event["item"] for event in done if event["item"].get("status") != "incomplete"]
    assert whole[-1]["response"]["output"] == kept


@given(st.lists(st.sampled_from(KINDS), max_size=5), st.data())
def test_a_replay_cut_in_pieces_is_the_replay_of_the_whole(kinds: list[str], data: st.DataObject) -> None:
    writer = ResponseEvents(RESPONSE)
    events = [writer.created(), writer.in_progress()]
    for kind in kinds:
        events += _play(writer, kind)
    events += writer.text("more")
    cut = data.draw(st.integers(0, len(events)))

    replayed = ResponseEvents(RESPONSE)
    replayed.replay(events[:cut])
    replayed.replay(events[cut:])

    ends = [one.end(JobStatus.CANCELLED, ended_at=NOW, usage=None) for one in (writer, replayed)]
    assert ends[0] == ends[1]
