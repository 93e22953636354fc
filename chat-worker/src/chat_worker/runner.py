"""One attempt at a job, from claim to end.

    claim ─▶ barrier (from the second attempt on) ─▶ history, ledger ─▶ loop ─▶ end
               │ not granted                           │                  │
               ▼                                       ▼                  ▼
             lost                       stopped, unavailable, refused, a bug: see `_Attempt.run`

The attempt may be over between any two lines: the process dies, the broker takes the delivery back, the lease is lost.
Then nothing is undone and nothing is said to have failed: the next attempt goes on after the last recorded step.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Literal, Protocol, TypeAlias, TypeVar, assert_never
from uuid import UUID

from chat_worker import history, ledger, metrics
from chat_worker.agent.loop import CLOSING_TEXTS, Turn, TurnLimits, TurnSettings, run_turn
from chat_worker.agent.prompt import Instructions, PromptLimits, build_prompt, shorter_prompts, too_long
from chat_worker.agent.selection import ToolSelection
from chat_worker.agent.values import (
    End,
    FunctionTool,
    HandedOver,
    JsonObject,
    Model,
    ModelRound,
    ReasoningDelta,
    TextDelta,
    Tool,
    ToolFinished,
    ToolRef,
    ToolResult,
    ToolStarted,
    TurnEnded,
    Usage,
)
from chat_worker.claims import Begun, Claim, Claims
from chat_worker.history import History, HistoryLimits
from chat_worker.journal import AttemptJournal, Ended
from chat_worker.leases import Lease, Leases, Stopped, StopReason
from chat_worker.ledger import RecordedStep, Row
from chat_worker.outgoing import Outgoing
from chat_worker.summaries import Summaries
from chat_worker.titles import Opening, Titles
from shared import tracing
from shared.agents import AGENTS, Agent
from shared.contracts import JobReady, JobReleased, ResumeReply
from shared.db import Database
from shared.errors import AttemptError, DatabaseUnavailableError, ParleyError, UnavailableError
from shared.events import Failure, ResponseEvents
from shared.faults import reach, sabotaged
from shared.ids import Prefix, seconds_since, to_wire
from shared.messaging import JOBS
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


class SelectableTools(Protocol):
    """As `values.ToolSet`, of the selected servers only."""

    async def list(self, selection: ToolSelection | None = None) -> Sequence[Tool]: ...

    async def call(self, tool: Tool, arguments: JsonObject, *, key: str) -> ToolResult: ...


class UserTools(Protocol):
    """Every tool there is, to be used as one user, and the servers whose tools an agent may use."""

    def for_user(self, user_id: str) -> SelectableTools: ...

    def labels_for(self, agent: Agent) -> Collection[str]: ...


class Resumer(Protocol):
    async def ask_to_resume(self, job_id: UUID, conversation_id: UUID, attempt: int) -> ResumeReply: ...


@dataclass(frozen=True, slots=True)
class Worker:
    """What attempts work with; one per process. Without `summaries` or `titles`, none are made."""

    database: Database
    leases: Leases
    outgoing: Outgoing
    resumer: Resumer
    model: Model
    tools: UserTools
    limits: RunnerLimits
    turn_limits: TurnLimits
    prompt_limits: PromptLimits
    summaries: Summaries | None = None
    titles: Titles | None = None


class Runner:
    """Runs deliveries; `drain` makes it hand back those that it has not begun."""

    def __init__(self, worker: Worker) -> None:
        self.delivery_count = 0  # since the start
        self._worker = worker
        self._claims = Claims(worker.database, worker.leases, worker.limits.history)
        self._draining = asyncio.Event()

    async def run(
        self, ready: JobReady, *, delivery_id: str | None, sent_by: tracing.Position | None = None
    ) -> Verdict:
        """Run the job for as long as this attempt may, and say what becomes of the delivery.

        `delivery_id` is the same however often the broker delivers this message, and no other message has it. Where
        the job was claimed with it before, that claim's worker lost the delivery, and with it the job. `sent_by` is
        what sent the message, for the job's trace.
        """
        self.delivery_count += 1
        received_ns = tracing.now_ns()
        with bound_ids(job_id=str(ready.job_id), conversation_id=str(ready.conversation_id)):
            try:
                begun = await self._begin(ready, delivery_id)
            except DatabaseUnavailableError:
                return Verdict.RETURNED
            if begun is None:
                metrics.DUPLICATES.inc()
                log.info("job_not_claimable")
                return Verdict.SETTLED
            reach("worker.after_claim")
            claim = begun.claim
            if claim.attempt == 1:
                metrics.CLAIM_WAIT_SECONDS.observe(seconds_since(claim.job_id))
            with (
                bound_ids(attempt=claim.attempt),
                tracing.entered(_span_of(claim, sent_by, received_ns)) as span,
                self._worker.leases.hold(claim.job_id, claim.attempt, claimed_at=claim.claimed_at) as lease,
            ):
                return await _Attempt(self._worker, begun, lease, span).run()

    def drain(self) -> None:
        self._draining.set()

    async def _begin(self, ready: JobReady, delivery_id: str | None) -> Begun | None:
        """Claim the job, waiting for Postgres with the delivery in hand: handing it back would only turn it in circles.

        Raises DatabaseUnavailableError if that takes too long, or the process is to stop.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._worker.limits.claim_seconds_max
        while not self._draining.is_set():
            try:
                return await self._claims.claim(ready, delivery_id)
            except DatabaseUnavailableError:
                if clock() > deadline:
                    raise
                log.warning("claim_waits_for_database")
                # If the failed claim was carried out, the next one with the same delivery follows it.
            await _elapsed_or(self._draining, _DATABASE_RETRY_SECONDS)
        raise DatabaseUnavailableError


