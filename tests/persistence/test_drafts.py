"""Where chunks are placed, and what comes of them whatever the network does: without a database."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persistence.drafts import Draft, Place, place_of, take_chunk
from shared.contracts import JournalChunk, raw_events
from shared.events import Event, ResponseEvents
from shared.ids import Prefix, to_wire, uuid7
from shared.states import JobStatus

_JOB, _CONVERSATION = uuid7(), uuid7()
_REQUEST = {"id": to_wire(Prefix.RESPONSE, _JOB), "status": "queued", "created_at": 0, "output": []}


@pytest.mark.parametrize(
    ("attempt", "first_seq", "count", "expected"),
    [
        (2, 10, 3, Place.NEXT),
        (2, 8, 3, Place.NEXT),
        (2, 8, 2, Place.KNOWN),
        (1, 8, 2, Place.KNOWN),
        (2, 11, 1, Place.AHEAD),
        (1, 10, 1, Place.FENCED),
        (1, 20, 1, Place.FENCED),
        (3, 10, 1, Place.FENCED),
    ],
)
def test_a_chunk_has_its_place(attempt: int, first_seq: int, count: int, expected: Place) -> None:
    chunk = a_chunk([b"{}"] * count, first_seq=first_seq, attempt=attempt)

    assert place_of(chunk, a_draft(next_seq=10, attempt=2)) is expected


@pytest.mark.parametrize("status", [status for status in JobStatus if status.is_terminal])
def test_an_ended_job_takes_nothing_more(status: JobStatus) -> None:
    chunk = a_chunk([b"{}"], first_seq=10, attempt=2)

    assert place_of(chunk, a_draft(next_seq=10, attempt=2, status=status)) is Place.FENCED


def test_an_attempt_that_was_never_claimed_is_fenced() -> None:
    chunk = a_chunk([b"{}"], first_seq=1, attempt=1)

    assert place_of(chunk, a_draft(next_seq=1, attempt=0, status=JobStatus.QUEUED)) is Place.FENCED


@settings(deadline=None)  # a slow machine is no failure
@given(
    cuts=st.sets(st.integers(1, 20), max_size=8),
    order=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2)), max_size=40),
)
def test_any_order_of_any_chunks_gives_a_prefix_of_what_was_sent(cuts: set[int], order: list[tuple[int, int]]) -> None:
    events = a_turn()
    bounds = [0, *sorted(cut for cut in cuts if cut < len(events)), len(events)]
    draft = a_draft(next_seq=1, attempt=1)

    for start, width in order:
        first, last = min(start, len(bounds) - 2), min(start + 1 + width, len(bounds) - 1)
        part = events[bounds[first] : bounds[last]]
        ended_as = JobStatus.COMPLETED if bounds[last] == len(events) else None
        take_chunk(draft, a_chunk(part, first_seq=1 + bounds[first], attempt=1, ended_as=ended_as))

    assert draft.events == events[: len(draft.events)]
    assert draft.next_seq == 1 + len(draft.events)
    assert (draft.outcome is not None) == (draft.events == events)


def a_turn() -> list[Event]:
    response = ResponseEvents(_REQUEST, next_seq=1)
    events = [response.in_progress()]
    for word in range(10):
        events += response.text(f"word {word} ")
    events += response.close_message()
    return events + response.end(JobStatus.COMPLETED, ended_at=datetime.now(UTC), usage=None)


def a_chunk(events: list[Event], *, first_seq: int, attempt: int, ended_as: JobStatus | None = None) -> JournalChunk:
    return JournalChunk(
        job_id=_JOB,
        conversation_id=_CONVERSATION,
        attempt=attempt,
        first_seq=first_seq,
        events=raw_events(events),
        ended_as=ended_as,
    )


def a_draft(*, next_seq: int, attempt: int, status: JobStatus = JobStatus.IN_PROGRESS) -> Draft:
    return Draft(
        job_id=_JOB,
        conversation_id=_CONVERSATION,
        user_id="alice",
        turn=1,
        status=status,
        attempt=attempt,
        journal_attempt=max(attempt, 1),
        next_seq=next_seq,
        input_item_count=1,
        is_cancel_requested=False,
    )
