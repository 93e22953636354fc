"""The version before and this one, side by side: upgraded process by process, in the documented order, while it talks.

`former_version` names the commit that is the version before: the last one of the former milestone, and from the first
release on the former release. Its own code runs, on its own schema, with today's libraries.
"""

import asyncio
import io
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from deploy.local.rabbitmq import PrivateRabbit
from shared.contracts import encode
from shared.db.migrate import ROLES, migrate
from shared.ids import uuid7
from tests.shared.test_contracts import SAMPLES
from tests.support.backends import Backends, at, execute
from tests.support.services import private_rabbit
from tests.support.stack import ServiceProcess, running_stack
from tests.system.faults.load import QUICK_REPAIRS, Arena
from tests.system.faults.snapshot import settled

_ROOT = Path(__file__).parents[2]
# As docs/operations.md has it. Persistence makes what is new on the broker; what produces comes after what consumes.
_ORDER = ("persistence", "task-tools", "chat-worker", "gateway")
_MODULES = {
    "GATEWAY_DATABASE_URL": "parley_gateway",
    "CHAT_WORKER_DATABASE_URL": "parley_worker",
    "PERSISTENCE_DATABASE_URL": "parley_persistence",
    "TASK_TOOLS_DATABASE_URL": "parley_tools",
}


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PYTHONPATH that has the packages of the version before come first."""
    commit = Path(__file__).with_name("former_version").read_text().split()[0]
    archive = subprocess.run(["git", "archive", commit], cwd=_ROOT, capture_output=True, check=False)  # noqa: S607
    if archive.returncode:
        pytest.skip(f"this copy of the repository does not hold the version before, {commit}")
    folder = tmp_path_factory.mktemp("former")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return os.pathsep.join(str(path) for path in sorted(folder.glob("*/src")))


@pytest.fixture
def rabbit() -> Iterator[PrivateRabbit]:
    """As it was left by the version before: nobody has made anything on it yet."""
    with private_rabbit() as server:
        yield server


async def test_it_is_upgraded_process_by_process_while_it_talks(
    former: str, rabbit: PrivateRabbit, tmp_path: Path
) -> None:
    async with _database_of(former) as urls:
        backends = Backends(urls, rabbit.url)
        async with _former_system(backends, former, tmp_path) as arena:
            await arena.talk()
            assert await arena.verdict(attempts_max=1) == []
            stored = {job.response_id: job.events for job in (await settled(backends, seconds=0)).jobs}

            await migrate(urls["owner"], [urls[role] for role in ROLES])
            await arena.talk()
            assert await arena.verdict(attempts_max=1) == []
            for kind in _ORDER:
                for process in arena.stack.of_kind(kind):
                    await asyncio.gather(arena.talk(), _replace(process, {"PYTHONPATH": ""}))
            await arena.talk()

            assert await arena.verdict(attempts_max=3) == []
            now = {job.response_id: (job.status, job.events) for job in (await settled(backends, seconds=0)).jobs}
            assert {status for status, _ in now.values()} == {"completed"}
            assert {response_id: now[response_id][1] for response_id in stored} == stored

            # One that disappoints goes back, with the schema as it is now.
            await asyncio.gather(arena.talk(), _replace(arena.stack.processes["chat-worker-0"], {}))
            await asyncio.gather(arena.talk(), _replace(arena.stack.processes["gateway-0"], {}))
            assert await arena.verdict(attempts_max=3) == []


def test_the_version_before_understands_what_this_one_sends(former: str, tmp_path: Path) -> None:
    """All messages that it knows of, as this version sends them; those that are new it is never sent (see _ORDER)."""
    program = """
import sys
from pathlib import Path
from shared import contracts
for file in sorted(Path(sys.argv[1]).iterdir()):
    try:
        print(type(contracts.decode(file.read_bytes())).__name__)
    except contracts.InvalidInputError:
        print("refused", file.name)
"""
    for name, message in SAMPLES.items():
        (tmp_path / name).write_bytes(encode(message))

    said = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        env={"PYTHONPATH": former, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )

    assert said.stdout.split("\n")[:-1] == [type(message).__name__ for _, message in sorted(SAMPLES.items())]


async def _replace(process: ServiceProcess, variables: Mapping[str, str]) -> None:
    """As a deployment does it: the process ends in order, and its successor takes its place."""
    assert await asyncio.to_thread(process.stop) in {0, -signal.SIGTERM}
    process.start(variables)
    await process.ready()


@asynccontextmanager
async def _former_system(backends: Backends, former: str, folder: Path) -> AsyncIterator[Arena]:
    variables = {**QUICK_REPAIRS, "PYTHONPATH": former, "RABBITMQ_URL": backends.rabbitmq_url}
    counts = {"gateway": 2, "chat-worker": 2, "persistence": 2}
    async with running_stack(backends, folder, counts=counts, variables=variables) as stack:
        arena = Arena(stack, backends)
        try:
            yield arena
        finally:
            await arena.close()


@asynccontextmanager
async def _database_of(former: str) -> AsyncIterator[dict[str, str]]:
    """A database that the version before has made; dropped afterwards."""
    server, name = os.environ["DATABASE_URL"], f"parley_test_{uuid7().hex}"
    await execute(server, f'create database "{name}"')
    urls = {"owner": at(server, name), **{role: at(server, name, role) for role in ROLES}}
    variables = {variable: urls[role] for variable, role in _MODULES.items()}
    try:
        await asyncio.to_thread(
            partial(
                subprocess.run,
                [sys.executable, "-m", "shared.db.migrate"],
                env={"PYTHONPATH": former, "PATH": os.environ["PATH"], "DATABASE_URL": urls["owner"], **variables},
                check=True,
            )
        )
        yield urls
    finally:
        await execute(server, f'drop database "{name}" with (force)')
