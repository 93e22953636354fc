"""What the systems are put through, each as one measurement of one running system."""

import asyncio
import resource
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

from bench import meters
from bench.load.dialects import Heard, Parley
from bench.load.http import Connection, HttpError, Request
from bench.load.outcomes import Log, Outcome, Way, spread
from bench.load.turns import Load, Mix
from bench.meters import Servers
from bench.systems import Message, Running, pids_of
from bench.words import Wanted

_TURN_SECONDS = 10.0
_PACED = Wanted("", tokens=300, pace=30.0)  # in deltas of so many tokens as the bench says
BURST = 15
_PATIENCE_SECONDS = 60.0  # then a turn of ten has failed
_FOR_EVER_MS = 600_000.0


@dataclass(frozen=True, slots=True)
class Bench:
    """One system in one round. `scale` shortens what takes long: 1 is the whole.

    `model_pid` is None where the model is no process of its own. `burst`: tokens in a delta of those that stream long.
    """

    running: Running
    servers: Servers
    model_pid: int | None
    seed: int
    scale: float = 1.0
    burst: int = BURST

    def load(self, wanted: Wanted | None = None, **more: Any) -> Load:
        running = self.running
        parts: dict[str, Any] = {"dialect": running.dialect, "token_of": running.token_of, "seed": self.seed} | more
        return Load(running.url, wanted=wanted or Wanted(""), **parts)

    async def measured(
        self, run: Callable[[], Awaitable[Mapping[str, Any]]], *, messages: bool = False
    ) -> dict[str, Any]:
        """What a load came to, with what was spent on each of its turns; `messages` are counted where wanted."""
        processes, used = self.running.processes, self.running.servers
        before = await meters.read(processes, used, self.servers, counts_messages=messages)
        model = self._model_cpu_seconds()
        summary = dict(await run())
        model_spent = self._model_cpu_seconds() - model
        after = await meters.read(processes, used, self.servers, counts_messages=messages)
        turns = summary["turns"] + summary.get("turns_before", 0)
        spent = meters.spent(before, after, turns)
        return {**summary, **spent, "model_cpu_ms_per_turn": round(model_spent / turns * 1000, 3)}

    def _model_cpu_seconds(self) -> float:
        return 0.0 if self.model_pid is None else meters.cpu_seconds(self.model_pid)


