"""What the checker says of histories that no system may have, and that two lines of defence keep ours from having."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from shared.events import ResponseEvents, is_terminal, response_of
from shared.ids import Prefix, from_wire, new_wire_id
from shared.states import JobStatus
from tests.system.faults.checker import check
from tests.system.faults.history import History, Read, Said, Seen
from tests.system.faults.snapshot import Held, Job, Snapshot

_USER = "ada"
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_whole_history_is_in_order() -> None:
    assert _verdict(_answer()) == []


def test_a_second_end_is_seen() -> None:
    events = _answer()
    again = [event.replace(b'number":%d' % (len(events) - 1), b'number":%d' % len(events)) for event in events[-1:]]

    violations = "\n".join(_verdict([*events, *again]))

    assert "has 2 terminal events" in violations
    assert "goes on behind its end" in violations


def test_a_lost_event_is_seen() -> None:
    events = _answer()

    assert any("has a journal with the numbers" in violation for violation in _verdict([*events[:2], *events[3:]]))


def test_a_reader_who_was_told_something_else_is_seen() -> None:
    events = _answer()
    told = [event.replace(b'"delta":"Hello"', b'"delta":"Hallo"') for event in events]

    assert any("with other events than its journal" in violation for violation in _verdict(events, told))


def test_a_reader_who_was_told_less_is_seen() -> None:
    events = _answer()

    assert any("was streamed to its end with" in violation for violation in _verdict(events, events[:-1]))


def test_a_word_of_another_user_is_seen() -> None:
    violations = "\n".join(_verdict(_answer("Hello grace")))

    assert "ada was streamed something of grace" in violations
    assert "of ada holds something of grace" in violations


def test_a_word_of_another_user_in_any_answer_is_seen() -> None:
    foreign = Seen("grace", "GET /v1/files", 200, b'{"filename":"the plans of ada"}')
    own = Seen(_USER, "GET /v1/files", 200, b'{"filename":"the plans of ada"}')

    assert _verdict(_answer(), seen=[own]) == []
    assert _verdict(_answer(), seen=[own, foreign]) == ["grace was shown something of ada: 200 to GET /v1/files"]


def test_what_a_process_does_not_let_go_of_is_seen() -> None:
    at_rest = {"gateway-0": Held(30, 12), "persistence-0": Held(20, 9)}
    held = {"gateway-0": Held(46, 12), "persistence-0": Held(21, 10)}
    snapshot = Snapshot([], [], [], 0, {}, [], held_at_rest=at_rest, held=held)

    assert check(History(), snapshot) == [
        "gateway-0 holds 46 open files, and held 30",
        "persistence-0 holds 10 tasks, and held 9",
    ]
    assert check(History(), replace(snapshot, held=at_rest)) == []


def _answer(text: str = "Hello") -> list[bytes]:
    writer = ResponseEvents(
        {"id": new_wire_id(Prefix.RESPONSE), "status": "queued", "created_at": int(_NOW.timestamp()), "output": []}
    )
    events = [writer.created(), *writer.text(text), *writer.close_message()]
    return [*events, *writer.end(JobStatus.COMPLETED, ended_at=_NOW, usage=None)]


def _final(events: Sequence[bytes]) -> dict[str, Any]:
    return next(response_of(event) for event in events if is_terminal(event))


def _verdict(events: Sequence[bytes], told: Sequence[bytes] | None = None, *, seen: Sequence[Seen] = ()) -> list[str]:
    """Of a history of one message, whose journal holds `events` and whose reader was told `told`."""
    response_id, conversation_id = new_wire_id(Prefix.RESPONSE), new_wire_id(Prefix.CONVERSATION)
    said = Said(_USER, "hello", "chat", response_id=response_id, conversation_id=conversation_id, number=1)
    said.readers.append([Read(-1, list(events if told is None else told), is_done=True)])
    final = _final(events)
    job = Job(
        id=from_wire(Prefix.RESPONSE, response_id),
        user_id=_USER,
        conversation_id=from_wire(Prefix.CONVERSATION, conversation_id),
        turn=1,
        status="completed",
        attempt=1,
        response=final,
        started_at=1.0,
        ended_at=2.0,
        events=events,
        asked=["hello"],
        answered=["".join(part["text"] for item in final["output"] for part in item["content"])],
        tool_call_ids=[],
        intents=frozenset(),
    )
    snapshot = Snapshot(jobs=[job], tasks=[], keys=[], active_count=0, queues={}, stuck_sessions=[])
    return check(History([said], [_USER, "grace"], list(seen)), snapshot)
