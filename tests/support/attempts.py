"""A chat worker's attempts on a real Postgres, with a scripted model and tools, and a broker that remembers."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from chat_worker.agent.loop import TurnLimits
from chat_worker.agent.prompt import PromptLimits
from chat_worker.agent.selection import ToolSelection
from chat_worker.agent.values import (
    Finish,
    JsonObject,
    Model,
    ModelRequest,
    ModelRound,
    ReasoningDelta,
    TextDelta,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
)
from chat_worker.history import HistoryLimits
from chat_worker.leases import Leases
from chat_worker.outgoing import Outgoing, OutgoingLimits
from chat_worker.runner import Runner, RunnerLimits, Verdict, Worker
from gateway.items import InputItem
from gateway.turns import Acceptance, Accepted, AcceptLimits, Turn
from persistence.writer import Incoming, write_batch
from shared.agents import Agent
from shared.contracts import JobReady, JobReleased, JournalChunk, JournalChunks, ResumeReply, decode, raw_events
from shared.db import Database
from shared.errors import BrokerUnavailableError
from shared.events import ResponseEvents, response_of, type_of
from shared.ids import uuid7
from shared.states import JobStatus
from tests.support.turns import Turns

USER = "user-1"
ADD_TASK = Tool("tasks", "add_task", "Add a task.", {"type": "object"}, idempotent=True)
SEND_MAIL = Tool("tasks", "send_mail", "Send a mail.", {"type": "object"})
PARTITION_COUNT = 2

Round: TypeAlias = Sequence[ReasoningDelta | TextDelta | ModelRound | Exception | Callable[[], Awaitable[None]]]


def says(*texts: str) -> Round:
    """A round that answers."""
    return [*map(TextDelta, texts), ModelRound(0, "".join(texts), (), Finish.STOP, Usage(10, 5))]


def asks(*calls: ToolCall, text: str = "", reasoning: str = "") -> Round:
    """A round that asks for tools."""
    thought = [ReasoningDelta(reasoning)] if reasoning else []
    said = [TextDelta(text)] if text else []
    return [*thought, *said, ModelRound(0, text, calls, Finish.TOOL_CALLS, Usage(10, 5), reasoning)]


class ScriptedModel:
    """Plays round n of its script to a request that holds the results of n rounds. A function there is awaited."""

    def __init__(self, *rounds: Round) -> None:
        self.rounds = list(rounds)
        self.requests: list[ModelRequest] = []

    async def round(self, request: ModelRequest) -> AsyncGenerator[ReasoningDelta | TextDelta | ModelRound, None]:
        self.requests.append(request)
        roles = [message["role"] for message in request.messages]
        of_turn = roles[len(roles) - roles[::-1].index("user") :]
        for part in self.rounds[of_turn.count("assistant")]:
            if isinstance(part, Exception):
                raise part
            if isinstance(part, ReasoningDelta | TextDelta | ModelRound):
                yield part
            else:
                await part()


class ScriptedTools:
    """Tools of one user whose calls all succeed, and are remembered; `before` is awaited in each."""

    def __init__(self, *tools: Tool) -> None:
        self.tools = tools or (ADD_TASK,)
        self.made: list[tuple[str, JsonObject, str]] = []
        self.users: list[str] = []
        self.before: Callable[[], Awaitable[None]] | None = None

    def for_user(self, user_id: str) -> "ScriptedTools":
        self.users.append(user_id)
        return self

    def labels_for(self, agent: Agent) -> Collection[str]:
        return agent.server_labels

    async def list(self, selection: ToolSelection | None = None) -> Sequence[Tool]:
        return [tool for tool in self.tools if selection is None or tool.server_label in selection.servers]

    async def call(self, tool: Tool, arguments: JsonObject, *, key: str) -> ToolResult:
        if self.before is not None:
            await self.before()
        self.made.append((tool.name, arguments, key))
        return ToolResult(f'{{"number":{len(self.made)}}}', duration_ms=len(self.made))


@dataclass
class Journal:
    """The broker and persistence in memory: keeps what is sent, in order, and answers where an attempt goes on.

    After `message_count_max` messages it confirms nothing more and stores nothing more, as if the worker had died
    before it could send them. `failures` are raised before that, one per message.
    """

    message_count_max: int | None = None
    failures: list[BrokerUnavailableError] = field(default_factory=list)
    requests: dict[UUID, JsonObject] = field(default_factory=dict)
    events: dict[UUID, list[bytes]] = field(default_factory=dict)
    ends: dict[UUID, str] = field(default_factory=dict)
    released: list[JobReleased] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def accepted(self, job: Accepted) -> None:
        self.requests[job.job_id] = job.response
        self.events[job.job_id] = list(job.events)

    async def send(self, _queue: str, body: bytes) -> None:
        if self.message_count_max is not None and len(self.bodies) >= self.message_count_max:
            await forever()
        if self.failures:
            raise self.failures.pop(0)
        self.bodies.append(body)
        match decode(body):
            case JournalChunks(chunks=chunks):
                for chunk in chunks:
                    self._store(chunk)
            case JobReleased() as released:
                self.released.append(released)

    def _store(self, chunk: JournalChunk) -> None:
        stored = self.events[chunk.job_id]
        assert chunk.first_seq == len(stored), "a gap, or a repetition"
        stored.extend(bytes(event) for event in chunk.events)
        if chunk.ended_as is not None:
            self.ends[chunk.job_id] = chunk.ended_as.value

    async def ask_to_resume(self, job_id: UUID, _conversation_id: UUID, attempt: int) -> ResumeReply:
        response = ResponseEvents(self.requests[job_id])
        response.replay(self.events[job_id])
        self.events[job_id] += response.abandon()
        return ResumeReply(
            job_id=job_id,
            attempt=attempt,
            granted=job_id not in self.ends,
            next_seq=response.next_seq,
            next_output_index=response.next_output_index,
            output=response.output,
        )

    def types(self, job: Accepted) -> list[str]:
        return [type_of(event) for event in self.events[job.job_id]]

    def text(self, job: Accepted) -> str:
        decoded = [msgspec.json.decode(event) for event in self.events[job.job_id]]
        return "".join(event["delta"] for event in decoded if event["type"] == "response.output_text.delta")

    def response(self, job: Accepted) -> JsonObject:
        """The Response object of the terminal event."""
        assert job.job_id in self.ends, "the job has not ended"
        return response_of(self.events[job.job_id][-1])


RUNNER_LIMITS = RunnerLimits(
    claim_seconds_max=5,
    turn_seconds_max=20,
    flush_seconds_max=20,
    attempts_max=3,
    release_delays_seconds=(1.0, 5.0),
    release_delay_seconds_max=60,
    history=HistoryLimits(turn_count_max=100, bytes_max=100_000, output_bytes_max=4_000),
)


@dataclass
class Bench:
    """Workers on one journal, and jobs for them. Each put of an attempt is a message, so a test can cut anywhere."""

    turns: Turns
    database: Database
    journal: Journal
    leases: Leases
    outgoing: Outgoing
    sender: asyncio.Task[None]
    deliveries: dict[UUID, str] = field(default_factory=dict)  # the latest of each job

    @classmethod
    def open(cls, gateway: Database, worker: Database, persistence: Database, owner_url: str) -> "Bench":
        journal = Journal()
        outgoing, sender = _sending(journal)
        leases = Leases(worker, f"worker-{uuid7().hex}", 30.0)
        return cls(Turns(gateway, persistence, owner_url), worker, journal, leases, outgoing, sender)

    async def close(self) -> None:
        self.sender.cancel()
        await asyncio.gather(self.sender, return_exceptions=True)

    async def job(self, text: str = "hello", conversation_id: UUID | None = None) -> Accepted:
        job = await self.turns.ask(USER, text, conversation_id)
        self.journal.accepted(job)
        return job

    async def accept(
        self,
        *items: JsonObject,
        conversation_id: UUID | None = None,
        parent: Accepted | None = None,
        agent: str = "todo",
        **options: Any,
    ) -> Accepted:
        """A turn of wire items, with fields of the Response object."""
        parsed = [_input_item(item) for item in items]
        parent_id = None if parent is None else parent.job_id
        turn = Turn(USER, parsed, agent, options, conversation_id=conversation_id, parent_job_id=parent_id)
        job = await Acceptance(self.turns.gateway, AcceptLimits(open_jobs_max=1_000)).accept(turn)
        self.journal.accepted(job)
        return job

    async def write_back(self, job: Accepted) -> None:
        """Store the end of a job that one attempt ran whole, as persistence does."""
        events = self.journal.events[job.job_id][len(job.events) :]
        chunk = JournalChunk(
            job_id=job.job_id,
            conversation_id=job.conversation_id,
            attempt=1,
            first_seq=len(job.events),
            events=raw_events(events),
            ended_as=JobStatus(self.journal.ends[job.job_id]),
        )
        async with self.turns.persistence.transaction(None) as db:
            await write_batch(db, [Incoming(JournalChunks(chunks=[chunk]))])

    async def run(  # noqa: PLR0913 - what a test varies
        self,
        job: Accepted,
        model: Model,
        tools: ScriptedTools | None = None,
        *,
        is_redelivery: bool = False,
        limits: RunnerLimits = RUNNER_LIMITS,
        turn_limits: TurnLimits | None = None,
    ) -> Verdict:
        runner = self.runner(model, tools, limits=limits, turn_limits=turn_limits)
        if not is_redelivery:
            self.deliveries[job.job_id] = uuid7().hex
        return await runner.run(self.ready(job), delivery_id=self.deliveries[job.job_id])

    def runner(
        self,
        model: Model,
        tools: ScriptedTools | None = None,
        *,
        limits: RunnerLimits = RUNNER_LIMITS,
        turn_limits: TurnLimits | None = None,
        database: Database | None = None,
    ) -> Runner:
        return Runner(
            Worker(
                database=database or self.database,
                leases=self.leases,
                outgoing=self.outgoing,
                resumer=self.journal,
                model=model,
                tools=tools or ScriptedTools(),
                limits=limits,
                turn_limits=turn_limits or TurnLimits(retry_delays_seconds=()),
                prompt_limits=PromptLimits(),
            )
        )

    def ready(self, job: Accepted) -> JobReady:
        return JobReady(job_id=job.job_id, conversation_id=job.conversation_id, user_id=USER)

    async def kill(self, attempt: asyncio.Task[Verdict]) -> None:
        """End the attempt as the death of its process does: nothing that waited is sent; then a new process starts."""
        attempt.cancel()
        await asyncio.gather(attempt, return_exceptions=True)
        await self.close()
        self.journal.message_count_max = None
        self.outgoing, self.sender = _sending(self.journal)

    async def in_database(self, statement: str, job: Accepted) -> Any:
        """What `statement` gives for the job ($1), as the owner."""
        return await self.turns.change(statement, job.job_id)


def said(text: str) -> JsonObject:
    """A user's message, as an input item."""
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def _input_item(item: JsonObject) -> InputItem:
    kind = item["type"]
    if kind == "message":
        texts = [part["text"] for part in item["content"] if part.get("text")]
        return InputItem(kind, item["role"], " ".join(texts), item["content"])
    return InputItem(kind, item={"id": f"{kind}_1", **item})


async def forever() -> None:
    await asyncio.Event().wait()


def _sending(journal: Journal) -> tuple[Outgoing, asyncio.Task[None]]:
    limits = OutgoingLimits(flush_seconds=0, message_bytes_max=1, retry_seconds=0.001)
    outgoing = Outgoing(journal.send, PARTITION_COUNT, limits)
    return outgoing, asyncio.create_task(outgoing.run())