def _span_of(claim: Claim, sent_by: tracing.Position | None, received_ns: int) -> tracing.Span:
    """The attempt in its job's trace: under what sent the message, and beside the attempt before."""
    if not tracing.is_on():
        return tracing.NOBODYS
    return tracing.start(
        f"process {JOBS}",
        tracing.Kind.CONSUMER,
        {
            "messaging.system": "rabbitmq",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": JOBS,
            "gen_ai.conversation.id": to_wire(Prefix.CONVERSATION, claim.conversation_id),
            "parley.response.id": to_wire(Prefix.RESPONSE, claim.job_id),
            "parley.attempt": claim.attempt,
        },
        parent=sent_by or tracing.response(claim.job_id),
        own=tracing.attempt(claim.job_id, claim.attempt),
        links=[tracing.attempt(claim.job_id, claim.attempt - 1)] if claim.attempt > 1 else (),
        started_ns=received_ns,
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
_Told: TypeAlias = TextDelta | ReasoningDelta | ModelRound | ToolStarted | ToolFinished | HandedOver

_ENDS: Mapping[End, Ended] = {
    End.ANSWERED: Ended(JobStatus.COMPLETED, is_whole=True),
    End.HANDED_OVER: Ended(JobStatus.COMPLETED),
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
    "model_request_refused": "invalid_prompt",  # clients send again what they take for a failure of ours
    "context_length_exceeded": "invalid_prompt",
}
_CHARS_PER_TOKEN = 4
_POSTGRES = {"db.system.name": "postgresql"}
_EXHAUSTED = "The answer was begun {} times and never came to its end."


class _Attempt:
    def __init__(self, worker: Worker, begun: Begun, lease: Lease, span: tracing.Span) -> None:
        self._worker = worker
        self._span = span
        self._claim = claim = begun.claim
        self._history_rows = begun.history  # until they are told
        self._lease = lease
        self._journal: AttemptJournal | None = None  # until it is known where it goes on
        if claim.attempt == 1:
            self._journal = _open_journal(worker.outgoing, claim, next_seq=claim.next_seq)
        self._unrecorded: list[ModelRound] = []  # more than one where the user allowed no call of the first
        self._usage = Usage()
        self._cut_token_count = 0  # told of a round that has not ended: an estimate
        self._asked_token_count = 0  # of the prompt; estimated, until the endpoint says it
        self._summary_usage = Usage()  # of what was made before the first round
        self._question: str | None = None  # where it is the conversation's first
        self._answer = ""
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
            if verdict is Verdict.SETTLED:
                self._suggest_title(outcome)
            return verdict
        finally:
            if self._journal is not None:
                self._journal.lane.discard()
            described, seconds = _described(outcome), clock() - started_at
            self._count(described["outcome"] or "", described["cause"] or "", seconds)
            log.info(
                "attempt_ended",
                **described,
                delivery=verdict.value if verdict else None,
                duration_ms=round(1_000 * seconds),
                step_count=self._step_count,
                tool_call_count=self._call_count,
                input_tokens=self._usage.input_tokens,
                output_tokens=self._usage.output_tokens,
            )

    def _count(self, outcome: str, cause: str, seconds: float) -> None:
        metrics.ATTEMPTS.labels(outcome, cause).inc()
        metrics.ATTEMPT_SECONDS.observe(seconds)
        self._span.set("parley.outcome", outcome)
        if cause:
            self._span.fail(cause)

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
        # Before there is a journal to end the job with: an end must tell of every call that was begun. The claim keeps
        # earlier attempts from adding any.
        steps = await self._recorded_steps()
        journal = self._journal or await self._resumed_journal()
        if journal is None:
            return Left(StopReason.LEASE_LOST)
        self._journal = journal
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
        with tracing.entered(tracing.start("resume journal")):
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
        must_be_whole = claim.request["truncation"] == "disabled"
        with tracing.start("read history", tracing.Kind.CLIENT, _POSTGRES):
            told = await self._patiently(lambda: self._history(with_summary=not must_be_whole))
        self._usage = sum((step.round.usage for step in steps), Usage())
        self._question = told.question if told.is_first else None
        instructions = Instructions(agent.instructions, self._now().date(), claim.request["instructions"])
        if must_be_whole and told.is_cut:
            raise too_long()
        if not must_be_whole:
            told = await self._fitted(told, instructions)
        instructions = replace(instructions, summary=told.summary_text)
        prompt = build_prompt(instructions, told.past, told.current, worker.prompt_limits, must_be_whole=must_be_whole)
        if prompt.dropped_turn_count or told.is_cut:
            log.info("oldest_turns_left_out", turn_count=prompt.dropped_turn_count, are_more_unread=told.is_cut)
        self._asked_token_count = prompt.token_count
        shorter = shorter_prompts(instructions, told.past, told.current, worker.prompt_limits)
        return Turn(
            job_key=claim.job_id.hex,
            messages=prompt.messages,
            shorter=() if must_be_whole else (prompt.messages for prompt in shorter),
            functions=_functions(claim.request),
            approvals=told.approvals,
            past=[step.to_past() for step in steps],
            settings=turn_settings(claim.request),
            limits=worker.turn_limits,
        )

    async def _history(self, *, with_summary: bool) -> History:
        database, limits = self._worker.database, self._worker.limits.history
        user_id, job_id = self._claim.user_id, self._claim.job_id
        rows, self._history_rows = self._history_rows, ()
        if rows:
            return await history.told(rows, database, user_id, job_id, limits)
        return await history.read(database, user_id, job_id, limits, with_summary=with_summary)

    async def _fitted(self, told: History, instructions: Instructions) -> History:
        """`told`, with its oldest turns summarised where they leave no room for the others, if that can be done."""
        if self._worker.summaries is None:
            return told
        fitted = await self._worker.summaries.fit(told, instructions, self._claim.conversation_id, self._claim.user_id)
        self._summary_usage = fitted.usage
        return fitted.history

    def _suggest_title(self, outcome: Outcome) -> None:
        is_completed = isinstance(outcome, Ended) and outcome.status is JobStatus.COMPLETED
        if self._worker.titles is None or self._question is None or not is_completed:
            return
        claim = self._claim
        self._worker.titles.suggest(Opening(claim.conversation_id, claim.user_id, self._question, self._answer))

    async def _run_loop(self, turn: Turn, agent: Agent, journal: AttemptJournal) -> Outcome:
        worker, claim = self._worker, self._claim
        selection = ToolSelection.of_request(claim.request["tools"], worker.tools.labels_for(agent))
        tools = _SelectedTools(worker.tools.for_user(claim.user_id), selection)
        async with aclosing(run_turn(turn, worker.model, tools)) as happenings:
            async for happening in happenings:
                if isinstance(happening, TurnEnded):
                    self._usage, self._cut_token_count = happening.usage, 0
                    return _ENDS[happening.end]
                await self._take(happening, journal)
        raise AssertionError("the loop ended without TurnEnded")

    async def _take(self, happening: _Told, to: AttemptJournal) -> None:
        """Record what happened, then tell of it; only then the loop goes on.

        A round is recorded together with the intent to make its first call, which follows at once, or with handing
        over those that are the client's. One without calls is the turn's end and needs no record: it is told whole with
        the end, or not at all.
        """
        match happening:
            case TextDelta(text=text):
                self._cut_token_count += _estimated_tokens(text)
                await to.tell_text(text)
                reach("worker.mid_text")
            case ReasoningDelta(text=text):
                self._cut_token_count += _estimated_tokens(text)
                await to.tell_reasoning(text)
            case ModelRound():
                self._step_count += 1
                self._answer = happening.text
                self._usage += happening.usage
                self._cut_token_count = 0
                self._asked_token_count = happening.usage.input_tokens or self._asked_token_count
                self._unrecorded = [*self._unrecorded, happening] if happening.calls else []
            case ToolStarted():
                self._call_count += 1
                is_new = await self._record_with_round(happening)
                reach("worker.after_intent")
                told = to.close_message() if is_new else []
                await to.lane.put(told + to.open_call(happening), urgent=True)
            case ToolFinished(result=result):
                reach("worker.after_tool")
                await self._record(happening)
                await to.lane.put(to.close_call(result))
            case HandedOver(calls=calls):
                is_new = await self._record_with_round(happening)
                told = to.close_message() if is_new else []
                await to.lane.put(told + [event for call in calls for event in to.hand_over(call)])

    async def _record_with_round(self, happening: ToolStarted | HandedOver) -> bool:
        """Record what is to happen, and its round if that is not recorded yet; whether it was not."""
        rounds, self._unrecorded = self._unrecorded, []
        await self._record(*rounds, happening)
        return bool(rounds)

    async def _record(self, *happenings: ModelRound | ToolStarted | ToolFinished | HandedOver) -> None:
        claim, rows = self._claim, [row for happening in happenings for row in Row.all_of(happening)]
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
                        with tracing.start("flush events"):
                            await self._journal.end(outcome, self._spent(), self._now())
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

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._worker.leases.clock.now(), UTC)

    def _spent(self) -> Usage:
        """What the turn cost, as far as it is known; a round that was cut is estimated."""
        spent = self._summary_usage + self._usage
        return spent + Usage(self._asked_token_count, self._cut_token_count) if self._cut_token_count else spent

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


