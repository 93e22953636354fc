"""The checker: which promises does a history break?

A pure function from what clients saw, what Postgres and RabbitMQ hold in the end and what tools really did, to a list
of violations, each one line. It knows nothing of the faults that were injected: no fault excuses any of these.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from tests.system.faults.history import History, Said
from tests.system.faults.snapshot import Job, Snapshot

JsonObject = dict[str, Any]
_TERMINAL_STATES = {"completed", "failed", "incomplete", "cancelled"}
_SPARE_FILES = 6  # pools of connections are as large as was needed at once so far
_TERMINAL_EVENTS = {"response.completed", "response.failed", "response.incomplete"}


@dataclass(frozen=True)
class Effect:
    """One thing that a tool did, as the tool itself tells: outside of the system, so nobody can take it back."""

    user_id: str
    tool: str
    key: str
    title: str


def check(
    history: History,
    snapshot: Snapshot,
    effects: Sequence[Effect] | None = None,
    *,
    attempts_max: int | None = None,
) -> list[str]:
    """Every violation found about the users of `history`.

    `effects`: of tools that are declared as not repeatable; None where the real task tools ran. `attempts_max`: of a
    job, as many as its workers died, and one.
    """
    own = replace(snapshot, jobs=[job for job in snapshot.jobs if job.user_id in history.users])
    jobs = {job.response_id: job for job in own.jobs}
    found = [*_lost(history, jobs), *_twins(history, own), *_order(history, jobs), *_rest(snapshot)]
    for said in history.accepted:
        if job := jobs.get(said.response_id):
            found += [f"{said.response_id}: {text}" for text in (*_ends(said, job), *_streams(said, job))]
    for job in own.jobs:
        found += [f"{job.response_id}: {text}" for text in _framing(job.events)]
        if attempts_max is not None and job.attempt > attempts_max:
            found.append(f"{job.response_id} took {job.attempt} attempts")
    found += _foreign(history, snapshot)
    found += _task_effects(history, snapshot, jobs) if effects is None else _once_at_most(own, effects)
    return found


# Promise G1: Accepted is kept


def _lost(history: History, jobs: dict[str, Job]) -> Iterator[str]:
    for said in history.accepted:
        job = jobs.get(said.response_id)
        if job is None:
            yield f"{said.response_id} was accepted and is lost"
        elif list(job.asked) != [said.text]:
            yield f"{said.response_id} was accepted as {said.text!r} and holds {job.asked}"
        elif job.status not in _TERMINAL_STATES:
            yield f"{said.response_id} never ended: {job.status}, attempt {job.attempt}"


def _twins(history: History, snapshot: Snapshot) -> Iterator[str]:
    """One message, sent with one key as often as it took, is one job."""
    counts = Counter(text for job in snapshot.jobs for text in job.asked)
    for said in history.said:
        if counts[said.text] > 1:
            yield f"{said.text!r} became {counts[said.text]} jobs"
        if not said.response_id and counts[said.text] == 0:
            yield f"{said.text!r} was never accepted"


# Promise G2: One answer


def _ends(said: Said, job: Job) -> Iterator[str]:
    ends = [event for event in map(_decoded, job.events) if event["type"] in _TERMINAL_EVENTS]
    if job.status not in _TERMINAL_STATES:
        return
    if len(ends) != 1:
        yield f"has {len(ends)} terminal events"
        return
    final = ends[0]["response"]
    if final != job.response or final["status"] != job.status:
        yield f"ended as {final['status']} in its stream and as {job.status} in its row"
    for shown in said.finals:
        if shown["status"] in _TERMINAL_STATES and shown != final:
            yield f"was shown as {shown['status']} and ended as {final['status']}"
    items = final["output"]
    texts = [_text_of(item) for item in items if item["type"] == "message"]
    if texts != list(job.answered):
        yield f"says {texts} and stores {list(job.answered)}"
    if [item["id"] for item in items if item["type"] == "mcp_call"] != list(job.tool_call_ids):
        yield "stores other tool calls than it tells of"
    if job.status == "cancelled" and not said.is_cancelled:
        yield "was cancelled by nobody"
    if job.status == "completed" and not texts:
        yield "completed without an answer"


# Promise G3: Order


def _order(history: History, jobs: dict[str, Job]) -> Iterator[str]:
    by_conversation: dict[str, list[Said]] = {}
    for said in sorted(history.accepted, key=lambda said: said.number):
        by_conversation.setdefault(said.conversation_id, []).append(said)
    for conversation_id, in_order in by_conversation.items():
        turns = [jobs[said.response_id] for said in in_order if said.response_id in jobs]
        for earlier, later in pairwise(turns):
            if earlier.turn >= later.turn:
                yield f"{conversation_id}: turn {later.turn} was accepted after turn {earlier.turn}"
            if later.started_at and (earlier.ended_at is None or later.started_at < earlier.ended_at):
                yield f"{conversation_id}: turn {later.turn} began before turn {earlier.turn} ended"


# Promise G4: The stream is the journal


def _streams(said: Said, job: Job) -> Iterator[str]:
    numbers = [_decoded(event)["sequence_number"] for event in job.events]
    if numbers != list(range(len(numbers))):
        yield f"has a journal with the numbers {numbers}"
        return
    for reads in said.readers:
        for read in reads:
            if list(read.events) != list(job.events[read.starting_after + 1 :][: len(read.events)]):
                yield f"was streamed after {read.starting_after} with other events than its journal"
            if read.is_done and read.starting_after + 1 + len(read.events) != len(job.events):
                yield f"was streamed to its end with {len(read.events)} events after {read.starting_after}"
        if reads and not reads[-1].is_done:
            yield "was never streamed to its end"


@dataclass
class _Frame:
    """How far the wire's rules were followed: one item at a time, no index twice, nothing behind the end."""

    open_index: int | None = None
    next_index: int = 0
    text: str = ""
    is_over: bool = False
    done: list[JsonObject] = field(default_factory=list)

    def take(self, event: JsonObject) -> Iterator[str]:
        kind = event["type"]
        if self.is_over:
            yield f"goes on behind its end with {kind}"
        if kind == "response.output_item.added":
            yield from self._open(event["output_index"])
        elif "output_index" in event and event["output_index"] != self.open_index:
            yield f"has {kind} of item {event['output_index']} while {self.open_index} is open"
        if kind == "response.output_text.delta":
            self.text += event["delta"]
        if kind == "response.output_item.done":
            yield from self._close(event["output_index"], event["item"])
        if kind in _TERMINAL_EVENTS:
            self.is_over = True
            yield from self._end(event["response"])

    def _open(self, index: int) -> Iterator[str]:
        if self.open_index is not None:
            yield f"opens item {index} while {self.open_index} is open"
        if index != self.next_index:
            yield f"opens item {index} where {self.next_index} is due"
        self.open_index, self.text = index, ""

    def _close(self, index: int, item: JsonObject) -> Iterator[str]:
        self.open_index, self.next_index = None, index + 1
        self.done.append(item)
        if item["type"] == "message" and _text_of(item) != self.text:
            yield f"closes item {index} with another text than its deltas"

    def _end(self, response: JsonObject) -> Iterator[str]:
        if self.open_index is not None:
            yield f"ends while item {self.open_index} is open"
        whole = [item for item in self.done if item["status"] != "incomplete"]
        # A cut answer keeps the text that was open at its end, behind what is whole.
        is_cut = response["status"] in {"cancelled", "incomplete"}
        cut = [item for item in self.done[-1:] if item["status"] == "incomplete"] if is_cut else []
        if response["output"] not in (whole, [*whole, *cut]):
            yield "has a final output that is not its finished items"


