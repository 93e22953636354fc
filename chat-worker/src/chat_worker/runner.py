"""One attempt at a job, from claim to end.

    claim ─▶ barrier (from the second attempt on) ─▶ history, ledger ─▶ loop ─▶ end
               │ not granted                           │                  │
               ▼                                       ▼                  ▼
             lost                       stopped, unavailable, refused, a bug: see `_Attempt.run`

The attempt may be over between any two lines: the process dies, the broker takes the delivery back, the lease is lost.
Then nothing is undone and nothing is said to have failed: the next attempt goes on after the last recorded step.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Literal, Protocol, TypeAlias, TypeVar, assert_never
from uuid import UUID

from chat_worker import history, ledger
from chat_worker.agent.loop import CLOSING_TEXTS, Turn, TurnLimits, TurnSettings, run_turn
from chat_worker.agent.prompt import Instructions, PromptLimits, build_prompt, shorter_prompts
from chat_worker.agent.values import (
    End,
    JsonObject,
    Model,
    ModelRound,
    TextDelta,
    Tool,
    ToolFinished,
    ToolResult,
    ToolSet,
    ToolStarted,
    TurnEnded,
    Usage,
)
from chat_worker.history import HistoryLimits
from chat_worker.journal import AttemptJournal, Ended
from chat_worker.leases import Lease, Leases, Stopped, StopReason
from chat_worker.ledger import RecordedStep, Row
from chat_worker.outgoing import Outgoing
from shared.agents import AGENTS, Agent
from shared.contracts import JobReady, JobReleased, ResumeReply
from shared.db import Database
from shared.errors import AttemptError, DatabaseUnavailableError, ParleyError, UnavailableError
from shared.events import Failure, ResponseEvents
from shared.faults import reach, sabotaged
from shared.observability import bound_ids, get_logger
from shared.states import JobStatus

log = get_logger()

_DATABASE_RETRY_SECONDS = 0.5
_T = TypeVar("_T")


class Verdict(Enum):
    """What becomes of the delivery."""

    SETTLED = "settled"  # acknowledge: ended, released, or another's
    RETURNED = "returned"  # hand back: whoever gets it goes on at once


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    claim_seconds_max: float
    turn_seconds_max: float
    flush_seconds_max: float
    attempts_max: int
    release_delays_seconds: tuple[float, ...]
    release_delay_seconds_max: float
    history: HistoryLimits


class UserTools(Protocol):
    """Every tool there is, to be used as one user."""

    def for_user(self, user_id: str) -> ToolSet: ...


class Resumer(Protocol):
    async def ask_to_resume(self, job_id: UUID, conversation_id: UUID, attempt: int) -> ResumeReply: ...


@dataclass(frozen=True, slots=True)
class Worker:
    """What attempts work with; one per process."""

    database: Database
    leases: Leases
    outgoing: Outgoing
    resumer: Resumer
    model: Model
    tools: UserTools
    limits: RunnerLimits
    turn_limits: TurnLimits
    prompt_limits: PromptLimits


@dataclass(frozen=True, slots=True)
class Claim:
    """The job as its row says at the start of an attempt. `attempt` is the fence."""

    job_id: UUID
    user_id: str
    conversation_id: UUID
    attempt: int
    next_seq: int
    request: JsonObject
    is_cancelled: bool
    claimed_at: float  # or later, on the event loop's clock


class Runner:
    """Runs deliveries; `drain` makes it hand back those that it has not begun."""

    def __init__(self, worker: Worker) -> None:
        self.delivery_count = 0  # since the start
        self._worker = worker
        self._draining = asyncio.Event()

    async def run(self, ready: JobReady, *, delivery_id: str | None) -> Verdict:
        """Run the job for as long as this attempt may, and say what becomes of the delivery.

        `delivery_id` is the same however often the broker delivers this message, and no other message has it. Where
        the job was claimed with it before, that claim's worker lost the delivery, and with it the job.
        """
        self.delivery_count += 1
        with bound_ids(job_id=str(ready.job_id), conversation_id=str(ready.conversation_id)):
            try:
                claim = await self._claim(ready, delivery_id)
            except DatabaseUnavailableError:
                return Verdict.RETURNED
            if claim is None:
                log.info("job_not_claimable")
                return Verdict.SETTLED
            reach("worker.after_claim")
            with (
                bound_ids(attempt=claim.attempt),
                self._worker.leases.hold(claim.job_id, claim.attempt, claimed_at=claim.claimed_at) as lease,
            ):
                return await _Attempt(self._worker, claim, lease).run()

    def drain(self) -> None:
        self._draining.set()

    async def _claim(self, ready: JobReady, delivery_id: str | None) -> Claim | None:
        """Claim the job, waiting for Postgres with the delivery in hand: handing it back would only turn it in circles.

        Raises DatabaseUnavailableError if that takes too long, or the process is to stop.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._worker.limits.claim_seconds_max
        while not self._draining.is_set():
            try:
                return await _claim(self._worker, ready, delivery_id)
            except DatabaseUnavailableError:
                if clock() > deadline:
                    raise
                log.warning("claim_waits_for_database")
                # If the failed claim was carried out, the next one with the same delivery follows it.
            await _elapsed_or(self._draining, _DATABASE_RETRY_SECONDS)
        raise DatabaseUnavailableError


