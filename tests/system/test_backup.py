"""Everything is lost but a backup: restored into new servers, what had ended is as it was, and what had not goes on."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from deploy.local.postgres import PrivatePostgres
from deploy.local.rabbitmq import PrivateRabbit
from shared.db.migrate import ROLES, migrate
from tests.support.backends import Backends, at, execute
from tests.support.services import private_postgres, private_rabbit
from tests.support.stack import running_stack
from tests.support.waiting import wait_until
from tests.system.faults.history import Said
from tests.system.faults.load import QUICK_REPAIRS, Arena, died
from tests.system.faults.snapshot import Job, settled

_SCRIPTS = Path(__file__).parents[2] / "deploy/backup"
_WORKER = "chat-worker-0"
# What is under way when the backup is taken is to be under way in it: no repair gives it to anybody before.
_BEFORE = {**QUICK_REPAIRS, "CHAT_WORKER_LEASE_SECONDS": "20"}
_OPEN = {"queued", "in_progress"}


@pytest.fixture
def servers() -> Iterator["Servers"]:
    with ExitStack() as stack:
        yield Servers(stack)


@pytest.fixture
def postgres() -> Iterator[PrivatePostgres]:
    with private_postgres() as server:
        yield server


class Servers:
    """Pairs of servers, each as new as on the day on which it was bought."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def buy(self) -> tuple[PrivatePostgres, PrivateRabbit]:
        return self._stack.enter_context(private_postgres()), self._stack.enter_context(private_rabbit())


async def test_a_backup_is_all_that_new_servers_need(servers: Servers, tmp_path: Path) -> None:
    """The backup is taken while everything runs: with a text half said, a tool's effect untold, and turns that wait."""
    postgres, rabbit = await asyncio.to_thread(servers.buy)
    backends = Backends(await _migrated(postgres), rabbit.url)
    async with _system(backends, tmp_path / "before", _BEFORE) as arena:
        ended = await arena.talk()
        assert await arena.verdict() == []
        await _leave_half_done(arena)
        before = await settled(backends, seconds=0)

        backup = tmp_path / "parley.dump"
        await asyncio.to_thread(_run, "backup.sh", backup, postgres)
        too_late = await arena.users[0].ask()
        for process in arena.stack.processes.values():
            if process.is_running:
                process.kill()
        await asyncio.to_thread(_destroy, postgres, rabbit)

    new_postgres, new_rabbit = await asyncio.to_thread(servers.buy)
    assert "of which 5 go on" in await asyncio.to_thread(_run, "restore.sh", backup, new_postgres)
    new_backends = Backends(await _migrated(new_postgres), new_rabbit.url)
    arena.history.said.remove(too_late)
    async with _system(new_backends, tmp_path / "after", QUICK_REPAIRS, arena) as after:
        for user in after.users:
            for said in [each for each in after.history.accepted if each.user_id == user.user_id]:
                after.read(user, said)

        assert await after.verdict() == []
        now = await settled(new_backends, seconds=0)
        assert {job.response_id: job for job in now.jobs}.keys() == {job.response_id: job for job in before.jobs}.keys()
        assert _ended_ones(before.jobs).items() <= _ended_ones(now.jobs).items()
        assert {said.response_id for said in ended} == _ended_ones(before.jobs).keys()
        assert {job.status for job in now.jobs} == {"completed"}
        assert (await after.users[0].see(f"/v1/responses/{too_late.response_id}")).status == 404
        assert await after.talk()
        assert await after.verdict() == []


async def test_rights_and_rules_are_restored_with_the_rows(postgres: PrivatePostgres) -> None:
    """Row level security, grants to the column, what was taken from PUBLIC, triggers: all that the catalogs tell.

    Through pipes, as it goes with containers.
    """
    await _migrated(postgres)
    backup = await asyncio.to_thread(_pipe, "backup.sh", postgres)
    before = await _rules(postgres.url)

    await execute(at(postgres.url, "postgres"), "drop database parley")
    await execute(at(postgres.url, "postgres"), "create database parley")
    for role in ROLES:
        await execute(at(postgres.url, "postgres"), f"drop role {role}")
    await asyncio.to_thread(_pipe, "restore.sh", postgres, backup)

    assert await _rules(postgres.url) == before
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await asyncpg.connect(at(postgres.url, "parley", "parley_gateway"))


async def test_neither_script_does_half_a_thing(postgres: PrivatePostgres, tmp_path: Path) -> None:
    await _migrated(postgres)
    backup = tmp_path / "parley.dump"
    await execute(postgres.url, "create role half_blind login password 'half-blind'")
    half_blind = {"PGUSER": "half_blind", "PGPASSWORD": "half-blind"}

    with pytest.raises(subprocess.CalledProcessError) as refused:
        await asyncio.to_thread(_run, "backup.sh", backup, postgres, half_blind)
    assert "sees not all rows" in refused.value.stderr
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240

    await asyncio.to_thread(_run, "backup.sh", backup, postgres)
    with pytest.raises(subprocess.CalledProcessError) as refused:
        await asyncio.to_thread(_run, "restore.sh", backup, postgres)
    assert "restore into an empty one" in refused.value.stderr

    await execute(postgres.url, "create database other")
    backup.write_bytes(backup.read_bytes()[:-1000])
    with pytest.raises(subprocess.CalledProcessError):
        await asyncio.to_thread(_run, "restore.sh", backup, postgres, {"PGDATABASE": "other"})
    connection = await asyncpg.connect(at(postgres.url, "other"))
    try:
        assert await connection.fetchval("select count(*) from pg_tables where schemaname = 'public'") == 0
    finally:
        await connection.close()


