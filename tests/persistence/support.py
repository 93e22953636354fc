"""Stand-ins for the services around persistence: an accepted message, a worker's attempt, a broker that remembers."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from msgspec import to_builtins

from persistence.writer import Incoming, Written, write
from shared import contracts
from shared.contracts import JobReady, JournalChunk, JournalChunks, LiveBatch, LiveEvents, ResumeReply, ResumeRequest
from shared.db import Database
from shared.errors import BrokerUnavailableError
from shared.events import Event, Failure, JsonObject, ResponseEvents, Usage
from shared.ids import Prefix, new_wire_id, to_wire, uuid7
from shared.messaging import JOBS, Broker, Publisher
from shared.states import JobStatus
from tests.support.owner import value_as_owner

REPLY_QUEUE = "chat.control.worker-1"


@dataclass(frozen=True)
class Job:
    """An accepted message: what the gateway stored."""

    id: UUID
    conversation_id: UUID
    user_id: str
    request: JsonObject
    is_active: bool


@dataclass
class Services:
    """The database as persistence, the gateway and the worker may use it."""

    persistence: Database
    gateway: Database
    worker: Database
    owner_url: str

    async def accept(self, *, conversation_id: UUID | None = None, user_id: str = "alice") -> Job:
        """A message comes in, to a new conversation unless one is given."""
        job_id, conversation = uuid7(), conversation_id or uuid7()
        request = {
            "id": to_wire(Prefix.RESPONSE, job_id),
            "object": "response",
            "created_at": 1,
            "conversation": {"id": to_wire(Prefix.CONVERSATION, conversation)},
            "status": "queued",
            "output": [],
        }
        item = {"id": uuid7(), "ordinal": 0, "kind": "message", "role": "user", "content": "hello", "parts": []}
        created = ResponseEvents(request).created().decode()
        async with self.gateway.transaction(user_id) as connection:
            row = await connection.fetchrow(
                """
                select * from accept_turn($1, $2, $3, $4, 'title', '{}', null, false, true, $5, $6, $7, 1, null, null,
                                          999)
                """,
                user_id,
                job_id,
                conversation,
                conversation_id is None,
                request,
                [item],
                created,
            )
        assert row["outcome"] == "accepted"
        return Job(job_id, conversation, user_id, request, row["is_active"])

    async def claim(self, job: Job, *, is_redelivery: bool = False) -> "Attempt":
        """A worker takes the job."""
        async with self.worker.transaction(job.user_id) as connection:
            row = await connection.fetchrow(
                """
                select * from claim_job($1, $2, 'worker-1', 30, case
                    when $3 then (select delivery_id from jobs where id = $2) else gen_random_uuid()::text end)
                """,
                job.user_id,
                job.id,
                is_redelivery,
            )
        assert row, "the job cannot be claimed"
        return Attempt(job, row["attempt"], ResponseEvents(job.request, next_seq=row["next_seq"]))

    async def request_cancel(self, job: Job) -> contracts.CancelRequested:
        async with self.gateway.transaction(job.user_id) as connection:
            await connection.execute("update jobs set cancel_requested_at = clock_timestamp() where id = $1", job.id)
        return contracts.CancelRequested(job_id=job.id, conversation_id=job.conversation_id)

    async def write(self, *messages: Any) -> Written:
        """One batch of `messages`; bare chunks are wrapped, barriers get a reply queue."""
        batch: Sequence[Incoming] = [incoming(message) for message in messages]
        parts = []
        while batch:
            written, batch = await write(self.persistence, batch)
            parts.append(written)
        return _whole_of(parts)

    async def job_row(self, job: Job) -> Any:
        async with self.persistence.transaction(None) as connection:
            return await connection.fetchrow("select * from jobs where id = $1", job.id)

    async def rows(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        async with self.persistence.transaction(None) as connection:
            rows: list[asyncpg.Record] = await connection.fetch(query, *arguments)
            return rows

    async def change(self, job: Job, assignment: str) -> None:
        """Set columns of the job's row, as time or a fault would."""
        await value_as_owner(self.owner_url, f"update jobs set {assignment} where id = $1", job.id)  # noqa: S608

    async def journal(self, job: Job) -> list[Event]:
        """The stored events; asserts that they are numbered without a gap from 0."""
        rows = await self.rows("select * from journal where job_id = $1 order by first_seq", job.id)
        events = [event for row in rows for event in row["frames"].encode().split(b"\n")]
        assert [msgspec.json.decode(event)["sequence_number"] for event in events] == list(range(len(events)))
        assert [(row["first_seq"], row["last_seq"]) for row in rows] == _spans(rows)
        return events

    async def record_call(self, attempt: "Attempt", name: str, usage: Usage | None = None) -> None:
        """The worker's intent to make a tool call, as its ledger has it."""
        async with self.worker.transaction(attempt.job.user_id) as connection:
            await connection.executemany(
                "insert into steps (job_id, step, kind, user_id, attempt, data) values ($1, 0, $2, $3, $4, $5)",
                [
                    (attempt.job.id, kind, attempt.job.user_id, attempt.number, data)
                    for kind, data in (
                        ("model", {"calls": [{"name": name, "arguments": "{}"}], "usage": to_builtins(usage)}),
                        ("tool_intent", {"server_label": "tasks"}),
                    )
                ],
            )

    async def active_job(self, job: Job) -> UUID | None:
        rows = await self.rows("select active_job_id from conversations where id = $1", job.conversation_id)
        active_job_id: UUID | None = rows[0]["active_job_id"]
        return active_job_id