async def _claim(worker: Worker, ready: JobReady, delivery_id: str | None) -> Claim | None:
    claimed_at = asyncio.get_running_loop().time()
    async with worker.database.connection() as connection:
        row = await connection.fetchrow(
            "select * from claim_job($1, $2, $3, $4, $5)",
            ready.user_id,
            ready.job_id,
            worker.leases.worker_id,
            worker.leases.lease_seconds,
            delivery_id,
        )
    if row is None:
        return None
    return Claim(
        job_id=ready.job_id,
        user_id=ready.user_id,
        conversation_id=row["conversation_id"],
        attempt=row["attempt"],
        next_seq=row["next_seq"],
        request=row["request"],
        is_cancelled=row["cancel_requested"],
        claimed_at=claimed_at,
    )


async def _elapsed_or(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


@dataclass(frozen=True, slots=True)
class Released:
    """The job is to be run again after a while."""

    failure: Failure
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Left:
    """Nothing more may be said about the job here."""

    reason: StopReason


Outcome: TypeAlias = Ended | Released | Left

_ENDS: Mapping[End, Ended] = {
    End.ANSWERED: Ended(JobStatus.COMPLETED, is_whole=True),
    End.LENGTH: Ended(JobStatus.INCOMPLETE, incomplete_reason="max_output_tokens"),
    End.CONTENT_FILTER: Ended(JobStatus.INCOMPLETE, incomplete_reason="content_filter"),
    # The wire has no word for our own limits; the last message says it.
    End.STEP_LIMIT: Ended(JobStatus.INCOMPLETE, is_whole=True),
    End.TOKEN_LIMIT: Ended(JobStatus.INCOMPLETE, is_whole=True),
    End.TIME_LIMIT: Ended(JobStatus.INCOMPLETE, is_whole=True, closing_text=CLOSING_TEXTS[End.TIME_LIMIT]),
}
_WIRE_CODES: Mapping[str, Literal["rate_limit_exceeded", "invalid_prompt"]] = {
    "model_rate_limited": "rate_limit_exceeded",
    "model_content_filter": "invalid_prompt",
    "context_length_exceeded": "invalid_prompt",
}
_EXHAUSTED = "The answer was begun {} times and never came to its end."


class _Attempt:
    def __init__(self, worker: Worker, claim: Claim, lease: Lease) -> None:
        self._worker = worker
        self._claim = claim
        self._lease = lease
        self._journal: AttemptJournal | None = None  # until it is known where it goes on
        if claim.attempt == 1:
            self._journal = _open_journal(worker.outgoing, claim, next_seq=claim.next_seq)
        self._unrecorded: ModelRound | None = None
        self._usage = Usage()
        self._step_count = 0
        self._call_count = 0

    async def run(self) -> Verdict:
        clock = asyncio.get_running_loop().time
        started_at = clock()
        outcome: Outcome | None = None
        verdict: Verdict | None = None
        try:
            outcome = await self._outcome()
            verdict = await self._carry_out(outcome)
            return verdict
        finally:
            if self._journal is not None:
                self._journal.lane.discard()
            log.info(
                "attempt_ended",
                **_described(outcome),
                delivery=verdict.value if verdict else None,
                duration_ms=round(1_000 * (clock() - started_at)),
                step_count=self._step_count,
                tool_call_count=self._call_count,
                input_tokens=self._usage.input_tokens,
                output_tokens=self._usage.output_tokens,
            )

    async def _outcome(self) -> Outcome:
        """Run until something decides how this attempt ends."""
        try:
            async with self._lease.guard(self._worker.limits.turn_seconds_max):
                return await self._go()
        except Stopped as stopped:
            return self._when_stopped(stopped.reason)
        except AttemptError as error:
            log.warning("attempt_refused", code=error.code, notes=_notes(error))
            return Ended(JobStatus.FAILED, _failure(error))
        except UnavailableError as error:
            log.warning("attempt_unavailable", code=error.code, notes=_notes(error))
            return self._try_again(_failure(error), error.retry_after_seconds or 0.0)
        except Exception:  # a bug, here or below: its traceback is for us, never for the user
            log.exception("attempt_crashed")
            return self._try_again(Failure("internal_error", "Something went wrong on our side."))

    async def _go(self) -> Outcome:
        claim = self._claim
        journal = self._journal or await self._resumed_journal()
        if journal is None:
            return Left(StopReason.LEASE_LOST)
        self._journal = journal
        steps = await self._recorded_steps()
        await journal.tell_begin(steps)
        agent = AGENTS.get(claim.request["model"])
        if agent is None or claim.is_cancelled or claim.attempt > self._worker.limits.attempts_max:
            return self._end_without_agent()
        turn = await self._turn(agent, steps)
        return await self._run_loop(turn, agent, journal)

    def _end_without_agent(self) -> Ended:
        claim = self._claim
        if claim.is_cancelled:
            return Ended(JobStatus.CANCELLED)
        if claim.attempt > self._worker.limits.attempts_max:
            return Ended(JobStatus.FAILED, Failure("attempts_exhausted", _EXHAUSTED.format(claim.attempt - 1)))
        return Ended(JobStatus.FAILED, Failure("agent_unknown", "This agent is not offered any more."))

    async def _resumed_journal(self) -> AttemptJournal | None:
        """The journal behind all that earlier attempts sent; None where this attempt may not go on."""
        claim = self._claim
        reply = await self._worker.resumer.ask_to_resume(claim.job_id, claim.conversation_id, claim.attempt)
        if not reply.granted:
            return None
        return _open_journal(
            self._worker.outgoing,
            claim,
            next_seq=reply.next_seq,
            next_output_index=reply.next_output_index,
            output=reply.output,
        )

    async def _recorded_steps(self) -> Sequence[RecordedStep]:
        claim = self._claim
        if claim.attempt == 1 or sabotaged("ledger"):
            return ()
        return await self._patiently(lambda: ledger.read(self._worker.database, claim.user_id, claim.job_id))

    async def _turn(self, agent: Agent, steps: Sequence[RecordedStep]) -> Turn:
        worker, claim = self._worker, self._claim
        told = await self._patiently(
            lambda: history.read(worker.database, claim.user_id, claim.job_id, worker.limits.history)
        )
        self._usage = sum((step.round.usage for step in steps), Usage())
        instructions = Instructions(agent.instructions, datetime.now(UTC).date(), claim.request["instructions"])
        prompt = build_prompt(instructions, told.past, told.current, worker.prompt_limits)
        shorter = shorter_prompts(instructions, told.past, told.current, worker.prompt_limits)
        return Turn(
            job_key=claim.job_id.hex,
            messages=prompt.messages,
            shorter=(prompt.messages for prompt in shorter),
            past=[step.to_past() for step in steps],
            settings=turn_settings(claim.request),
            limits=worker.turn_limits,
        )

    async def _run_loop(self, turn: Turn, agent: Agent, journal: AttemptJournal) -> Outcome:
        tools = _AllowedTools(self._worker.tools.for_user(self._claim.user_id), agent.server_labels)
        async with aclosing(run_turn(turn, self._worker.model, tools)) as happenings:
            async for happening in happenings:
                if isinstance(happening, TurnEnded):
                    self._usage = happening.usage
                    return _ENDS[happening.end]
                await self._take(happening, journal)
        raise AssertionError("the loop ended without TurnEnded")

    async def _take(self, happening: TextDelta | ModelRound | ToolStarted | ToolFinished, to: AttemptJournal) -> None:
        """Record what happened, then tell of it; only then the loop goes on.

        A round is recorded together with the intent to make its first call, which follows at once. One without calls
        is the turn's end and needs no record: it is told whole with the end, or not at all.
        """
        match happening:
            case TextDelta(text=text):
                await to.tell_text(text)
                reach("worker.mid_text")
            case ModelRound():
                self._step_count += 1
                self._usage += happening.usage
                self._unrecorded = happening if happening.calls else None
            case ToolStarted():
                self._call_count += 1
                round_, self._unrecorded = self._unrecorded, None
                await self._record(*([happening] if round_ is None else [round_, happening]))
                reach("worker.after_intent")
                told = to.close_message() if round_ else []
                await to.lane.put(told + to.open_call(happening), urgent=True)
            case ToolFinished(result=result):
                reach("worker.after_tool")
                await self._record(happening)
                await to.lane.put(to.close_call(result))

    async def _record(self, *happenings: ModelRound | ToolStarted | ToolFinished) -> None:
        claim, rows = self._claim, [Row.of(happening) for happening in happenings]
        await self._patiently(
            lambda: ledger.record(self._worker.database, claim.user_id, claim.job_id, claim.attempt, rows)
        )

    async def _patiently(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Repeat `call`, which may be repeated, while Postgres is away. The lease's end bounds that."""
        while True:
            try:
                return await call()
            except DatabaseUnavailableError:
                await asyncio.sleep(_DATABASE_RETRY_SECONDS)

    def _when_stopped(self, reason: StopReason) -> Outcome:
        match reason:
            case StopReason.CANCELLED if self._journal is not None:
                return Ended(JobStatus.CANCELLED)
            case StopReason.TIME_LIMIT if self._journal is not None:
                return _ENDS[End.TIME_LIMIT]
            case StopReason.CANCELLED | StopReason.TIME_LIMIT:  # the next attempt can say so
                return Released(Failure(reason.value, "Stopped before the answer went on."), 0.0)
            case StopReason.LEASE_LOST | StopReason.LEASE_EXPIRED | StopReason.SHUTDOWN:
                return Left(reason)
            case _ as unreachable:
                assert_never(unreachable)

    def _try_again(self, failure: Failure, retry_after_seconds: float = 0.0) -> Outcome:
        """Release the job, or end it if this was the last attempt."""
        attempt, limits = self._claim.attempt, self._worker.limits
        if self._journal is not None and attempt >= limits.attempts_max:
            message = f"{failure.message} ({attempt} attempts were made.)"
            return Ended(JobStatus.FAILED, Failure(failure.type, message, failure.code))
        delay = limits.release_delays_seconds[min(attempt, len(limits.release_delays_seconds)) - 1]
        return Released(failure, min(max(delay, retry_after_seconds), limits.release_delay_seconds_max))

    async def _carry_out(self, outcome: Outcome) -> Verdict:
        try:
            async with asyncio.timeout(self._worker.limits.flush_seconds_max):
                match outcome:
                    case Ended():
                        assert self._journal is not None
                        await self._journal.end(outcome, self._usage)
                        await self._journal.lane.flushed()
                        reach("worker.after_flush")
                        return Verdict.SETTLED
                    case Released():
                        await self._release(outcome)
                        return Verdict.SETTLED
                    case Left(reason=reason):
                        return Verdict.SETTLED if reason is StopReason.LEASE_LOST else Verdict.RETURNED
        except TimeoutError:
            log.warning("end_unconfirmed")
            return Verdict.RETURNED

    async def _release(self, released: Released) -> None:
        if self._journal is not None:
            await self._journal.tell_abandon()
            await self._journal.lane.flushed()  # what it says would come too late behind the release
        message = JobReleased(
            job_id=self._claim.job_id,
            conversation_id=self._claim.conversation_id,
            attempt=self._claim.attempt,
            delay_seconds=released.delay_seconds,
            reason=released.failure,
        )
        await self._worker.outgoing.send(self._claim.conversation_id, message)


def _open_journal(
    outgoing: Outgoing, claim: Claim, *, next_seq: int, next_output_index: int = 0, output: Sequence[JsonObject] = ()
) -> AttemptJournal:
    response = ResponseEvents(claim.request, next_seq=next_seq, next_output_index=next_output_index, output=output)
    lane = outgoing.open_lane(claim.job_id, claim.conversation_id, claim.attempt, next_seq)
    # `response.created`, and `response.queued` for background, are there since the job was accepted.
    return AttemptJournal(response, lane, accepted_event_count=2 if claim.request["background"] else 1)


class _AllowedTools:
    """The tools of some servers."""

    def __init__(self, tools: ToolSet, server_labels: frozenset[str]) -> None:
        self._tools = tools
        self._server_labels = server_labels

    async def list(self) -> Sequence[Tool]:
        if not self._server_labels:
            return ()
        return [tool for tool in await self._tools.list() if tool.server_label in self._server_labels]

    async def call(self, tool: Tool, arguments: JsonObject, *, key: str) -> ToolResult:
        return await self._tools.call(tool, arguments, key=key)


def turn_settings(request: JsonObject) -> TurnSettings:
    """What the client asked for. The accepted response names a default where it asked for nothing, so 1 means that."""
    return TurnSettings(
        tool_choice=_tool_choice(request["tool_choice"]),
        temperature=None if request["temperature"] == 1 else request["temperature"],
        top_p=None if request["top_p"] == 1 else request["top_p"],
        output_token_count_max=request["max_output_tokens"],
        call_count_max=request["max_tool_calls"],
        parallel_tool_calls=request["parallel_tool_calls"],
    )


def _tool_choice(choice: str | JsonObject) -> str | JsonObject:
    """The choice as chat completions want it."""
    match choice:
        case str():
            return choice
        case {"type": "function" | "mcp", "name": str(name)}:
            return {"type": "function", "function": {"name": name}}
        case {"type": "allowed_tools", "mode": str(mode)}:
            return mode
        case _:
            return "auto"


def _failure(error: ParleyError) -> Failure:
    return Failure(error.code, error.message, _WIRE_CODES.get(error.code, "server_error"))


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", []))


def _described(outcome: Outcome | None) -> dict[str, str | None]:
    match outcome:
        case None:
            return {"outcome": "interrupted", "cause": None}
        case Ended(status=status, failure=failure):
            return {"outcome": status.value, "cause": failure.type if failure else None}
        case Released(failure=failure):
            return {"outcome": "released", "cause": failure.type}
        case Left(reason=reason):
            return {"outcome": "left", "cause": reason.value}
