"""Postgres and RabbitMQ restart, vanish, forget everything, or take nothing: with servers of our own, to be broken."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from deploy.local.postgres import PrivatePostgres
from deploy.local.rabbitmq import SERVICE_USERS, PrivateRabbit, user_password
from tests.support.backends import Backends, new_database
from tests.support.services import private_postgres, private_rabbit
from tests.support.stack import ServiceProcess, Stack, running_stack
from tests.support.waiting import wait_until
from tests.system.faults.load import ALARMS, QUICK_REPAIRS, Arena

_OUTAGE_SECONDS = 30
_BACK_SECONDS_MAX = 15
_ON_THE_BROKER = {"gateway", "chat-worker", "persistence"}


@pytest.fixture(scope="module")
def rabbit() -> Iterator[PrivateRabbit]:
    with private_rabbit() as server:
        yield server


@pytest.fixture(scope="module")
def postgres() -> Iterator[PrivatePostgres]:
    with private_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def own_backends(postgres: PrivatePostgres, rabbit: PrivateRabbit) -> Iterator[Backends]:
    with new_database(postgres.url) as urls:
        yield Backends(urls, rabbit.url)


@pytest.fixture(scope="module")
async def stack(own_backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("servers")
    counts = {"gateway": 2, "chat-worker": 2, "persistence": 2}
    async with running_stack(own_backends, folder, counts=counts, variables=QUICK_REPAIRS) as running:
        yield running


async def test_the_broker_is_killed_and_comes_back(whole: Arena, rabbit: PrivateRabbit) -> None:
    before = await whole.talk()
    await asyncio.to_thread(rabbit.kill)
    meanwhile = await whole.talk()
    await asyncio.to_thread(rabbit.start)

    await _flows_again(whole, time.monotonic())

    assert await whole.verdict(attempts_max=3) == []
    assert {said.finals[-1]["status"] for said in before + meanwhile} == {"completed"}


async def test_the_broker_forgets_everything(whole: Arena, rabbit: PrivateRabbit) -> None:
    before = await whole.talk()
    await asyncio.to_thread(rabbit.kill)
    rabbit.wipe()
    meanwhile = await whole.talk()
    await asyncio.to_thread(rabbit.start)

    await _flows_again(whole, time.monotonic())

    assert await whole.verdict(attempts_max=4) == []
    assert {said.finals[-1]["status"] for said in before + meanwhile} == {"completed"}


async def test_the_broker_forgets_everything_while_no_persistence_runs(whole: Arena, rabbit: PrivateRabbit) -> None:
    """Only persistence makes what was forgotten. The others wait, accept meanwhile, and none of them ends."""
    writers = whole.stack.of_kind("persistence")
    others = [process for process in whole.stack.processes.values() if process not in writers]
    for process in writers:
        process.kill()
    await asyncio.to_thread(rabbit.kill)
    rabbit.wipe()
    await asyncio.to_thread(rabbit.start)
    accepted = await whole.users[0].ask(tokens=1)
    await asyncio.gather(*(_says(process, "ChannelNotFoundEntity") for process in whole.stack.of_kind("chat-worker")))

    for process in writers:
        process.start()
    await whole.users[0].follow(accepted)
    await _flows_again(whole, time.monotonic())

    assert [process.name for process in others if not process.is_running] == []
    assert await whole.verdict(attempts_max=3) == []


async def test_the_broker_does_not_let_anybody_in_for_a_while(whole: Arena, rabbit: PrivateRabbit) -> None:
    """As one whose users are made by hand after it forgot them: messages are accepted, and nobody ends."""
    processes = [process for process in whole.stack.processes.values() if process.kind in _ON_THE_BROKER]
    await _set_passwords(rabbit, dict.fromkeys(SERVICE_USERS.values(), "another"))
    await asyncio.to_thread(rabbit.control, "close_all_connections", "--global", "who are you")
    accepted = await whole.users[0].ask(tokens=1)
    await asyncio.gather(*(_says(process, "broker_access_refused") for process in processes))

    await _set_passwords(rabbit, {user: user_password(user, rabbit.url) for user in SERVICE_USERS.values()})
    await whole.users[0].follow(accepted)
    await _flows_again(whole, time.monotonic())

    assert [process.name for process in processes if not process.is_running] == []
    assert await whole.verdict(attempts_max=3) == []


@pytest.mark.parametrize("alarm", ALARMS)
async def test_the_broker_takes_nothing_for_a_while(whole: Arena, rabbit: PrivateRabbit, alarm: str) -> None:
    """An alarm blocks whoever publishes."""
    raised, cleared = ALARMS[alarm]
    before = whole.stack.logs("gateway").count("dispatch_unconfirmed")
    await asyncio.to_thread(rabbit.control, *raised)
    try:
        meanwhile = await whole.talk()
        await wait_until(partial(_gateways_say, whole, "dispatch_unconfirmed", before), seconds=15)
    finally:
        await asyncio.to_thread(rabbit.control, *cleared)

    assert await whole.verdict(attempts_max=3) == []
    assert {said.finals[-1]["status"] for said in meanwhile} == {"completed"}


async def test_postgres_is_killed_and_comes_back(whole: Arena, postgres: PrivatePostgres) -> None:
    talking = asyncio.create_task(_talk_for_a_while(whole))
    for _ in range(2):
        await asyncio.sleep(1)  # of traffic
        await asyncio.to_thread(postgres.kill)
        await asyncio.to_thread(postgres.start)
    await talking

    assert await whole.verdict(attempts_max=4) == []


async def test_postgres_is_away_for_a_while(whole: Arena, postgres: PrivatePostgres) -> None:
    await whole.talk()
    await asyncio.to_thread(postgres.stop)
    down_at = time.monotonic()
    refused = asyncio.create_task(whole.talk())
    await asyncio.sleep(_OUTAGE_SECONDS)
    await asyncio.to_thread(postgres.start)
    refused_said = await refused

    assert await whole.verdict(attempts_max=3) == []
    assert time.monotonic() - down_at > _OUTAGE_SECONDS
    refusals = [refusal for said in refused_said for refusal in said.refusals]
    assert refusals
    assert all(refusal.startswith("503") and not refusal.endswith("None") for refusal in refusals)


async def _talk_for_a_while(arena: Arena) -> None:
    for _ in range(3):
        await arena.talk()


async def _gateways_say(arena: Arena, word: str, before: int) -> bool:
    """Whether they have said it more than `before` times."""
    return arena.stack.logs("gateway").count(word) > before


async def _set_passwords(rabbit: PrivateRabbit, passwords: Mapping[str, str]) -> None:
    """In one go, as rabbitmqctl takes longer to start than to do anything."""
    change = 'rabbit_auth_backend_internal:change_password(<<"{}">>, <<"{}">>, <<"test">>)'
    changes = ", ".join(change.format(user, password) for user, password in passwords.items())
    await asyncio.to_thread(rabbit.control, "eval", f"{changes}.")


async def _says(process: ServiceProcess, word: str) -> None:
    """Waits until `process` logs `word` once more."""

    def count() -> int:
        return process.log.read_text(errors="replace").count(word)

    before = count()

    async def says_it_again() -> bool:
        return count() > before

    await wait_until(says_it_again, seconds=15, what=f"{process.name} says {word}")


async def _flows_again(arena: Arena, back_at: float) -> None:
    """A message that is sent now is answered before long."""
    said = await arena.users[0].ask(tokens=1)
    await arena.users[0].follow(said)
    seconds = time.monotonic() - back_at
    print(f"flow {seconds:.1f} s after the broker's return")  # noqa: T201 - for whoever runs it with -s
    assert seconds < _BACK_SECONDS_MAX
