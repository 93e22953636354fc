"""A new turn: the Response object it will be, its first events, and the one statement that accepts it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID

import asyncpg

from gateway.items import InputItem, Role
from gateway.usage import quota_spent
from shared.db import Database, Row
from shared.db.together import Together
from shared.errors import ConflictError, InvalidInputError, KeyReusedError, LimitExceededError, NotFoundError
from shared.events import Event, JsonObject, ResponseEvents
from shared.faults import reach
from shared.ids import Prefix, to_wire, uuid7

_TITLE_CHARS_MAX = 60
_RACES = {"jobs_idempotency", "approval_answers_pkey"}  # two at once that were to be one
_ACCEPT = "select * from accept_turns($1)"


class MultitaskStrategy(StrEnum):
    """What happens to a message for a conversation in which something is queued or running."""

    ENQUEUE = "enqueue"  # its turn comes when the others have ended
    REJECT = "reject"  # it is refused
    INTERRUPT = "interrupt"  # the others are stopped, then its turn comes


@dataclass(frozen=True, slots=True)
class Submission:
    """What makes two requests one.

    With the client's `key`: the key, for ever; `body_hash` must then be the same. Without: the hash, where the client's
    library says that it sends the request again (`is_retry`) and the first one's answer was not delivered
    (`docs/decisions/0006-blind-retries.md`). With neither, every request is a new one.
    """

    key: str | None = None
    body_hash: bytes | None = None
    is_retry: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn to accept. `options` are the fields of the Response object that the client chose.

    `conversation_id` null begins a conversation, which nobody is shown where the response is not stored.
    `parent_job_id` names the turn that this one follows, where it is not the conversation's last; `is_at_start`: it
    follows none, though the conversation has others. `answered_requests` are the approval requests that the items
    answer, which nobody may have answered before.
    """

    user_id: str
    items: Sequence[InputItem]
    model: str
    options: JsonObject
    conversation_id: UUID | None = None
    parent_job_id: UUID | None = None
    is_at_start: bool = False
    background: bool = False
    store: bool = True
    answered_requests: Sequence[str] = ()
    multitask_strategy: MultitaskStrategy = MultitaskStrategy.ENQUEUE
    submission: Submission = Submission()


@dataclass(frozen=True, slots=True)
class AcceptLimits:
    """What a user may have before a turn is refused; null: no limit."""

    open_jobs_max: int
    tokens_per_day_max: int | None = None
    retry_window_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Accepted:
    """An accepted turn. `events` are its stored ones so far; of a repeated submission they are not known here.

    `interrupted` are the jobs that are to be stopped for it.
    """

    job_id: UUID
    conversation_id: UUID
    user_id: str
    response: JsonObject
    events: Sequence[Event]
    is_active: bool
    is_repeat: bool
    interrupted: Sequence[UUID] = ()

    @property
    def response_id(self) -> str:
        return to_wire(Prefix.RESPONSE, self.job_id)


class Acceptance:
    """Accepts turns, those that come together in one transaction."""

    def __init__(self, database: Database, limits: AcceptLimits) -> None:
        self._database = database
        self._limits = limits
        self._together = Together(self._store, _fits)

    async def accept(self, turn: Turn) -> Accepted:
        """Store the turn, its input and its first events in one transaction, or nothing.

        A repeated submission starts nothing and gives the first one's job; a blind retry counts as one if the first
        one's job is open, or ended no longer ago than the window. Raises NotFoundError for a conversation that is not
        the user's, KeyReusedError for a known key with another body, LimitExceededError for too many open jobs or a
        day's tokens spent, ConflictError where the turn would have to wait and must not.
        """
        job_id, conversation_id = uuid7(), turn.conversation_id or uuid7()
        response = _response_object(turn, job_id, conversation_id)
        events = _first_events(response, background=turn.background)
        row = await self._row_of(self._arguments_of(turn, job_id, conversation_id, response, events))
        if row["outcome"] == "quota_spent":
            raise await quota_spent(self._database)
        _refuse(row["outcome"])
        reach("gateway.after_commit")
        return Accepted(
            job_id=row["job_id"],
            conversation_id=row["conversation_id"],
            user_id=turn.user_id,
            response=response,
            events=events if row["outcome"] == "accepted" else (),
            is_active=row["is_active"],
            is_repeat=row["outcome"] == "repeated",
            interrupted=row["interrupted"] or (),
        )

    def _arguments_of(
        self, turn: Turn, job_id: UUID, conversation_id: UUID, response: JsonObject, events: Sequence[Event]
    ) -> JsonObject:
        """As `accept_turns` takes them."""
        body_hash = turn.submission.body_hash
        return {
            "user_id": turn.user_id,
            "job_id": job_id,
            "conversation_id": conversation_id,
            "is_new_conversation": turn.conversation_id is None,
            "title": title_of(turn.items),
            "parent_job_id": turn.parent_job_id,
            "background": turn.background,
            "store": turn.store,
            "request": response,
            "items": [item.to_row(ordinal) for ordinal, item in enumerate(turn.items)],
            "frames": b"\n".join(events).decode(),
            "next_seq": len(events),
            "idempotency_key": turn.submission.key,
            "body_hash": None if body_hash is None else f"\\x{body_hash.hex()}",
            "open_jobs_max": self._limits.open_jobs_max,
            "multitask_strategy": turn.multitask_strategy,
            "retry_seconds": self._limits.retry_window_seconds if turn.submission.is_retry else None,
            "at_start": turn.is_at_start,
            "tokens_per_day_max": self._limits.tokens_per_day_max,
            "answered_requests": turn.answered_requests,
        }

    async def _row_of(self, arguments: JsonObject) -> Row:
        try:
            return await self._together.ask(arguments)
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name not in _RACES:
                raise
        # The same key, or answer, came twice at once and the other one won: now it is found.
        return await self._together.ask(arguments)

    async def _store(self, turns: Sequence[JsonObject]) -> list[Row]:
        async with self._database.connection() as connection:
            rows = {row["asked_id"]: row for row in await connection.fetch(_ACCEPT, turns)}
        return [rows[turn["job_id"]] for turn in turns]


