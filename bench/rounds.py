"""Rounds of measurements: every system through every scenario, then all of them again (A B C, A B C, …)."""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import msgspec
import uvloop

from bench.load.http import HttpError
from bench.meters import Servers
from bench.scenarios import Bench, Scenario
from bench.systems import FOLDER, Running, Surroundings, System, end, start
from deploy.local.ports import LOOPBACK, free_ports
from deploy.local.terminal import say
from tests.support.backends import new_backends

Measurement = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured. `environments` is the folder of the systems' own packages; `once` names scenarios that only the
    first round has.
    """

    systems: Sequence[System]
    scenarios: Sequence[Scenario]
    once: Sequence[str]
    runs: int
    scale: float
    burst: int
    environments: Path


@dataclass(frozen=True, slots=True)
class Model:
    url: str
    pid: int


def measured(plan: Plan) -> Iterator[Measurement]:
    """One measurement after another, as plain values."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, running_model(Path(folder)) as model:
        for number in range(1, plan.runs + 1):
            for system in plan.systems:
                say("bench", f"round {number} of {plan.runs}: {system.name}")
                own = Path(folder) / f"{number}-{system.name}"
                own.mkdir()
                yield from _round(plan, system, model, own, number)


def _round(plan: Plan, system: System, model: Model, folder: Path, number: int) -> list[Measurement]:
    """One system, newly started on an empty database and queues of its own."""
    with new_backends() as backends:
        around = Surroundings(backends, folder, model.url, plan.environments)
        servers = _servers(backends.database_urls["owner"])

        async def run() -> list[Measurement]:
            found: list[Measurement] = []
            async with system.start(around) as running:
                for seed, scenario in enumerate(plan.scenarios, start=number * 100):
                    if scenario.is_for(running) and (number == 1 or scenario.name not in plan.once):
                        result = await _one(
                            running, scenario, Bench(running, servers, model.pid, seed, plan.scale, plan.burst)
                        )
                        found.append({"system": system.name, "scenario": scenario.name, "round": number, **result})
            return found

        return uvloop.run(run())


async def _one(running: Running, scenario: Scenario, bench: Bench) -> Measurement:
    """What the scenario came to, or, where it could not be carried out, the trouble."""
    began = time.monotonic()
    try:
        result: Measurement = msgspec.to_builtins(await scenario.run(bench))
    except (HttpError, httpx2.HTTPError, OSError, TimeoutError, AssertionError) as error:
        trouble = f"{type(error).__name__}: {error}"
        say(running.dialect.name, f"{scenario.name} could not be measured: {trouble}")
        return {"not_measured": trouble[:300]}
    say(running.dialect.name, f"{scenario.name}: {_in_short(result)} ({time.monotonic() - began:.0f} s)")
    return result


def _in_short(result: Measurement) -> str:
    first = result.get("first_token_ms")
    parts = [f"{result['turns']} turns, {result['failed']} failed, {result['wrong_answers']} wrong"]
    parts += [f"first token {first['p50']:.1f}/{first['p95']:.1f} ms"] if first else []
    told = ("turns_per_second", "writes_per_turn", "messages_per_turn", "overlapping", "kib_per_stream")
    parts += [f"{name} {result[name]}" for name in told if name in result]
    if "cpu_ms_per_turn" in result:
        parts.append(f"{result['cpu_ms_per_turn']['all']} ms CPU per turn")
    return ", ".join(parts)


@contextmanager
def running_model(folder: Path) -> Iterator[Model]:
    """The model of all systems."""
    [port] = free_ports(1)
    variables = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}
    process = start([sys.executable, "-m", "bench.model", str(port)], variables, folder / "model.log")
    url = f"http://{LOOPBACK}:{port}"
    try:
        _wait_for(url)
        yield Model(url, process.pid)
    finally:
        end(process)


def _wait_for(url: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            httpx2.get(f"{url}/health")
        except httpx2.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def _servers(owner_url: str) -> Servers:
    pids = {"postgres": os.environ.get("BENCH_POSTGRES_PID"), "rabbitmq": os.environ.get("BENCH_RABBITMQ_PID")}
    known = {name: int(pid) for name, pid in pids.items() if pid}
    return Servers(owner_url, os.environ.get("RABBITMQ_MANAGEMENT_URL", ""), known)


def server_versions() -> dict[str, str]:
    """Which servers the benches run on, and whether a commit waits for the disk."""

    async def of_postgres() -> str:
        connection = await asyncpg.connect(os.environ["DATABASE_URL"])
        try:
            version, syncs = await connection.fetchval("show server_version"), await connection.fetchval("show fsync")
        finally:
            await connection.close()
        return f"PostgreSQL {version.partition(' ')[0]} (fsync {syncs})"

    overview = httpx2.get(f"{os.environ['RABBITMQ_MANAGEMENT_URL']}/api/overview").json()
    return {"postgres": asyncio.run(of_postgres()), "rabbitmq": f"RabbitMQ {overview['rabbitmq_version']}"}
