"""The agent loop: ask the model, run the tools it asks for, tell it the results, until it answers or reaches a limit.

Pure: the model, the tools and the way to sleep are passed in, what happens is yielded; see `values` for the contract
of the two sides. Nothing here knows a clock, a database or a broker.

A turn that an earlier attempt began goes on where its record ends: recorded rounds are not asked for again, recorded
results are not produced again, and neither is yielded again. What became of a call that was started and has no result
is unknown, and so it is with one whose answer was lost on the way: a repeatable tool is run again, with the same key,
until its outcome is known; of any other the model is told that it is not.

Calls of the client's own functions, and calls that the client has to allow first, end the turn: they are handed over
after all others of their round were made. A turn that begins with the client's word on such calls has a first step that
no model was asked for: it is made of those calls.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TypeAlias

from chat_worker.agent import prompt
from chat_worker.agent.values import (
    OUTCOME_UNKNOWN,
    ApprovalAnswer,
    End,
    Finish,
    FunctionTool,
    HandedCall,
    HandedOver,
    Happening,
    JsonObject,
    Model,
    ModelRequest,
    ModelRound,
    PastStep,
    ReasoningDelta,
    TextDelta,
    Tool,
    ToolCall,
    ToolError,
    ToolErrorKind,
    ToolFinished,
    ToolRef,
    ToolResult,
    ToolSet,
    ToolStarted,
    TurnEnded,
    Usage,
    as_unknown,
    refused_by_user,
    storable,
)
from shared.errors import ModelRefusedError, ModelUnavailableError

AGENT_LABEL = "parley"  # the `server_label` of a call whose tool no server has

CLOSING_TEXTS: Mapping[End, str] = {
    End.STEP_LIMIT: "I stopped here because this answer reached its limit of steps. Tell me to go on if I should.",
    End.TOKEN_LIMIT: "I stopped here because this answer reached its limit of length. Tell me to go on if I should.",
    End.TIME_LIMIT: "I stopped here because this answer reached its time limit. Tell me to go on if I should.",
}


Sleep: TypeAlias = Callable[[float], Awaitable[object]]

_TOO_LONG = "context_length_exceeded"
_NAME_CHARS_MAX = 64  # of a tool, for endpoints


@dataclass(frozen=True, slots=True)
class TurnLimits:
    """The operator's limits of one turn. Seconds are not among them: the runner puts `asyncio.timeout` around."""

    step_count_max: int = 20
    call_count_max: int = 50
    output_token_count_max: int = 32_000  # summed over rounds; a round that is under way may end above it
    arguments_bytes_max: int = 65_536  # of one call
    retry_delays_seconds: tuple[float, ...] = (0.2, 1.0)  # of a round that failed before it said anything
    retry_after_seconds_max: float = 2.0  # a longer wait is the runner's: it reschedules the job
    tool_retry_delays_seconds: tuple[float, ...] = (0.5, 2.0, 5.0)  # of a repeatable call with an unknown outcome


