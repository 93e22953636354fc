"""The systems that are compared: how each is started, what it runs on, and how it is talked to."""

import asyncio
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import asyncpg
import httpx2

from bench import redis
from bench.load.dialects import Conversation, Dialect, Direct, Floor, LangGraph, Parley, Plain
from deploy.local.ports import LOOPBACK, free_ports
from tests.support.backends import Backends
from tests.support.stack import Stack, running_stack, token_of
from tests.support.waiting import wait_until

FOLDER = Path(__file__).parent
_READY_SECONDS = 120.0
_WORKER_JOBS_MAX = 1_000
_STREAMS_MAX = 12_000
_ITEMS_MAX = 20  # in one request
_POSTGRES = frozenset({"postgres"})
_BOTH = frozenset({"postgres", "rabbitmq"})
_CELERY_THREADS = "200"  # its default, a process per core, would make a queue of two
_LANGGRAPH_JOBS = "200"  # its default is 10


Message = tuple[str, str]  # the role, and what was said
Seed = Callable[[Conversation, Sequence[Message]], Awaitable[None]]


@dataclass(slots=True)
class Running:
    """A system that runs. `processes` are its own; `servers` are those that it uses of the common ones.

    `seed` gives a conversation a past, by the shortest way that the system has.
    """

    url: str
    dialect: Dialect
    processes: Mapping[str, int]
    servers: frozenset[str] = frozenset()
    token_of: Callable[[str], str] = lambda _user_id: ""
    seed: Seed | None = None
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


@asynccontextmanager
async def _parley(around: Surroundings) -> AsyncIterator[Running]:
    """The whole system, as `./dev up` runs it, with room for what the benches ask of it."""
    async with running_stack(
        around.backends, around.folder, counts={"demo-model": 0}, variables=parley_variables(around.model_url)
    ) as stack:
        url = stack.gateway().url
        yield Running(url, Parley(), pids_of(stack), _BOTH, _token_of, partial(_seed_parley, url), stack)


def pids_of(stack: Stack) -> dict[str, int]:
    return {name.removesuffix("-0"): _pid(process.popen) for name, process in stack.processes.items()}


def parley_variables(model_url: str) -> dict[str, str]:
    """Room for what the benches ask of one process of each kind; all else is as by default."""
    return {
        "OPENAI_BASE_URL": f"{model_url}/v1",
        "CHAT_WORKER_CONCURRENCY": str(_WORKER_JOBS_MAX),
        "GATEWAY_CONNECTIONS_MAX": str(_STREAMS_MAX),
        "GATEWAY_STREAMS_MAX": str(_STREAMS_MAX),
        "GATEWAY_OPEN_JOBS_PER_USER_MAX": "1000",
        "GATEWAY_STREAMS_PER_USER_MAX": "1000",
        "MODEL_CONTEXT_TOKENS": "200000",
    }


async def _seed_parley(url: str, conversation: Conversation, messages: Sequence[Message]) -> None:
    headers = {"authorization": f"Bearer {conversation.token}"}
    items = [{"type": "message", "role": role, "content": text} for role, text in messages]
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=60) as http:
        created = await http.post("/v1/conversations", json={"items": items[:_ITEMS_MAX]})
        conversation.id = created.raise_for_status().json()["id"]
        for at in range(_ITEMS_MAX, len(items), _ITEMS_MAX):
            path, some = f"/v1/conversations/{conversation.id}/items", items[at : at + _ITEMS_MAX]
            (await http.post(path, json={"items": some})).raise_for_status()


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
        seed = _seed_of_sql(around, "messages")
        yield await _ready(Running(f"http://{LOOPBACK}:{port}", Floor(), processes, _BOTH, seed=seed), "/health")


@asynccontextmanager
async def _direct(around: Surroundings) -> AsyncIterator[Running]:
    yield Running(around.model_url, Direct(), {})


@asynccontextmanager
async def _plain(around: Surroundings) -> AsyncIterator[Running]:
    await _execute(around.backends.database_urls["owner"])
    [port] = free_ports(1)
    commands = {"web": _uvicorn(around, "plain", port)}
    async with _processes(commands, _variables(around), around.folder) as processes:
        seed = _seed_of_sql(around, "message")
        url = f"http://{LOOPBACK}:{port}"
        yield await _ready(Running(url, Plain("plain"), processes, _POSTGRES, seed=seed), "/health")


