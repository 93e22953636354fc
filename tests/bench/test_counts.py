"""What a turn costs in transactions and messages: counts, which a slow machine does not change."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.load.dialects import Parley
from bench.meters import Servers
from bench.scenarios import SCENARIOS, Bench
from bench.systems import Running, parley_variables
from chat_worker.settings import ChatWorkerSettings
from tests.bench.servers import model_server
from tests.support.backends import Backends, new_database
from tests.support.services import private_postgres, private_rabbit
from tests.support.stack import running_stack, token_of

# Accept, claim, ledger; the write-back, of the first delta and of the end, or of both.
_WRITES_MAX = 5
_FLUSH_SECONDS: float = ChatWorkerSettings.model_fields["flush_seconds"].default


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Backends, Servers]]:
    """Servers that nobody else writes to: what is counted is the whole server's."""
    with private_postgres() as postgres, private_rabbit() as rabbit, new_database(postgres.url) as urls:
        yield Backends(urls, rabbit.url), Servers(urls["owner"], rabbit.management_url)


@pytest.fixture(scope="module")
async def bench(servers: tuple[Backends, Servers], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    backends, counted = servers
    async with model_server() as (model_url, _):
        folder: Path = tmp_path_factory.mktemp("stack")
        variables = parley_variables(model_url)
        async with running_stack(backends, folder, counts={"demo-model": 0}, variables=variables) as stack:
            running = Running(stack.gateway().url, Parley(), {}, frozenset({"postgres", "rabbitmq"}), token_of)
            yield Bench(running, counted, model_pid=None, seed=1, scale=0.3)


async def _counted(bench: Bench, scenario: str) -> dict[str, Any]:
    result = await SCENARIOS[scenario].run(bench)
    assert (result["turns"], result["failed"], result["wrong_answers"]) == (3, 0, 0), result["troubles"]
    return result


async def test_a_turn_costs_few_transactions_and_messages(bench: Bench) -> None:
    result = await _counted(bench, "counts")

    assert 2 <= result["writes_per_turn"] <= _WRITES_MAX
    assert 3 <= result["messages_per_turn"] <= _messages_max(result)


async def test_the_messages_of_a_long_turn_are_bound_by_its_duration_and_not_by_its_tokens(bench: Bench) -> None:
    result = await _counted(bench, "counts-paced")

    assert 3 <= result["messages_per_turn"] <= _messages_max(result)


def _messages_max(result: dict[str, Any]) -> float:
    """The job, its beginning and its end; and what was gathered in each flush, to persistence and to the gateways."""
    seconds: float = result["seconds"] / result["turns"]
    return 3 + 2 * seconds / _FLUSH_SECONDS