@dataclass(frozen=True, slots=True)
class TurnSettings:
    """What the client asked for; None leaves it to the endpoint.

    `tool_choice` holds for the first round: "auto", "none", "required", or a call of one of these tools. Later rounds
    are free (unless it is "none"): a turn that had to call a tool in every round could never answer. `allowed` are the
    only tools that may be offered, in every round. `parameters` go to the endpoint as they are.
    """

    tool_choice: str | ToolRef = "auto"
    allowed: tuple[ToolRef, ...] | None = None
    temperature: float | None = None
    top_p: float | None = None
    output_token_count_max: int | None = None  # of the whole turn
    call_count_max: int | None = None
    parallel_tool_calls: bool = True
    parameters: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn to run, or to go on with where `past` holds what earlier attempts recorded (steps 0, 1, …).

    `functions` are the client's own tools. `approvals` are its answers to what it was asked before this turn.

    `job_key` is stable over attempts; a call's idempotency key is `{job_key}:{step}:{index}`. `shorter` gives what to
    say instead of `messages` where the model finds them too long, then what to say instead of that, and so on.
    """

    job_key: str
    messages: Sequence[JsonObject]
    shorter: Iterable[Sequence[JsonObject]] = ()
    functions: Sequence[FunctionTool] = ()
    approvals: Sequence[ApprovalAnswer] = ()
    past: Sequence[PastStep] = ()
    settings: TurnSettings = TurnSettings()
    limits: TurnLimits = TurnLimits()


async def run_turn(
    turn: Turn, model: Model, tools: ToolSet, *, sleep: Sleep = asyncio.sleep
) -> AsyncGenerator[Happening, None]:
    """Run `turn` to its end, yielding what happens; `TurnEnded` comes exactly once, last.

    Calls above `call_count_max` are not made: the model is told so, and from then on may only answer. At a limit of
    ours (`CLOSING_TEXTS`) the last step is followed by one more `TextDelta`, which belongs to no `ModelRound`: a
    message of its own, complete with `TurnEnded`. It is the same text if the end has to be reached again.

    Raises `ModelUnavailableError` and `ModelRefusedError` as the model does. A round that failed before it said
    anything was tried again first, with a shorter history if that was too long; one that failed later is not, since its
    text was given away already.
    Close the generator (`contextlib.aclosing`) to stop: that closes the model's request.
    """
    progress = _Progress(turn, offered=_offered(turn, await tools.list()))
    for step in count():
        record = turn.past[step] if step < len(turn.past) else None
        if record is None:
            if end := progress.limit_reached(step):
                if end in CLOSING_TEXTS:
                    yield TextDelta(CLOSING_TEXTS[end])
                yield TurnEnded(end, progress.usage)
                return
            async with aclosing(_ask(model, step, progress, sleep)) as answer:
                async for happening in answer:
                    if isinstance(happening, ModelRound):
                        record = PastStep(happening)
                    yield happening
            assert record is not None, "a model ends with its ModelRound, or raises"

        assert record.round.step == step, "steps are recorded in order, without a gap"
        progress.count(record.round)
        if record.round.finish is not Finish.TOOL_CALLS:
            yield TurnEnded(_END_AFTER[record.round.finish], progress.usage)
            return

        async with aclosing(_make_calls(record, progress, tools, sleep)) as made:
            async for call_happening in made:
                yield call_happening
        if progress.handed(record):
            yield TurnEnded(End.HANDED_OVER, progress.usage)
            return


_END_AFTER = {
    Finish.STOP: End.ANSWERED,
    Finish.LENGTH: End.LENGTH,
    Finish.CONTENT_FILTER: End.CONTENT_FILTER,
}


async def _ask(
    model: Model, step: int, progress: "_Progress", sleep: Sleep
) -> AsyncGenerator[ReasoningDelta | TextDelta | ModelRound, None]:
    """One round, asked for again while it fails before it says anything: after a short while, or with less history.

    The step that the client's answers make is as if a model had just asked for these calls.
    """
    if step < progress.first_asked_step:
        calls = tuple(answer.call for answer in progress.turn.approvals)
        yield ModelRound(step, "", calls, Finish.TOOL_CALLS, Usage(), is_of_client=True)
        return
    limits = progress.turn.limits
    delays = iter(limits.retry_delays_seconds)
    while True:
        silent = True
        try:
            async with aclosing(model.round(progress.request(step))) as answer:
                async for happening in answer:
                    silent = False
                    yield replace(happening, step=step) if isinstance(happening, ModelRound) else happening
        except ModelRefusedError as error:
            if not silent or error.code != _TOO_LONG or not progress.shorten():
                raise
            continue
        except ModelUnavailableError as error:
            asked_to_wait = error.retry_after_seconds or 0
            delay = next(delays, None)
            if not silent or delay is None or asked_to_wait > limits.retry_after_seconds_max:
                raise
            delay = max(delay, asked_to_wait)
        else:
            return
        await sleep(delay)


async def _make_calls(
    record: PastStep, progress: "_Progress", tools: ToolSet, sleep: Sleep
) -> AsyncGenerator[ToolStarted | ToolFinished | HandedOver, None]:
    """Make the calls of the round that was counted last which are ours to make, then hand over the client's."""
    step, handed = record.round.step, progress.handed(record)
    results: list[ToolResult] = []
    for index, call in enumerate(record.round.calls):
        if any(index == one.index for one in handed):
            continue
        result = record.results.get(index) or progress.refused(record, index)
        if result is None:
            label = progress.label_of(record, index)
            yield ToolStarted(step, index, call, label, progress.approval_request_id(record, index))
            result = await _result_of(record, index, progress, tools, sleep)
            yield ToolFinished(step, index, call, label, result)
        results.append(result)
    if not handed:
        progress.tell(prompt.exchange(record.round.text, record.round.calls, results))
    elif not record.handed:
        yield HandedOver(step, handed)


