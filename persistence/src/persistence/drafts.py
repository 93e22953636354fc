"""What a batch of messages makes of a job: decided here on what was read, and written afterwards by `writer`.

A `Draft` is a job row under lock. The messages of a batch are applied to it in order; nothing here touches a database,
and applying the same message twice changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import assert_never
from uuid import UUID

import msgspec

from persistence.outcomes import Outcome, outcome_of
from shared.contracts import CancelRequested, JobReleased, JournalChunk
from shared.errors import InvalidInputError
from shared.events import (
    TERMINAL_EVENT_TYPES,
    Event,
    Failure,
    JsonObject,
    ResponseEvents,
    Usage,
    is_terminal,
    response_of,
    type_of,
)
from shared.faults import sabotaged
from shared.ids import Prefix, new_wire_id, to_wire
from shared.observability import get_logger
from shared.states import JobStatus, may_move

log = get_logger()

_EVENT_START = b'{"type":"'
_WITH_RESPONSE = {"response.created", "response.queued", "response.in_progress", *TERMINAL_EVENT_TYPES}
_DELAY_SECONDS_MAX = 3_600.0
_NOBODY = 0  # as the fence: attempts are numbered from 1
_NUMBER_WITHIN = 128  # bytes; the number follows the type, and types are short


class Place(StrEnum):
    """Where a chunk stands to the journal of its job."""

    NEXT = "next"  # it holds the next number: stored, cut where it overlaps
    KNOWN = "known"  # all its numbers are stored: a repeat
    FENCED = "fenced"  # not of the attempt whose events are stored, or the job ended
    AHEAD = "ahead"  # events before it are missing: they are lost


@dataclass(frozen=True, slots=True)
class AttemptsSpent:
    """Maintenance to the writer: end this job where it still waits, for no worker survives it."""

    job_id: UUID
    conversation_id: UUID


@dataclass(frozen=True, slots=True)
class GivenUp:
    """From an operator to the writer: fail this job, whoever has it; `reason` is what its user reads."""

    job_id: UUID
    conversation_id: UUID
    reason: str


@dataclass(frozen=True, slots=True)
class Undelivered:
    """To the writer: the broker threw out the message that this job may run; let another one be sent."""

    job_id: UUID
    conversation_id: UUID


@dataclass(frozen=True, slots=True)
class LostChunk:
    """To the writer: this chunk will never be stored."""

    chunk: JournalChunk

    @property
    def job_id(self) -> UUID:
        return self.chunk.job_id

    @property
    def conversation_id(self) -> UUID:
        return self.chunk.conversation_id


@dataclass(slots=True)
class Draft:
    """A job row under lock, and what becomes of it.

    `stored`, `request`, `calls` and `usage` are read only where a message of the batch may need the response rebuilt.
    `calls` are the tool calls that the ledger says were begun, in order: {server_label, name, arguments,
    approval_request_id}; `usage` is that of its model rounds.
    """

    job_id: UUID
    conversation_id: UUID
    user_id: str
    turn: int
    status: JobStatus
    attempt: int
    journal_attempt: int
    next_seq: int
    input_item_count: int
    is_cancel_requested: bool
    request: JsonObject | None = None
    stored: Sequence[Event] = ()
    calls: Sequence[JsonObject] = ()
    usage: Usage | None = None

    events: list[Event] = field(default_factory=list)
    is_fence_moved: bool = False
    run_again_after_seconds: float | None = None
    run_again_cause: str = ""
    outcome: Outcome | None = None

    @property
    def first_new_seq(self) -> int:
        return self.next_seq - len(self.events)

    def append(self, events: Sequence[Event]) -> None:
        self.events.extend(events)
        self.next_seq += len(events)

    def end(self, outcome: Outcome) -> None:
        self._move(outcome.status)
        self.outcome = outcome
        self.run_again_after_seconds = None

    def run_again(self, after_seconds: float, cause: str) -> None:
        """`cause`: one of few words, to count by."""
        if self.status is not JobStatus.QUEUED:
            self._move(JobStatus.QUEUED)
        self.run_again_after_seconds = after_seconds
        self.run_again_cause = cause

    def move_fence(self, attempt: int) -> None:
        self.journal_attempt = attempt
        self.is_fence_moved = True

    def rebuild(self) -> ResponseEvents:
        """The response as far as its events are stored, or will be with this batch."""
        assert self.request is not None, "the batch that needs it reads it"
        response = ResponseEvents(self.request)
        response.replay([*self.stored, *self.events])
        return response

    def end_here(self, status: JobStatus, failure: Failure | None = None) -> None:
        """End the job without a worker. A call that its attempts began and never told of may have had its effect."""
        response = self.rebuild()
        events = response.cut_mcp_call()
        told_count = sum(item["type"] == "mcp_call" for item in response.output)
        for call in self.calls[told_count:]:
            events += response.abandon()  # what was said before the call, and may have come here in part only
            events += response.open_mcp_call(new_wire_id(Prefix.MCP_CALL), **call)
            events += response.cut_mcp_call()
        events += response.end(status, ended_at=datetime.now(UTC), usage=self.usage, failure=failure)
        self.append(events)
        self.end(outcome_of(events[-1], status))

    def _move(self, new: JobStatus) -> None:
        assert may_move(self.status, new) or sabotaged("write_once"), f"{self.status} to {new}"
        self.status = new


def take_chunk(draft: Draft, chunk: JournalChunk) -> str:
    """Append `chunk` if it continues its job's journal; a repeat, or an older attempt's, changes nothing.

    Returns its place, or `unsound` for one that cannot be stored where it stands; to count by.
    """
    place = place_of(chunk, draft)
    match place:
        case Place.NEXT:
            return place.value if _append(draft, chunk) else "unsound"
        case Place.KNOWN:
            log.debug("chunk_known", **_ids(draft), chunk_attempt=chunk.attempt, first_seq=chunk.first_seq)
        case Place.FENCED:
            log.warning("chunk_fenced", **_ids(draft), chunk_attempt=chunk.attempt, first_seq=chunk.first_seq)
        case Place.AHEAD:
            log.warning("chunk_ahead", **_ids(draft), chunk_attempt=chunk.attempt, first_seq=chunk.first_seq)
            _fence_and_rerun(draft, chunk, "chunk_ahead")
        case _ as unreachable:
            assert_never(unreachable)
    return place.value


def outcome_of_sound(chunk: JournalChunk) -> Outcome | None:
    """How the job ends with `chunk`, wherever that holds the next number; None: it goes on.

    Raises InvalidInputError for one that cannot be stored, whole.
    """
    if not chunk.events:
        raise InvalidInputError("bad_event", "expected an event")
    return _outcome_of([bytes(event) for event in chunk.events], chunk.first_seq, chunk)


def lose_chunk(draft: Draft, lost: LostChunk) -> None:
    """Run the job again if `lost` would have continued its journal, now or later."""
    if place_of(lost.chunk, draft) in (Place.NEXT, Place.AHEAD):
        log.warning("chunk_lost", **_ids(draft), chunk_attempt=lost.chunk.attempt, first_seq=lost.chunk.first_seq)
        _fence_and_rerun(draft, lost.chunk, "chunk_lost")


def place_of(chunk: JournalChunk, draft: Draft) -> Place:
    if chunk.next_seq <= draft.next_seq:
        return Place.KNOWN
    is_current = chunk.attempt == draft.journal_attempt and chunk.attempt <= draft.attempt
    is_current = is_current or sabotaged("journal_fence")
    is_over = draft.status.is_terminal and not sabotaged("write_once")
    if is_over or not is_current:
        return Place.FENCED
    return Place.NEXT if chunk.first_seq <= draft.next_seq else Place.AHEAD


def release(draft: Draft, message: JobReleased) -> None:
    """Let the job wait for its next attempt; one whose cancel came meanwhile ends instead."""
    if draft.status is not JobStatus.IN_PROGRESS or message.attempt != draft.attempt:
        log.debug("release_ignored", **_ids(draft), released_attempt=message.attempt)
        return
    delay_seconds = min(max(message.delay_seconds, 0.0), _DELAY_SECONDS_MAX)
    draft.run_again(delay_seconds, "released")
    cause = message.reason.type if message.reason else None
    log.info("job_released", **_ids(draft), delay_seconds=delay_seconds, cause=cause)
    if draft.is_cancel_requested:
        draft.end_here(JobStatus.CANCELLED)


def cancel(draft: Draft, _message: CancelRequested) -> None:
    """End a cancelled job that no worker runs; a running one is ended by its worker."""
    if draft.status is JobStatus.QUEUED and draft.is_cancel_requested:
        draft.end_here(JobStatus.CANCELLED)
    elif not draft.is_cancel_requested:
        log.warning("cancel_without_request", **_ids(draft))


def give_up(draft: Draft, _message: AttemptsSpent) -> None:
    if draft.status is JobStatus.QUEUED:
        message = "The answer could not be produced: every attempt was interrupted. Please try again."
        draft.end_here(JobStatus.FAILED, Failure("attempts_exhausted", message))


def end_by_operator(draft: Draft, message: GivenUp) -> None:
    """A worker that has the job finds its lease gone, and what it still sends is fenced."""
    if not draft.status.is_terminal:
        draft.end_here(JobStatus.FAILED, Failure("ended_by_operator", message.reason))


def deliver_again(draft: Draft, _message: Undelivered) -> None:
    """Let a job that still waits be published; one that a worker has, its lease looks after."""
    if draft.status is JobStatus.QUEUED:
        draft.run_again(0.0, "undelivered")


def _append(draft: Draft, chunk: JournalChunk) -> bool:
    """Whether it can be stored."""
    events = [bytes(event) for event in chunk.events[draft.next_seq - chunk.first_seq :]]
    try:
        outcome = _outcome_of(events, draft.next_seq, chunk)
    except InvalidInputError as error:
        # What cannot be stored is lost; its neighbours in the message are not.
        log.warning("chunk_unsound", **_ids(draft), first_seq=chunk.first_seq, cause=error.message)
        _fence_and_rerun(draft, chunk, "chunk_unsound")
        return False
    draft.append(events)
    if outcome:
        draft.end(outcome)
    return True


def _outcome_of(events: Sequence[Event], first_seq: int, chunk: JournalChunk) -> Outcome | None:
    _check_events(events, first_seq, chunk.job_id)
    if chunk.ended_as is not None:
        return outcome_of(events[-1], chunk.ended_as)
    if is_terminal(events[-1]):
        raise InvalidInputError("bad_event", "the terminal event came without an end state")
    return None


def _fence_and_rerun(draft: Draft, chunk: JournalChunk, cause: str) -> None:
    if chunk.attempt < draft.attempt:
        return  # the next attempt runs already: its barrier closes what the lost events left open
    # Not yet the next attempt's: its barrier, which closes what is left open, knows by this that it comes first.
    draft.move_fence(_NOBODY)
    draft.run_again(0.0, cause)


def _check_events(events: Sequence[Event], first_seq: int, job_id: UUID) -> None:
    """Raises InvalidInputError unless the job's events from there are these, each on one line, and of its response."""
    for number, event in enumerate(events, first_seq):
        has_number = event.find(b'"sequence_number":%d,' % number, 0, _NUMBER_WITHIN) > 0
        if not has_number or not event.startswith(_EVENT_START) or b"\n" in event or b"\r" in event:
            raise InvalidInputError("bad_event", f"expected event {number}")
        if not _is_text(event):
            raise InvalidInputError("bad_event", f"event {number} is no text")
        if type_of(event) in _WITH_RESPONSE and _response_id(event) != to_wire(Prefix.RESPONSE, job_id):
            raise InvalidInputError("bad_event", f"event {number} tells of another response")


def _is_text(event: Event) -> bool:
    """What the decoder of messages passes over, as it does not look into events."""
    try:
        event.decode()
    except UnicodeDecodeError:
        return False
    return True


def _response_id(event: Event) -> object:
    try:
        return response_of(event)["id"]
    except (KeyError, TypeError, ValueError, msgspec.MsgspecError):
        return None


def _ids(draft: Draft) -> dict[str, str | int]:
    return {"job_id": str(draft.job_id), "attempt": draft.attempt, "next_seq": draft.next_seq}
