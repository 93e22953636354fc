"""What the systems are put through, each as one measurement of one running system."""

import resource
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench import meters
from bench.load.turns import Load
from bench.meters import Servers
from bench.systems import Running
from bench.words import Wanted


@dataclass(frozen=True, slots=True)
class Bench:
    """One system in one round. `scale` shortens what takes long: 1 is the whole."""

    running: Running
    servers: Servers
    model_pid: int
    seed: int
    scale: float = 1.0

    def load(self, wanted: Wanted, **more: Any) -> Load:
        running = self.running
        return Load(running.url, running.dialect, wanted, token_of=running.token_of, seed=self.seed, **more)


@dataclass(frozen=True, slots=True)
class Scenario:
    """`feature` is what a system must have to be put through it; empty: everybody is."""

    name: str
    run: Callable[[Bench], Awaitable[dict[str, Any]]]
    about: str
    feature: str = ""


Loaded = Callable[[], Awaitable[Mapping[str, Any]]]


async def _measured(bench: Bench, run: Loaded, *, counts_messages: bool = False) -> dict[str, Any]:
    """What a load came to, with what was spent on each of its turns."""
    servers = bench.servers if bench.running.uses_servers else None
    before = await meters.read(bench.running.processes, servers, counts_messages=counts_messages)
    model = meters.cpu_seconds(bench.model_pid)
    summary = dict(await run())
    model_spent = meters.cpu_seconds(bench.model_pid) - model
    after = await meters.read(bench.running.processes, servers, counts_messages=counts_messages)
    turns = summary["turns"] + summary.get("turns_before", 0)
    return {
        **summary,
        **meters.spent(before, after, turns),
        "model_cpu_ms_per_turn": round(model_spent / turns * 1000, 3),
    }


async def _idle_latency(bench: Bench) -> dict[str, Any]:
    load = bench.load(Wanted(""))
    await load.counted(10)
    load = bench.load(Wanted(""))

    async def run() -> Mapping[str, Any]:
        return (await load.counted(max(20, round(100 * bench.scale)))).summary()

    return await _measured(bench, run)


def _streaming(conversations: int) -> Callable[[Bench], Awaitable[dict[str, Any]]]:
    """An open loop whose turns last so long that so many of them stream at a time."""
    seconds = 10.0
    wanted = Wanted("", tokens=300, pace=30.0, burst=3)

    async def scenario(bench: Bench) -> dict[str, Any]:
        load = bench.load(wanted)

        async def run() -> Mapping[str, Any]:
            log = await load.open_loop(conversations / seconds, max(3.0, 20 * bench.scale), warm_up_seconds=seconds)
            return {**log.summary(), "turns_before": round(conversations / seconds * seconds)}

        return await _measured(bench, run)

    return scenario


async def _saturation(bench: Bench) -> dict[str, Any]:
    load = bench.load(Wanted(""))

    async def run() -> Mapping[str, Any]:
        return (await load.closed(32, max(3.0, 10 * bench.scale))).summary()

    await bench.load(Wanted("")).closed(32, 2.0)
    return await _measured(bench, run)


async def _counts(bench: Bench) -> dict[str, Any]:
    """Turns one after another, each of them of a second: what one costs in commits and messages."""
    load = bench.load(Wanted("", tokens=30, pace=30.0))

    async def run() -> Mapping[str, Any]:
        return (await load.counted(10)).summary()

    return await _measured(bench, run, counts_messages=True)


_ALL = (
    Scenario("idle", _idle_latency, "1 conversation, 22 tokens at once, one turn after another"),
    Scenario("stream-200", _streaming(200), "200 streaming: 20 turns/s of 10 s, 30 tokens/s in threes"),
    Scenario("saturation", _saturation, "32 clients, 22 tokens at once, the next turn as soon as the last has ended"),
    Scenario("stream-1000", _streaming(1_000), "1,000 streaming: 100 turns/s of 10 s, 30 tokens/s in threes"),
    Scenario("counts", _counts, "10 turns of a second, one after another: commits and messages"),
)
SCENARIOS: Mapping[str, Scenario] = {scenario.name: scenario for scenario in _ALL}


def raise_file_limit() -> None:
    """As many open connections as this process may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