async def _result_of(record: PastStep, index: int, progress: "_Progress", tools: ToolSet, sleep: Sleep) -> ToolResult:
    """Make call `index` of the round that was counted last, or say why not."""
    call = record.round.calls[index]
    tool = progress.server_tool(record, index)
    arguments = progress.arguments_of(call)
    if arguments is None:
        return _refusal("the arguments are not a JSON object, or too long. The call was not made.")
    if index in record.started and (tool is None or not tool.repeatable):
        return OUTCOME_UNKNOWN
    if tool is None:
        return _refusal(f"there is no tool named {call.name[:64]!r}. The call was not made.")
    if index not in record.started and progress.is_over_call_limit(record, index):
        return _refusal("the limit of tool calls is reached. The call was not made. Answer with what you have.")
    key = f"{progress.turn.job_key}:{record.round.step}:{index}"
    may_have_happened = index in record.started
    delays = iter(progress.turn.limits.tool_retry_delays_seconds if tool.repeatable else ())
    while True:
        result = await tools.call(tool, arguments, key=key)
        may_have_happened = result.outcome_unknown or (may_have_happened and not _is_of_the_tool(result))
        delay = next(delays, None)
        if not may_have_happened or delay is None:
            break
        await sleep(delay)
    if may_have_happened and result.error is not None:
        result = as_unknown(result.error)
    return _storable(result)


def _is_of_the_tool(result: ToolResult) -> bool:
    """Whether the tool itself answered. That its server cannot be reached now says nothing of an earlier try."""
    return result.error is None or result.error.kind is ToolErrorKind.EXECUTION


def _refusal(message: str) -> ToolResult:
    return ToolResult(output=None, error=ToolError(ToolErrorKind.EXECUTION, message))


def _storable(result: ToolResult) -> ToolResult:
    output = None if result.output is None else storable(result.output)
    error = None if result.error is None else replace(result.error, message=storable(result.error.message))
    return replace(result, output=output, error=error)


def _offered(turn: Turn, tools: Sequence[Tool]) -> dict[str, Tool | FunctionTool]:
    """The turn's tools by the names that the model knows them by.

    A server's tool has its own name, unless one of the client's functions has it; of two with one name the first
    counts.
    """
    offered: dict[str, Tool | FunctionTool] = {}
    functions = {function.name: function for function in turn.functions}
    for tool in tools:
        name, longer_name = _names_of(tool)
        offered.setdefault(longer_name if name in functions else name, tool)
    offered |= functions
    allowed = turn.settings.allowed
    if allowed is None:
        return offered
    return {name: tool for name, tool in offered.items() if any(_is_meant(ref, name, tool) for ref in allowed)}


def _names_of(tool: Tool) -> tuple[str, str]:
    """The tool's name, and the one that it is offered by where a function of the client's has that."""
    return tool.name, f"{tool.server_label}__{tool.name}"[:_NAME_CHARS_MAX]


