"""A test that cannot fail proves nothing: with each protection switched off, the checker must see the damage."""

from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from deploy.local.rabbitmq import service_urls
from shared.ids import Prefix, from_wire
from tests.support.backends import Backends, new_backends
from tests.support.stack import ServiceProcess, Stack, running_stack
from tests.support.tcp import Line, proxied
from tests.system.faults.load import QUICK_REPAIRS, Arena
from tests.system.faults.recorder import recording_tools
from tests.system.faults.wire import row_when
from tests.system.faults.zombies import end_once_more, overtake_a_frozen_worker, speak_as_a_dead_attempt


@pytest.fixture(scope="module")
def own_backends() -> Iterator[Backends]:
    with new_backends() as backends:
        yield backends


@pytest.fixture(scope="module")
async def broker_line(own_backends: Backends) -> AsyncIterator[tuple[str, Line]]:
    async with proxied(own_backends.rabbitmq_url) as (url, line):
        yield url, line


@pytest.fixture(scope="module")
async def stack(own_backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A system whose second line of defence is slow, so that it does not hide that the first one is away."""
    folder: Path = tmp_path_factory.mktemp("controls")
    counts = {"gateway": 2, "chat-worker": 2}
    variables = QUICK_REPAIRS | {"PERSISTENCE_WIPED_BROKER_GRACE_SECONDS": "60"}
    async with running_stack(own_backends, folder, counts=counts, variables=variables) as running:
        yield running


async def test_without_the_barrier_a_half_said_item_is_left_open(arena: Arena) -> None:
    await arena.stack.restart_with({"persistence-0": {"PARLEY_SABOTAGE": "barrier"}})
    user = arena.users[0]
    said = await user.ask(tokens=200, delay_ms=20)
    arena.read(user, said)
    # At a crash point it could die before anything of its text is stored.
    row = await row_when(arena.backends, from_wire(Prefix.RESPONSE, said.response_id), "next_seq > 8")
    [speaking] = [worker for worker in arena.stack.of_kind("chat-worker") if worker.is_process(row["worker_id"])]

    speaking.kill()

    assert any("opens item" in violation for violation in await arena.verdict(seconds=20))


async def test_without_the_fence_of_the_journal_a_dead_attempt_is_heard(arena: Arena) -> None:
    target = await _sabotage(arena, {"persistence-0": "journal_fence"}, "chat-worker-0", "worker.mid_text:10")

    await speak_as_a_dead_attempt(arena, target)

    assert any(
        "has response.output_text.delta of item 0 while" in violation for violation in await arena.verdict(seconds=20)
    )


async def test_without_what_keeps_an_end_an_answer_ends_twice(arena: Arena) -> None:
    await arena.stack.restart_with({"persistence-0": {"PARLEY_SABOTAGE": "write_once"}})

    await end_once_more(arena)

    violations = await arena.verdict(seconds=6)
    assert any("has 2 terminal events" in violation for violation in violations)


async def test_without_the_ledger_a_finished_call_is_made_again(arena: Arena) -> None:
    async with recording_tools() as (url, effects):
        sabotage = {"TASK_TOOLS_URL": url, "PARLEY_SABOTAGE": "ledger"}
        await arena.stack.restart_with(
            {"chat-worker-0": sabotage | {"PARLEY_FAULT": "worker.after_tool"}, "chat-worker-1": sabotage}
        )

        await arena.talk_until_dead(arena.stack.processes["chat-worker-0"])

        assert any("was done 2 times" in violation for violation in await arena.verdict(effects, seconds=20))


async def test_without_the_fence_of_the_claim_a_worker_that_lost_its_job_calls_the_tool(arena: Arena) -> None:
    async with recording_tools() as (url, effects):
        sabotage = {"TASK_TOOLS_URL": url, "PARLEY_SABOTAGE": "claim_fence"}
        # The broker may give the job to the frozen one anew: it is published again soon, then, and goes to the other.
        republished_soon = {"PERSISTENCE_WIPED_BROKER_GRACE_SECONDS": "2"}
        await arena.stack.restart_with(
            {"chat-worker-0": sabotage, "chat-worker-1": sabotage, "persistence-0": republished_soon}
        )

        await overtake_a_frozen_worker(arena)

        assert any("was done 2 times" in violation for violation in await arena.verdict(effects, seconds=20))


async def test_without_idempotency_keys_a_task_is_added_twice(arena: Arena) -> None:
    target = await _sabotage(arena, {"task-tools-0": "idempotency"}, "chat-worker-0", "worker.after_tool")

    await arena.talk_until_dead(target)

    assert any("did its task 2 times" in violation for violation in await arena.verdict(seconds=20))


async def test_without_the_outbox_a_message_of_a_dead_gateway_waits_for_ever(arena: Arena) -> None:
    target = await _sabotage(arena, {"persistence-0": "outbox"}, "gateway-0", "gateway.after_commit")

    await arena.talk_until_dead(target)

    assert any("never ended: queued" in violation for violation in await arena.verdict(seconds=6))


async def test_without_confirms_a_message_that_the_broker_never_got_waits_for_ever(
    arena: Arena, broker_line: tuple[str, Line]
) -> None:
    url, line = broker_line
    await arena.stack.restart_with({"gateway-0": {**service_urls(url), "PARLEY_SABOTAGE": "confirm"}})

    line.cut()
    await arena.talk()
    line.mend()

    assert any("never ended: queued" in violation for violation in await arena.verdict(seconds=6))


async def _sabotage(arena: Arena, protections: Mapping[str, str], name: str, point: str) -> ServiceProcess:
    """Switch `protections` off in the processes that they are in, and have the named process die at `point`."""
    sabotage = {process: {"PARLEY_SABOTAGE": protection} for process, protection in protections.items()}
    await arena.stack.restart_with({**sabotage, name: {"PARLEY_FAULT": point}})
    return arena.stack.processes[name]