@asynccontextmanager
async def _celery(around: Surroundings) -> AsyncIterator[Running]:
    """Redis is its broker and carries the words, so RabbitMQ has nothing to do with it."""
    await _execute(around.backends.database_urls["owner"])
    port, redis_port = free_ports(2)
    variables = _variables(around) | {"REDIS_URL": f"redis://{LOOPBACK}:{redis_port}/0"}
    celery: list[str | Path] = [
        around.environments / "celery" / "bin" / "celery",
        "--app",
        "bench.peers.celery.worker",
        "worker",
    ]
    commands: dict[str, Sequence[str | Path]] = {
        "redis": [*redis.command(), "--port", str(redis_port), "--bind", LOOPBACK, "--save", "", "--appendonly", "yes"],
        "web": _uvicorn(around, "celery", port),
        "worker": [*celery, "--pool", "threads", "--concurrency", _CELERY_THREADS, "--loglevel", "WARNING"],
    }
    variables |= redis.environment()
    async with _processes(commands, variables, around.folder) as processes:
        seed = _seed_of_sql(around, "message")
        url = f"http://{LOOPBACK}:{port}"
        yield await _ready(Running(url, Plain("celery"), processes, _POSTGRES, seed=seed), "/health")


@asynccontextmanager
async def _langgraph(around: Surroundings) -> AsyncIterator[Running]:
    """Its development server, the one that can be run without a licence; it keeps everything in memory."""
    [port] = free_ports(1)
    for file in (FOLDER / "peers" / "langgraph").glob("*graph*"):
        shutil.copy(file, around.folder)
    variables = _variables(around) | {
        "LANGSMITH_TRACING": "false",
        "LANGGRAPH_CLI_NO_ANALYTICS": "1",
        "LOG_LEVEL": "warning",
    }
    options = ["--host", LOOPBACK, "--port", str(port), "--no-browser", "--no-reload"]
    program = around.environments / "langgraph" / "bin" / "langgraph"
    command: list[str | Path] = [program, "dev", *options, "--n-jobs-per-worker", _LANGGRAPH_JOBS]
    commands = {"server": command}
    async with _processes(commands, variables, around.folder) as processes:
        url = f"http://{LOOPBACK}:{port}"
        yield await _ready(Running(url, LangGraph(), processes, seed=partial(_seed_langgraph, url)), "/ok")


async def _seed_langgraph(url: str, conversation: Conversation, messages: Sequence[Message]) -> None:
    said = [{"role": role, "content": text} for role, text in messages]
    async with httpx2.AsyncClient(base_url=url, timeout=120) as http:
        body = {"values": {"messages": said}, "as_node": "answer"}
        (await http.post(f"/threads/{conversation.id}/state", json=body)).raise_for_status()


def _seed_of_sql(around: Surroundings, table: str) -> Seed:
    """For those whose table of messages has the columns that everybody's has."""

    async def seed(conversation: Conversation, messages: Sequence[Message]) -> None:
        conversation.id = conversation.id or str(uuid.uuid4())
        connection = await asyncpg.connect(around.backends.database_urls["owner"])
        try:
            await connection.executemany(
                f"insert into {table} (conversation_id, role, content) values ($1, $2, $3)",  # noqa: S608 - ours
                [(uuid.UUID(conversation.id), role, text) for role, text in messages],
            )
        finally:
            await connection.close()

    return seed


def _uvicorn(around: Surroundings, peer: str, port: int) -> list[str | Path]:
    uvicorn = around.environments / peer / "bin" / "uvicorn"
    options = ["--host", LOOPBACK, "--port", str(port), "--no-access-log", "--log-level", "warning"]
    return [uvicorn, f"bench.peers.{peer}.app:app", *options]


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


async def _execute(url: str, statements: str = "") -> None:
    """Put tables in the place of Parley's."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"drop schema public cascade; create schema public; {statements}")
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


_ALL: tuple[System, ...] = (
    System("direct", _direct, "the model, called directly"),
    System(
        "floor",
        _floor,
        "our hops as raw ASGI, asyncpg and aio-pika, without features",
        packages=FOLDER / "floor",
        is_durable=True,
    ),
    System("parley", _parley, "Parley", is_durable=True),
)
_ALL += (
    System("plain", _plain, "synchronous FastAPI, SQLModel and openai, all in the request", FOLDER / "peers" / "plain"),
    System(
        "celery",
        _celery,
        "FastAPI, answers by Celery, Redis between them",
        FOLDER / "peers" / "celery",
        is_durable=True,
    ),
    System("langgraph", _langgraph, "LangGraph's development server", FOLDER / "peers" / "langgraph"),
)
SYSTEMS: Mapping[str, System] = {system.name: system for system in _ALL}