def _framing(events: Sequence[bytes]) -> Iterator[str]:
    frame = _Frame()
    for event in map(_decoded, events):
        yield from frame.take(event)


# Promise G5: Tools


def _task_effects(history: History, snapshot: Snapshot, jobs: dict[str, Job]) -> Iterator[str]:
    """Our own tools are exactly once: a task for each call that says so, and none without an intent."""
    counts = Counter(title for _, title in snapshot.tasks)
    for said in history.accepted:
        job = jobs.get(said.response_id)
        title = said.text.removeprefix("add a task: ")
        if job is None or job.response is None or title == said.text:
            continue
        told = [item for item in job.response["output"] if item["type"] == "mcp_call" and item["name"] == "add_task"]
        done = [item for item in told if item["status"] == "completed"]
        if counts[title] > 1:
            yield f"{said.response_id}: did its task {counts[title]} times"
        # A cancel may come between a call and its result: then its item says that the outcome is unknown.
        may_be_done = [item for item in told if "outcome unknown" in json.dumps(item["error"])]
        if not len(done) <= counts[title] <= len(done) + len(may_be_done):
            yield f"{said.response_id}: tells of {len(done)} tasks and made {counts[title]}"
        if job.status == "completed" and not told:
            yield f"{said.response_id}: never called its tool"
    yield from _without_intent(snapshot, [key for key in snapshot.keys if key[0] in history.users])
    if len(snapshot.keys) != len(set(snapshot.keys)):
        yield "an idempotency key is there twice"