@asynccontextmanager
async def _system(
    backends: Backends, folder: Path, variables: Mapping[str, str], former: Arena | None = None
) -> AsyncIterator[Arena]:
    """A single worker: once it is dead, what it did not end stays so."""
    folder.mkdir()  # noqa: ASYNC240
    async with running_stack(backends, folder, counts={"gateway": 2}, variables=variables) as stack:
        arena = Arena(stack, backends, former)
        try:
            yield arena
        finally:
            await arena.close()


async def _leave_half_done(arena: Arena) -> None:
    ada, grace = arena.users
    worker = arena.stack.processes[_WORKER]
    told = await ada.ask(tokens=400, delay_ms=30)
    await wait_until(lambda: _has_events(arena, told, 20), what="a text is half said")
    worker.kill()
    worker.start({"PARLEY_FAULT": "worker.after_tool"})
    await worker.ready()
    added = await grace.add_task()
    await died(worker)
    await ada.ask(told.conversation_id)
    await grace.add_task(added.conversation_id)
    await grace.add_task()

    jobs = {job.response_id: job for job in (await settled(arena.backends, seconds=0)).jobs}
    assert sorted(job.status for job in jobs.values() if job.status in _OPEN) == ["in_progress"] * 2 + ["queued"] * 3
    assert len(jobs[added.response_id].intents) == 1


async def _has_events(arena: Arena, said: Said, count: int) -> bool:
    jobs = (await settled(arena.backends, seconds=0)).jobs
    return any(job.response_id == said.response_id and len(job.events) >= count for job in jobs)


def _ended_ones(jobs: Sequence[Job]) -> dict[str, Job]:
    return {job.response_id: job for job in jobs if job.status not in _OPEN}


async def _migrated(postgres: PrivatePostgres) -> dict[str, str]:
    urls = {"owner": postgres.url, **{role: at(postgres.url, "parley", role) for role in ROLES}}
    await migrate(urls["owner"], [urls[role] for role in ROLES])
    return urls


def _run(script: str, file: Path, postgres: PrivatePostgres, variables: Mapping[str, str] | None = None) -> str:
    """Run a script as an operator does, and return what it says; fails if it does."""
    done = subprocess.run(
        ["sh", _SCRIPTS / script, file],  # noqa: S607
        env={**postgres.client_environment(), **(variables or {})},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr


def _pipe(script: str, postgres: PrivatePostgres, data: bytes = b"") -> bytes:
    """Run a script that is not there where it runs, with `data` at its standard input; returns its output."""
    done = subprocess.run(
        ["sh", "-c", (_SCRIPTS / script).read_text(), script, "-"],  # noqa: S607
        env=postgres.client_environment(),
        input=data,
        capture_output=True,
        check=True,
    )
    return done.stdout


def _destroy(postgres: PrivatePostgres, rabbit: PrivateRabbit) -> None:
    """Servers and disks are gone."""
    postgres.kill()
    rabbit.kill()
    rabbit.wipe()
    shutil.rmtree(postgres.folder)


async def _rules(url: str) -> dict[str, list[tuple[object, ...]]]:
    """All that a database lays down beside its rows, by what it is about."""
    connection = await asyncpg.connect(url)
    try:
        return {name: [tuple(row) for row in await connection.fetch(query)] for name, query in _RULES.items()}
    finally:
        await connection.close()


_ACL = "(select array_agg(entry::text order by entry::text) from unnest({}) entry)"
_RULES = {
    "tables": f"""
        select relname, relrowsecurity, relforcerowsecurity, {_ACL.format("relacl")} from pg_class
        where relnamespace = 'public'::regnamespace order by relname
    """,  # noqa: S608 - our own text
    "columns": f"""
        select attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull, {_ACL.format("attacl")}
        from pg_attribute join pg_class c on c.oid = attrelid
        where relnamespace = 'public'::regnamespace and attnum > 0 and not attisdropped order by 1, 2
    """,  # noqa: S608
    "policies": "select * from pg_policies order by tablename, policyname",
    # What a dump says of a long condition is read back with fewer brackets.
    "triggers": "select translate(pg_get_triggerdef(oid), '()', '') from pg_trigger where not tgisinternal order by 1",
    "constraints": "select conrelid::regclass::text, pg_get_constraintdef(oid) from pg_constraint order by 1, 2",
    "indexes": "select indexdef from pg_indexes where schemaname = 'public' order by 1",
    "functions": f"""
        select pg_get_functiondef(oid), {_ACL.format("proacl")} from pg_proc
        where pronamespace = 'public'::regnamespace order by 1
    """,  # noqa: S608
    "functions of the system": f"""
        select oid::regprocedure::text, {_ACL.format("proacl")} from pg_proc where proname like 'lo%' order by 1
    """,  # noqa: S608
    "schema": f"select {_ACL.format('nspacl')} from pg_namespace where nspname = 'public'",  # noqa: S608
    "database": f"select {_ACL.format('datacl')} from pg_database where datname = current_database()",  # noqa: S608
    "defaults": f"select defaclobjtype::text, {_ACL.format('defaclacl')} from pg_default_acl order by 1",  # noqa: S608
}