def _is_meant(ref: ToolRef, name: str, tool: Tool | FunctionTool) -> bool:
    """Whether `ref` means the tool that is offered as `name`."""
    if isinstance(tool, FunctionTool):
        return ref.server_label is None and ref.name == name
    is_server = ref.server_label in {None, tool.server_label}
    return is_server and ref.name in {name, *_names_of(tool), name.removeprefix(f"{tool.server_label}__"), None}


class _Progress:
    """What a turn has come to so far: the messages to send next, and what counts against its limits."""

    def __init__(self, turn: Turn, *, offered: Mapping[str, Tool | FunctionTool]) -> None:
        self.turn = turn
        self.offered = offered
        is_answered = bool(turn.approvals) or any(step.round.is_of_client for step in turn.past[:1])
        self.first_asked_step = 1 if is_answered else 0
        self._answers = {answer.call.call_id: answer for answer in turn.approvals}
        self.usage = Usage()
        self._prompt = turn.messages
        self._shorter = iter(turn.shorter)
        self._exchanges: list[JsonObject] = []  # of this turn
        self._output_token_count = 0
        self._call_count = 0  # of all rounds counted
        self._call_count_before = 0  # of all but the last
        self._call_count_max = turn.limits.call_count_max
        if turn.settings.call_count_max is not None:
            self._call_count_max = min(self._call_count_max, turn.settings.call_count_max)

    def count(self, round_: ModelRound) -> None:
        self.usage += round_.usage
        if not round_.is_of_client:
            self._output_token_count += round_.usage.output_tokens or _estimated_output(round_)
        self._call_count_before = self._call_count
        self._call_count += sum(not self._is_function(call) for call in round_.calls)

    def tell(self, messages: Sequence[JsonObject]) -> None:
        """To the model, with the next request."""
        self._exchanges += messages

    def shorten(self) -> bool:
        """Ask with less history from now on; False if there is none that could be left out."""
        shorter = next(self._shorter, None)
        self._prompt = shorter or self._prompt
        return shorter is not None

    def limit_reached(self, step: int) -> End | None:
        """Why step `step` must not be asked for, if it must not."""
        if self._output_tokens_left() == 0:
            return End.LENGTH
        if self._output_token_count >= self.turn.limits.output_token_count_max:
            return End.TOKEN_LIMIT
        if step >= self.turn.limits.step_count_max:
            return End.STEP_LIMIT
        return None

    def request(self, step: int) -> ModelRequest:
        settings = self.turn.settings
        tools, tool_choice = self._choice(step)
        return ModelRequest(
            messages=(*self._prompt, *self._exchanges),
            tools=tools,
            tool_choice=tool_choice,
            temperature=settings.temperature,
            top_p=settings.top_p,
            output_token_count_max=self._output_tokens_left(),
            parallel_tool_calls=settings.parallel_tool_calls,
            parameters=settings.parameters,
        )

    def handed(self, record: PastStep) -> tuple[HandedCall, ...]:
        """The calls of the round counted last that are the client's, to make or to allow."""
        return tuple(
            HandedCall(index, call, None if self._is_function(call) else self.label_of(record, index))
            for index, call in enumerate(record.round.calls)
            if self._is_handed(record, index)
        )

    def is_over_call_limit(self, record: PastStep, index: int) -> bool:
        """Of call `index` of the round counted last. Calls that the client makes do not count."""
        before = sum(not self._is_function(call) for call in record.round.calls[:index])
        return self._call_count_before + before >= self._call_count_max

    def refused(self, record: PastStep, index: int) -> ToolResult | None:
        """What the model is told of a call that the user does not allow, or not any more."""
        answer = self._answer(record, index)
        if answer is not None:
            return None if answer.is_approved else refused_by_user(answer.reason)
        is_withdrawn = record.round.is_of_client and index not in record.started
        return _refusal("the user's answer was deleted. The call was not made.") if is_withdrawn else None

    def approval_request_id(self, record: PastStep, index: int) -> str | None:
        answer = self._answer(record, index)
        return None if answer is None else answer.request_id

    def server_tool(self, record: PastStep, index: int) -> Tool | None:
        """The tool of a call that is ours to make, if it is offered; what the user was asked about is of one server.

        It may have had another name then: that depends on what else is offered.
        """
        call = record.round.calls[index]
        if not record.round.is_of_client:
            tool = self.offered.get(call.name)
            return tool if isinstance(tool, Tool) else None
        answer = self._answer(record, index)
        if answer is None:
            return None
        meant = ToolRef(call.name, answer.server_label)
        tools = {name: tool for name, tool in self.offered.items() if _is_meant(meant, name, tool)}
        found = tools.get(call.name) or next(iter(tools.values()), None)
        return found if isinstance(found, Tool) else None

    def arguments_of(self, call: ToolCall) -> JsonObject | None:
        if len(call.arguments.encode()) > self.turn.limits.arguments_bytes_max:
            return None
        return call.parsed_arguments()

    def label_of(self, record: PastStep, index: int) -> str:
        answer = self._answer(record, index)
        if answer is not None:
            return answer.server_label
        tool = self.server_tool(record, index)
        return AGENT_LABEL if tool is None else tool.server_label

    def _is_handed(self, record: PastStep, index: int) -> bool:
        """Whether call `index` of the round counted last is the client's.

        One that would be refused anyway is no question for the user. What a record says stands.
        """
        if record.handed:
            return index in record.handed
        is_begun = index in record.started or index in record.results
        if is_begun or record.round.is_of_client:
            return False
        call = record.round.calls[index]
        tool = self.server_tool(record, index)
        if tool is None or not tool.requires_approval:
            return self._is_function(call)
        return self.arguments_of(call) is not None and not self.is_over_call_limit(record, index)

    def _is_function(self, call: ToolCall) -> bool:
        return isinstance(self.offered.get(call.name), FunctionTool)

    def _answer(self, record: PastStep, index: int) -> ApprovalAnswer | None:
        """The client's answer that call `index` comes from, if the step is made of such answers.

        An earlier attempt may have had more of them: what was deleted since is not there any more.
        """
        return self._answers.get(record.round.calls[index].call_id) if record.round.is_of_client else None

    def _output_tokens_left(self) -> int | None:
        """Of those that the client allows. Our own limit is not sent: it may be more than the endpoint accepts."""
        allowed = self.turn.settings.output_token_count_max
        return None if allowed is None else max(0, allowed - self._output_token_count)

    def _choice(self, step: int) -> tuple[tuple[Tool | FunctionTool, ...], str | JsonObject]:
        """What to offer in step `step`, and what the model must make of it."""
        offered, choice = self.offered, self.turn.settings.tool_choice
        if self._call_count >= self._call_count_max:
            choice = "none"
        elif step != self.first_asked_step and choice != "none":
            choice = "auto"
        if isinstance(choice, str):
            return _named(offered), choice
        meant = {name: tool for name, tool in offered.items() if _is_meant(choice, name, tool)}
        if len(meant) == 1:
            return _named(offered), {"type": "function", "function": {"name": next(iter(meant))}}
        return (_named(meant), "required") if meant else (_named(offered), "auto")


def _named(offered: Mapping[str, Tool | FunctionTool]) -> tuple[Tool | FunctionTool, ...]:
    """The tools as the model is to know them."""
    return tuple(tool if tool.name == name else replace(tool, name=name) for name, tool in offered.items())


def _estimated_output(round_: ModelRound) -> int:
    """For endpoints that report no usage, so that the limits hold there too."""
    size = len(round_.text.encode()) + sum(len(call.name) + len(call.arguments.encode()) for call in round_.calls)
    return -(-size // 4)
