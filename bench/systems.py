"""The systems that are compared: how each is started, what it runs on, and how it is talked to."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import asyncpg
import httpx2

from bench.load.dialects import Dialect, Direct, Floor, Parley
from deploy.local.ports import LOOPBACK, free_ports
from tests.support.backends import Backends
from tests.support.stack import Stack, running_stack, token_of
from tests.support.waiting import wait_until

FOLDER = Path(__file__).parent
_READY_SECONDS = 120.0
_WORKER_JOBS_MAX = 1_000
_STREAMS_MAX = 12_000


@dataclass(slots=True)
class Running:
    """A system that runs. `processes` are its own; `uses_servers`: Postgres and RabbitMQ are part of it."""

    url: str
    dialect: Dialect
    processes: Mapping[str, int]
    uses_servers: bool = True
    token_of: Callable[[str], str] = lambda _user_id: ""
    stack: Stack | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a system is started in: empty databases and queues of its own, a folder, the model's address."""

    backends: Backends
    folder: Path
    model_url: str
    environments: Path  # of those that have packages of their own


@dataclass(frozen=True, slots=True)
class System:
    """`packages` names the folder with its lock file, where it has an environment of its own."""

    name: str
    start: Callable[[Surroundings], AbstractAsyncContextManager[Running]]
    about: str
    packages: Path | None = None
    is_durable: bool = False
    features: frozenset[str] = field(default_factory=frozenset)  # history, tools, posts, kill, idle


@asynccontextmanager
async def _parley(around: Surroundings) -> AsyncIterator[Running]:
    """The whole system, as `./dev up` runs it, with room for what the benches ask of it."""
    variables = {
        "OPENAI_BASE_URL": f"{around.model_url}/v1",
        "CHAT_WORKER_CONCURRENCY": str(_WORKER_JOBS_MAX),
        "GATEWAY_CONNECTIONS_MAX": str(_STREAMS_MAX),
        "GATEWAY_STREAMS_MAX": str(_STREAMS_MAX),
        "GATEWAY_OPEN_JOBS_PER_USER_MAX": "1000",
        "MODEL_CONTEXT_TOKENS": "200000",
    }
    async with running_stack(around.backends, around.folder, counts={"demo-model": 0}, variables=variables) as stack:
        processes = {name.removesuffix("-0"): _pid(process.popen) for name, process in stack.processes.items()}
        yield Running(stack.gateway().url, Parley(), processes, token_of=_token_of, stack=stack)


@cache
def _token_of(user_id: str) -> str:
    return token_of(user_id)


@asynccontextmanager
async def _floor(around: Surroundings) -> AsyncIterator[Running]:
    await _execute(around.backends.database_urls["owner"], (FOLDER / "floor" / "schema.sql").read_text())
    [port] = free_ports(1)
    variables = _variables(around) | {"RABBITMQ_URL": around.backends.rabbitmq_url}
    module: list[str | Path] = [around.environments / "floor" / "bin" / "python", "-m"]
    commands = {
        "gateway": [*module, "bench.floor.gateway", str(port)],
        "worker": [*module, "bench.floor.worker"],
        "persistence": [*module, "bench.floor.persistence"],
    }
    async with _processes(commands, variables, around.folder) as processes:
        yield await _ready(Running(f"http://{LOOPBACK}:{port}", Floor(), processes), "/health")


@asynccontextmanager
async def _direct(around: Surroundings) -> AsyncIterator[Running]:
    yield Running(around.model_url, Direct(), {}, uses_servers=False)


def _variables(around: Surroundings) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {
        **kept,
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(FOLDER.parent),
        "DATABASE_URL": around.backends.database_urls["owner"],
        "OPENAI_BASE_URL": f"{around.model_url}/v1",
        "OPENAI_API_KEY": "bench",
    }


async def _execute(url: str, statements: str) -> None:
    """In a schema of the benches' own, away from Parley's tables."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("drop schema public cascade; create schema public")
        await connection.execute(statements)
    finally:
        await connection.close()


async def _ready(running: Running, path: str) -> Running:
    async with httpx2.AsyncClient(timeout=5) as http:

        async def is_ready() -> bool:
            try:
                return (await http.get(f"{running.url}{path}")).status_code == httpx2.codes.OK
            except httpx2.TransportError:
                return False

        await wait_until(is_ready, seconds=_READY_SECONDS, what=f"{running.dialect.name} ready")
    return running


@asynccontextmanager
async def _processes(
    commands: Mapping[str, Sequence[str | Path]], variables: Mapping[str, str], folder: Path
) -> AsyncIterator[dict[str, int]]:
    """Processes with their logs in `folder`, ended with all that they started."""
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in commands.items():
            started[name] = start(command, variables, folder / f"{name}.log")
        yield {name: process.pid for name, process in started.items()}
    finally:
        for process in started.values():
            await asyncio.to_thread(end, process)


def start(command: Sequence[str | Path], variables: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
    """A process in a session of its own."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=dict(variables),
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM; what is there after ten seconds is killed, with all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _pid(process: "subprocess.Popen[bytes] | None") -> int:
    assert process is not None
    return process.pid


_ALL = (
    System("direct", _direct, "the model, called directly"),
    System(
        "floor",
        _floor,
        "our hops as raw ASGI, asyncpg and aio-pika, without features",
        packages=FOLDER / "floor",
        is_durable=True,
    ),
    System(
        "parley", _parley, "Parley", is_durable=True, features=frozenset({"history", "tools", "posts", "kill", "idle"})
    ),
)
SYSTEMS: Mapping[str, System] = {system.name: system for system in _ALL}