def _once_at_most(snapshot: Snapshot, effects: Sequence[Effect]) -> Iterator[str]:
    """A tool that is not declared idempotent runs at most once, and is told as it was."""
    counts = Counter((effect.user_id, effect.key) for effect in effects)
    by_title = Counter(effect.title for effect in effects)
    for (user_id, key), count in counts.items():
        if count > 1:
            yield f"{user_id}: call {key} was made {count} times"
    for job in snapshot.jobs:
        for item in (job.response or {}).get("output", []):
            if item["type"] != "mcp_call":
                continue
            title = json.loads(item["arguments"]).get("title")
            if by_title[title] > 1:
                yield f"{job.response_id}: {title!r} was done {by_title[title]} times"
            if item["status"] == "completed" and not by_title[title]:
                yield f"{job.response_id}: tells of {title!r}, which was never done"
    yield from _without_intent(snapshot, list(counts))


def _without_intent(snapshot: Snapshot, keys: Sequence[tuple[str, str]]) -> Iterator[str]:
    jobs = {job.id.hex: job for job in snapshot.jobs}
    for user_id, key in keys:
        job_key, step, index = key.split(":")
        job = jobs.get(job_key)
        if job is None or job.user_id != user_id or (int(step), int(index)) not in job.intents:
            yield f"{user_id}: call {key} was made without a recorded intent"


# Promise G6: Isolation


def _foreign(history: History, snapshot: Snapshot) -> Iterator[str]:
    for user_id in history.users:
        canary = user_id.encode()
        for said in history.said:
            if said.user_id != user_id and any(canary in event for r in said.readers for c in r for event in c.events):
                yield f"{said.user_id} was streamed something of {user_id}"
        for job in snapshot.jobs:
            stored = "\n".join([*job.asked, *job.answered])
            if job.user_id != user_id and (user_id in stored or any(canary in event for event in job.events)):
                yield f"{job.response_id} of {job.user_id} holds something of {user_id}"
        yield from (
            f"the list of {owner} holds {title!r}"
            for owner, title in snapshot.tasks
            if owner != user_id and user_id in title
        )
    yield from _foreign_answers(history)


def _foreign_answers(history: History) -> Iterator[str]:
    """No answer holds the name of another user, nor an id of theirs; who asks with an id is not told it again."""
    words = {user_id: {user_id} for user_id in history.users}
    for said in history.accepted:
        words[said.user_id] |= {said.response_id, said.conversation_id}
    for seen in history.seen:
        for user_id in words.keys() - {seen.user_id}:
            if any(word.encode() in seen.body for word in words[user_id]):
                yield f"{seen.user_id} was shown something of {user_id}: {seen.status} to {seen.request}"


# What must be left when everything is done: nothing


def _rest(snapshot: Snapshot) -> Iterator[str]:
    for queue, count in snapshot.queues.items():
        if count:
            yield f"{queue} holds {count} messages"
    if snapshot.active_count:
        yield f"{snapshot.active_count} conversations still have an active job"
    yield from (f"leaked session: {session}" for session in snapshot.stuck_sessions)
    yield from leaks(snapshot)


def leaks(snapshot: Snapshot) -> Iterator[str]:
    """Which processes hold more than they did when they were at rest before."""
    for name, before in snapshot.held_at_rest.items():
        now = snapshot.held[name]
        if now.open_files > before.open_files + _SPARE_FILES:
            yield f"{name} holds {now.open_files} open files, and held {before.open_files}"
        if now.tasks > before.tasks:
            yield f"{name} holds {now.tasks} tasks, and held {before.tasks}"


def _decoded(event: bytes) -> JsonObject:
    decoded: JsonObject = json.loads(event)
    return decoded


def _text_of(item: JsonObject) -> str:
    return "".join(part["text"] for part in item["content"])