Run = Callable[[Bench], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """`is_for` says which systems are put through it."""

    name: str
    run: Run
    about: str
    is_for: Callable[[Running], bool] = lambda _running: True
    is_usual: bool = True  # part of a run that names none


def _has_servers(running: Running) -> bool:
    return bool(running.servers)


def _is_parley(running: Running) -> bool:
    return running.stack is not None


def _keeps_history(running: Running) -> bool:
    return running.seed is not None


def _keeps_history_for_users(running: Running) -> bool:
    """The floor does not keep the turns of a conversation apart: it has no features."""
    return running.seed is not None and running.dialect.name != "floor"


# --- Speed


async def _idle(bench: Bench) -> dict[str, Any]:
    await bench.load().counted(10)
    load = bench.load()

    async def run() -> Mapping[str, Any]:
        return (await load.counted(max(20, round(60 * bench.scale)))).summary()

    return await bench.measured(run)


async def _streaming(conversations: int, bench: Bench) -> dict[str, Any]:
    """An open loop of turns that last ten seconds, so that so many stream at a time; measured once they do."""
    load = bench.load(replace(_PACED, burst=bench.burst), turn_seconds_max=_PATIENCE_SECONDS)
    rate = conversations / _TURN_SECONDS

    async def run() -> Mapping[str, Any]:
        log = await load.open_loop(rate, max(3.0, 15 * bench.scale), warm_up_seconds=_TURN_SECONDS)
        return {**log.summary(), "turns_before": conversations}

    return await bench.measured(run)


async def _saturation(bench: Bench) -> dict[str, Any]:
    await bench.load().closed(32, 2.0)
    load = bench.load()

    async def run() -> Mapping[str, Any]:
        return (await load.closed(32, max(3.0, 8 * bench.scale))).summary()

    return await bench.measured(run)


async def _mix(bench: Bench) -> dict[str, Any]:
    load = bench.load(Wanted("", tokens=60, pace=60.0, burst=2), mix=Mix(resume=0.3, poll=0.2, cancel=0.1))

    async def run() -> Mapping[str, Any]:
        return (await load.closed(32, max(4.0, 15 * bench.scale))).summary()

    return await bench.measured(run)


# --- Cost


async def _counts(wanted: Wanted, bench: Bench) -> dict[str, Any]:
    """Turns one after another: what one costs in commits and messages. The conversation is there before."""
    load = bench.load(wanted, turns_per_conversation=1_000)
    connection = Connection(load.url)
    conversation = await load.open(connection)
    await load.turn(connection, conversation, Way.STREAM, time.perf_counter(), Log())
    connection.close()

    async def run() -> Mapping[str, Any]:
        return (await load.counted(max(3, round(10 * bench.scale)), conversation=conversation)).summary()

    return await bench.measured(run, messages=True)


async def _history(message_count: int, bench: Bench) -> dict[str, Any]:
    """Turns in conversations with so many messages before them; few in each, so that it stays at that."""
    assert bench.running.seed is not None
    load = bench.load(turns_per_conversation=1_000)
    connection = Connection(load.url)
    conversations = [await load.open(connection) for _ in range(max(2, round(6 * bench.scale)))]
    for conversation in conversations:
        await bench.running.seed(conversation, past(message_count))

    async def run() -> Mapping[str, Any]:
        load.log.began_at = time.perf_counter()
        for conversation in conversations * 5:
            await load.turn(connection, conversation, Way.STREAM, time.perf_counter())
        load.log.ended_at = time.perf_counter()
        return load.log.summary()

    try:
        return await bench.measured(run)
    finally:
        connection.close()


def past(message_count: int) -> Sequence[Message]:
    """What was said before: about a hundred characters a message."""
    text = "what was said so far and is long enough to be worth sending to a model once more, word by word, like this"
    return [("user" if number % 2 == 0 else "assistant", f"{number}: {text}") for number in range(message_count)]


async def _tools(bench: Bench) -> dict[str, Any]:
    load = bench.load(Wanted("", tool="list_tasks"), dialect=Parley("parley", "todo"))
    await load.counted(3)
    load = bench.load(Wanted("", tool="list_tasks"), dialect=Parley("parley", "todo"))

    async def run() -> Mapping[str, Any]:
        return (await load.counted(max(10, round(50 * bench.scale)))).summary()

    return await bench.measured(run)


async def _idle_streams(bench: Bench) -> dict[str, Any]:
    """Ten thousand open streams in which nothing happens: of five hundred answers that do not begin."""
    gateway = bench.running.processes["gateway"]
    per_job, job_count = 20, max(25, round(500 * bench.scale))
    load = bench.load(Wanted("", first_ms=_FOR_EVER_MS))
    dialect = Parley()
    jobs: list[tuple[Connection, Any, Heard]] = []
    streams: list[tuple[Connection, asyncio.Task[int]]] = []
    try:
        for number in range(job_count):
            connection = Connection(load.url)
            conversation, heard = await load.open(connection), Heard()
            jobs.append((connection, conversation, heard))
            text = Wanted(f"{bench.seed}-idle-{number}", first_ms=_FOR_EVER_MS).directive
            dialect.posted(conversation, heard, await _body(connection, dialect.post_apart(conversation, text, text)))
        before = meters.memory_bytes(gateway)
        for _, conversation, heard in jobs:
            opened = [_opened(load.url, dialect.resume(conversation, heard)) for _ in range(per_job)]
            streams += await asyncio.gather(*opened)
        after = meters.memory_bytes(gateway)
        alive = sum(not task.done() for _, task in streams)
        return {
            "turns": job_count,
            "streams": len(streams),
            "streams_alive": alive,
            "failed": len(streams) - alive,
            "wrong_answers": 0,
            "kib_per_stream": round((after - before) / len(streams) / 1024, 2),
            "gateway_mib_before": round(before / 2**20, 1),
            "gateway_mib_after": round(after / 2**20, 1),
        }
    finally:
        for connection, task in streams:
            task.cancel()
            connection.close()
        for connection, conversation, heard in jobs:
            if heard.response_id:
                await _body(connection, dialect.cancel(conversation, heard))
            connection.close()


async def _opened(url: str, request: Request) -> tuple[Connection, "asyncio.Task[int]"]:
    """A stream whose first events have come."""
    connection, came = Connection(url), asyncio.Event()
    task = asyncio.create_task(connection.send(request, lambda *_: came.set()))
    waiting = asyncio.create_task(came.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    return connection, task


async def _body(connection: Connection, request: Request) -> bytes:
    pieces: list[bytes] = []
    status = await connection.send(request, lambda _, piece: pieces.append(piece))
    if status != 200:
        raise HttpError(f"{status}: {b''.join(pieces)[:200]!r}")
    return b"".join(pieces)


# --- Promises


async def _posts(bench: Bench) -> dict[str, Any]:
    """A hundred posts at once on one conversation: is each answered, to its own question, one at a time?"""
    load = bench.load(Wanted("", tokens=10, pace=200.0), turns_per_conversation=1_000)
    first = Connection(load.url)
    conversation = await load.open(first)
    await load.turn(first, conversation, Way.STREAM, time.perf_counter(), Log())
    connections = [first, *(Connection(load.url) for _ in range(99))]

    async def run() -> Mapping[str, Any]:
        load.log.began_at = now = time.perf_counter()
        turns = [load.turn(connection, conversation, Way.STREAM, now) for connection in connections]
        outcomes = await asyncio.gather(*turns)
        load.log.ended_at = time.perf_counter()
        return {**load.log.summary(), "overlapping": _overlapping(outcomes)}

    try:
        return await bench.measured(run)
    finally:
        for connection in connections:
            connection.close()


def _overlapping(outcomes: Sequence[Outcome]) -> int:
    """How many answers began, as their readers saw it, before the one before them had ended."""
    spans = sorted((one.first_at, one.ended_at) for one in outcomes if one.first_at and one.ended_at)
    return sum(later[0] < earlier[1] for earlier, later in pairwise(spans))


async def _kill(bench: Bench) -> dict[str, Any]:
    """kill -9 of each process while answers stream, and its start: what do clients get that come back?

    Beyond the time that the process takes to be ready again, an answer may have to be begun anew; that time is the
    model's, and is taken off.
    """
    assert bench.running.stack is not None
    wanted = Wanted("", tokens=40, pace=40.0)
    summaries: dict[str, Any] = {}
    for name, process in bench.running.stack.processes.items():
        load = bench.load(wanted, seed=bench.seed * 1_000 + len(summaries))
        turn_count = max(10, round(34 * bench.scale))
        connections = [Connection(load.url) for _ in range(turn_count)]
        conversations = [await load.open(connection) for connection in connections]
        load.log.began_at = began = time.perf_counter()
        turns = [
            asyncio.create_task(load.turn(connection, conversation, Way.PERSIST, began))
            for connection, conversation in zip(connections, conversations, strict=True)
        ]
        await asyncio.sleep(wanted.seconds / 2)
        killed = time.perf_counter()
        process.kill()
        process.start()
        await process.ready()
        bench.running.processes = pids_of(bench.running.stack)
        restart = time.perf_counter() - killed
        outcomes = await asyncio.gather(*turns)
        load.log.ended_at = time.perf_counter()
        after = [one.ended_at - killed - restart - wanted.seconds for one in outcomes if one.ended_at]
        summaries[name] = {
            **load.log.summary(),
            "restart_ms": round(restart * 1000),
            "beyond_ms": spread([max(0.0, seconds) for seconds in after]),
        }
        for connection in connections:
            connection.close()
    sums = {key: sum(one[key] for one in summaries.values()) for key in ("turns", "failed", "wrong_answers")}
    return {**sums, "processes": summaries}


_ALL = (
    # First, as the memory of a process that has just begun is what streams are added to.
    Scenario("idle-streams", _idle_streams, "10,000 open streams in which nothing happens", _is_parley),
    Scenario("idle", _idle, "1 conversation: 22 tokens at once, one turn after another"),
    Scenario("stream-200", partial(_streaming, 200), "200 streaming: 20 turns/s of 10 s each, 30 tokens/s"),
    Scenario("saturation", _saturation, "32 clients: 22 tokens at once, the next turn as soon as the last has ended"),
    Scenario(
        "counts",
        partial(_counts, Wanted("")),
        "22 tokens at once, one turn after another: commits, messages",
        _has_servers,
    ),
    Scenario(
        "counts-paced",
        partial(_counts, Wanted("", tokens=60, pace=30.0)),
        "a turn of 2 s, 30 tokens/s, one after another: commits, messages",
        _has_servers,
    ),
    *(
        Scenario(f"history-{count}", partial(_history, count), f"turns after {count} messages", _keeps_history)
        for count in (10, 30, 100, 1_000)
    ),
    Scenario("tools", _tools, "a tool call, then 22 tokens", _is_parley),
    Scenario("mix", _mix, "32 clients: streams, 30 % of them resumed, 20 % polled, 10 % cancelled", _is_parley),
    Scenario("posts", _posts, "100 posts at once on one conversation", _keeps_history_for_users),
    Scenario("kill", _kill, "kill -9 of each process while answers stream", _is_parley),
    Scenario(
        "stream-1000",
        partial(_streaming, 1_000),
        "1,000 streaming: 100 turns/s of 10 s each, 30 tokens/s",
    ),
    Scenario(
        "stream-5000",
        partial(_streaming, 5_000),
        "5,000 streaming: 500 turns/s of 10 s each; for machines with more cores",
        is_usual=False,
    ),
)
SCENARIOS: Mapping[str, Scenario] = {scenario.name: scenario for scenario in _ALL}


def raise_file_limit() -> None:
    """As many open connections as this process may have, and what it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
