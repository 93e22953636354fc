"""What one attempt tells the world: the events of its response, built, numbered and handed over in order.

Items that an earlier attempt told whole are not told again. Their records come first in the ledger and their events
after, in one order, so what the journal holds whole is always a first part of what the ledger holds.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Literal, TypeAlias

from chat_worker.agent.values import HandedCall, ToolResult, ToolStarted, Usage
from chat_worker.history import tool_error_to_wire
from chat_worker.ledger import RecordedStep
from chat_worker.outgoing import Lane
from shared import events
from shared.events import Event, Failure, ResponseEvents
from shared.ids import Prefix, new_wire_id
from shared.states import JobStatus

_Item: TypeAlias = Callable[[], list[Event]]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ends.

    `is_whole`: text that is open then is all there was to say, not a part. `closing_text` is said as a message of its
    own, after whatever is open was cut.
    """

    status: JobStatus
    failure: Failure | None = None
    incomplete_reason: Literal["max_output_tokens", "content_filter"] | None = None
    is_whole: bool = False
    closing_text: str | None = None


class AttemptJournal:
    """The events of one attempt, on their way through its lane. Methods named `tell` and `end` hand over."""

    def __init__(self, response: ResponseEvents, lane: Lane, *, accepted_event_count: int) -> None:
        self.lane = lane
        self._response = response
        self._is_begun = response.next_seq > accepted_event_count
        self._is_silent = True
        self._unfinished: dict[tuple[int, int], ToolStarted] = {}
        self._due: deque[_Item] = deque()  # recorded by earlier attempts, and not told yet

    async def tell_begin(self, steps: Sequence[RecordedStep]) -> None:
        """Tell that the job runs, if that was never told, and what is recorded in `steps` but was not told whole.

        Calls that were started and have no result are told when they are made again, or with the end; so is the rest,
        where this is broken off.
        """
        self._unfinished = {(call.step, call.index): call for step in steps for call in step.unfinished()}
        self._due.extend(self._untold(steps))
        if not self._is_begun:
            await self.lane.put([self._response.in_progress()])
        while self._due:
            await self.lane.put(self._due.popleft()())

    async def tell_text(self, text: str) -> None:
        """The attempt's first text leaves at once: somebody waits for a sign of life."""
        is_first, self._is_silent = self._is_silent, False
        await self.lane.put(self._response.text(text), urgent=is_first)

    async def tell_reasoning(self, text: str) -> None:
        """As `tell_text`, of what the model thinks."""
        is_first, self._is_silent = self._is_silent, False
        await self.lane.put(self._response.reasoning(text), urgent=is_first)

    async def tell_abandon(self) -> None:
        """Close what is open, as this attempt will not finish it."""
        await self.lane.put(self._response.abandon(), urgent=True)

    async def end(self, ended: Ended, usage: Usage, ended_at: datetime) -> None:
        """Close what is open and end the response: all or nothing of it will be stored."""
        told = self._response.cut_mcp_call()
        while self._due:
            told += self._due.popleft()()
        for call in list(self._unfinished.values()):
            told += [*self.open_call(call), *self._response.cut_mcp_call()]
        if ended.closing_text is not None:
            told += self._response.close_message("incomplete")
            told += self._response.text(ended.closing_text)
        if ended.is_whole:
            told += self._response.close_message()
        told += self._response.end(
            ended.status,
            ended_at=ended_at,
            usage=_known(usage),
            failure=ended.failure,
            incomplete_reason=ended.incomplete_reason,
        )
        await self.lane.put(told, urgent=True, ended_as=ended.status)

    def close_message(self) -> list[Event]:
        return self._response.close_message()

    def open_call(self, started: ToolStarted) -> list[Event]:
        self._unfinished.pop((started.step, started.index), None)
        call = started.call
        return self._response.open_mcp_call(
            new_wire_id(Prefix.MCP_CALL), started.server_label, call.name, call.arguments, started.approval_request_id
        )

    def close_call(self, result: ToolResult) -> list[Event]:
        error = None if result.error is None else tool_error_to_wire(result.error)
        return self._response.close_mcp_call(result.output, error, result.duration_ms)

    def hand_over(self, handed: HandedCall) -> list[Event]:
        """A call that is the client's: to make, or to allow."""
        call = handed.call
        if handed.server_label is None:
            item_id = new_wire_id(Prefix.FUNCTION_CALL)
            return self._response.function_call(item_id, call.call_id, call.name, call.arguments)
        item_id = new_wire_id(Prefix.APPROVAL_REQUEST)
        return self._response.approval_request(item_id, handed.server_label, call.name, call.arguments)

    def _untold(self, steps: Sequence[RecordedStep]) -> Iterator[_Item]:
        """The items of the recorded steps that are not told whole.

        Reasoning does not count: it is told whole before its round is recorded, so there may be more of it, told by an
        attempt that died then. What is told last stands for that of the round which goes on behind it.
        """
        output = self._response.output
        told_count = sum(item["type"] != "reasoning" for item in output)
        is_reasoning_told = bool(output) and output[-1]["type"] == "reasoning"
        for step in steps:
            items = list(self._items_of(step))
            of_step = min(told_count, len(items))
            told_count -= of_step
            if step.round.reasoning and not of_step and not is_reasoning_told:
                yield partial(self._reasoning, step.round.reasoning)
            if of_step < len(items):
                is_reasoning_told = False
            yield from items[of_step:]

    def _items_of(self, step: RecordedStep) -> Iterator[_Item]:
        """The items that a recorded step makes, but for its reasoning, in the order in which they are told."""
        if step.round.text:
            yield partial(self._message, step.round.text)
        for index, result in sorted(step.results.items()):
            yield partial(self._call, step.started[index], result)
        for _, handed in sorted(step.handed.items()):
            yield partial(self.hand_over, handed)

    def _reasoning(self, text: str) -> list[Event]:
        return [*self._response.reasoning(text), *self._response.close_message()]

    def _message(self, text: str) -> list[Event]:
        return [*self._response.text(text), *self._response.close_message()]

    def _call(self, started: ToolStarted, result: ToolResult) -> list[Event]:
        return [*self.open_call(started), *self.close_call(result)]


def _known(usage: Usage) -> events.Usage | None:
    """The usage as the wire has it: null where no endpoint said anything."""
    if usage == Usage():
        return None
    return events.Usage(usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens)