class _SelectedTools:
    """The tools of some servers."""

    def __init__(self, tools: SelectableTools, selection: ToolSelection) -> None:
        self._tools = tools
        self._selection = selection

    async def list(self) -> Sequence[Tool]:
        return await self._tools.list(self._selection) if self._selection.servers else ()

    async def call(self, tool: Tool, arguments: JsonObject, *, key: str) -> ToolResult:
        return await self._tools.call(tool, arguments, key=key)


def turn_settings(request: JsonObject) -> TurnSettings:
    """What the client asked for.

    The accepted response names a default where it asked for nothing, so 1 means that, and 0 for penalties. What only
    the vendor's own platform knows (`service_tier`, `prompt_cache_key`, `safety_identifier`, `user`) is not passed on:
    other endpoints refuse a request for it.
    """
    choice, allowed = _tool_choice(request["tool_choice"])
    return TurnSettings(
        tool_choice=choice,
        allowed=allowed,
        temperature=None if request["temperature"] == 1 else request["temperature"],
        top_p=None if request["top_p"] == 1 else request["top_p"],
        output_token_count_max=request["max_output_tokens"],
        call_count_max=request["max_tool_calls"],
        parallel_tool_calls=request["parallel_tool_calls"],
        parameters=_parameters(request),
    )