@dataclass
class Attempt:
    """A worker's attempt at a job: makes the chunks it would publish."""

    job: Job
    number: int
    events: ResponseEvents

    def chunk(self, events: Sequence[Event], ended_as: JobStatus | None = None) -> JournalChunk:
        return JournalChunk(
            job_id=self.job.id,
            conversation_id=self.job.conversation_id,
            attempt=self.number,
            first_seq=msgspec.json.decode(events[0])["sequence_number"],
            events=contracts.raw_events(list(events)),
            ended_as=ended_as,
        )

    def begins(self) -> JournalChunk:
        return self.chunk([self.events.in_progress()])

    def says(self, text: str) -> JournalChunk:
        return self.chunk(self.events.text(text))

    def calls_tool(self, name: str) -> JournalChunk:
        opened = self.events.open_mcp_call(new_wire_id(Prefix.MCP_CALL), "tasks", name, '{"title":"milk"}')
        return self.chunk([*opened, *self.events.close_mcp_call('{"id":"task_1"}', None, 42)])

    def opens_tool(self, name: str) -> JournalChunk:
        return self.chunk(self.events.open_mcp_call(new_wire_id(Prefix.MCP_CALL), "tasks", name, "{}"))

    def ends(
        self,
        status: JobStatus = JobStatus.COMPLETED,
        failure: Failure | None = None,
        usage: Usage | None = None,
    ) -> JournalChunk:
        events = self.events.close_message()
        events += self.events.end(status, ended_at=datetime.now(UTC), usage=usage, failure=failure)
        return self.chunk(events, status)

    def asks_to_resume(self) -> ResumeRequest:
        return ResumeRequest(job_id=self.job.id, conversation_id=self.job.conversation_id, attempt=self.number)

    def goes_on(self, reply: ResumeReply) -> None:
        assert reply.granted
        self.events = ResponseEvents(
            self.job.request,
            next_seq=reply.next_seq,
            next_output_index=reply.next_output_index,
            output=reply.output,
        )

    def is_released(self, delay_seconds: float) -> contracts.JobReleased:
        return contracts.JobReleased(
            job_id=self.job.id,
            conversation_id=self.job.conversation_id,
            attempt=self.number,
            delay_seconds=delay_seconds,
        )


@dataclass
class Told:
    """What a `RecordingPublisher` was given to publish."""

    ready: list[JobReady] = field(default_factory=list)
    live: list[LiveEvents] = field(default_factory=list)
    replies: list[ResumeReply] = field(default_factory=list)

    @property
    def ready_jobs(self) -> list[UUID]:
        return [message.job_id for message in self.ready]


class RecordingPublisher(Publisher):
    """A publisher without a broker: everything is confirmed, unless it is cut off."""

    def __init__(self) -> None:
        super().__init__(Broker("amqp://nowhere", "test"))
        self.told = Told()
        self.jobs_in_queue = 0
        self.is_cut_off = False

    @property
    def is_up(self) -> bool:
        return not self.is_cut_off

    async def send(self, queue: str, message: contracts.Message, *, reply_to: str | None = None) -> None:
        assert (queue, reply_to) == (JOBS, None)
        assert isinstance(message, JobReady)
        if self.is_cut_off:
            raise BrokerUnavailableError("broker_unavailable", "cut off")
        self.told.ready.append(message)

    async def tell(self, exchange: str, message: contracts.Message) -> None:
        assert exchange == "chat.live"
        assert isinstance(message, LiveBatch)
        self.told.live += message.jobs

    async def reply(self, queue: str, message: contracts.Message) -> None:
        assert queue == REPLY_QUEUE
        assert isinstance(message, ResumeReply)
        self.told.replies.append(message)

    async def queue_length(self, queue: str) -> int:
        assert queue == JOBS
        return self.jobs_in_queue


def incoming(message: Any) -> Incoming:
    if isinstance(message, JournalChunk):
        return Incoming(JournalChunks(chunks=[message]))
    return Incoming(message, REPLY_QUEUE if isinstance(message, ResumeRequest) else None)


def all_events(*chunks: JournalChunk) -> list[Event]:
    return [bytes(event) for chunk in chunks for event in chunk.events]


def _spans(rows: Sequence[asyncpg.Record]) -> list[tuple[int, int]]:
    spans, first = [], 0
    for row in rows:
        count = row["frames"].count("\n") + 1
        spans.append((first, first + count - 1))
        first += count
    return spans


def _whole_of(parts: Sequence[Written]) -> Written:
    """What several transactions wrote, as if it had been one."""
    whole = Written()
    for part in parts:
        for told in fields(part):
            before, more = getattr(whole, told.name), getattr(part, told.name)
            setattr(whole, told.name, before or more if isinstance(more, bool) else before + more)
    return whole