def _fits(together: Sequence[JsonObject], turn: JsonObject) -> bool:
    """One that interrupts locks jobs, which has to be done in an order that several of them do not have."""
    # The first one stands for all: behind one that interrupts there is none.
    return not together or not (_interrupts(together[0]) or _interrupts(turn))


def _interrupts(turn: JsonObject) -> bool:
    return bool(turn["multitask_strategy"] == MultitaskStrategy.INTERRUPT)


async def find_repeated(
    database: Database, user_id: str, submission: Submission, *, retry_window_seconds: float
) -> tuple[UUID, UUID] | None:
    """The job and conversation of the submission that this one repeats, by the rules of `accept_turn`, if it does."""
    if submission.body_hash is None or not (submission.key or submission.is_retry):
        return None
    async with database.transaction(user_id) as db:
        row = await db.fetchrow(
            """
            select id, conversation_id from jobs
            where user_id = $1 and body_hash = $2 and idempotency_key is not distinct from $3
              and ($3 is not null
                   or (answered_at is null
                       and coalesce(ended_at, clock_timestamp()) > clock_timestamp() - make_interval(secs => $4)))
            order by id desc limit 1
            """,
            user_id,
            submission.body_hash,
            submission.key,
            retry_window_seconds,
        )
    return (row["id"], row["conversation_id"]) if row else None


def _refuse(outcome: str) -> None:
    match outcome:
        case "conversation_not_found":
            raise NotFoundError("not_found", "No such conversation.", param="conversation")
        case "key_reused":
            raise KeyReusedError(
                "idempotency_key_reused",
                "This Idempotency-Key was used with another request body; use a new key for a new request.",
                param="Idempotency-Key",
            )
        case "conversation_locked":
            raise ConflictError(
                "conversation_locked",
                "Another response of this conversation is still queued or running.",
                param="multitask_strategy",
            )
        case "too_many_open":
            raise LimitExceededError(
                "too_many_open_responses",
                "Too many of your responses are still queued or running; wait for one to end, or cancel one.",
                retry_after_seconds=5,
            )
        case "already_answered":
            message = "An approval request of this input was answered before."
            raise InvalidInputError("already_answered", message, param="input")


def _first_events(response: JsonObject, *, background: bool) -> list[Event]:
    writer = ResponseEvents(response)
    return [writer.created(), writer.queued()] if background else [writer.created()]


def title_of(items: Sequence[InputItem]) -> str:
    """The beginning of the first thing the user said, cut between words."""
    said = next((item.content for item in items if item.role == Role.USER and item.content), "")
    text = " ".join(said.split())
    if len(text) <= _TITLE_CHARS_MAX:
        return text
    return text[:_TITLE_CHARS_MAX].rsplit(" ", 1)[0] + "…"


def _response_object(turn: Turn, job_id: UUID, conversation_id: UUID) -> JsonObject:
    """The Response object of a turn that has just been accepted: every field that clients of any kind require."""
    is_shown = turn.store or turn.conversation_id is not None
    return {
        "id": to_wire(Prefix.RESPONSE, job_id),
        "object": "response",
        "created_at": int(datetime.now(UTC).timestamp()),
        "status": "queued",
        "background": turn.background,
        "completed_at": None,
        "conversation": {"id": to_wire(Prefix.CONVERSATION, conversation_id)} if is_shown else None,
        "error": None,
        "frequency_penalty": 0.0,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "model": turn.model,
        "output": [],
        "parallel_tool_calls": True,
        "presence_penalty": 0.0,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": turn.store,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
        **turn.options,
    }