def _parameters(request: JsonObject) -> JsonObject:
    text, reasoning = request.get("text") or {}, request.get("reasoning") or {}
    parameters = {
        "response_format": _response_format(text.get("format") or {}),
        "verbosity": text.get("verbosity"),
        "reasoning_effort": reasoning.get("effort"),
        "frequency_penalty": request.get("frequency_penalty") or None,
        "presence_penalty": request.get("presence_penalty") or None,
    }
    return {name: value for name, value in parameters.items() if value is not None}


def _response_format(text_format: JsonObject) -> JsonObject | None:
    match text_format.get("type"):
        case "json_object":
            return {"type": "json_object"}
        case "json_schema":
            names = ("name", "description", "schema", "strict")
            schema = {name: text_format[name] for name in names if text_format.get(name) is not None}
            return {"type": "json_schema", "json_schema": schema}
        case _:
            return None


def _tool_choice(choice: str | JsonObject) -> tuple[str | ToolRef, tuple[ToolRef, ...] | None]:
    """What the model must call, and the only tools that it may be offered."""
    match choice:
        case str():
            return choice, None
        case {"type": "function" | "mcp"}:
            return _ref(choice), None
        case {"type": "allowed_tools", "mode": str(mode), "tools": list(tools)}:
            return mode, tuple(map(_ref, tools))
        case _:
            return "auto", None


def _ref(tool: JsonObject) -> ToolRef:
    return ToolRef(tool.get("name"), tool.get("server_label"))


def _functions(request: JsonObject) -> list[FunctionTool]:
    return [
        FunctionTool(tool["name"], tool.get("description"), tool.get("parameters"), tool.get("strict"))
        for tool in request["tools"]
        if tool["type"] == "function"
    ]


def _estimated_tokens(text: str) -> int:
    return -(-len(text) // _CHARS_PER_TOKEN)


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
