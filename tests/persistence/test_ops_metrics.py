"""Everything that `ops` prints of the whole system is also a metric, so nobody needs a terminal to be warned."""

import re
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest
from pydantic import SecretStr

from persistence import ops
from persistence.metrics import Metrics
from persistence.settings import PersistenceSettings
from shared.ids import uuid7
from shared.messaging import Broker, Publisher
from tests.persistence.support import Services

_PARTITION_COUNT = 2
# What the others print is of one thing that was asked for by its id, or a log: what they add up to is above.
_COMPARED = {"jobs", "dead", "queues", "purges", "tools"}
_OF_ONE_THING = {"job", "requeue", "fail", "purge-user", "audit"}


@pytest.fixture
async def publisher(rabbitmq_url: str) -> AsyncIterator[Publisher]:
    publisher = Publisher(Broker(rabbitmq_url, "test", partition_count=_PARTITION_COUNT))
    publisher.start()
    await publisher.wait_until_up(10)
    yield publisher
    await publisher.stop()


async def test_every_number_that_ops_prints_of_the_whole_system_is_a_metric(
    services: Services, publisher: Publisher, database_urls: dict[str, str], rabbitmq_url: str
) -> None:
    await _something_of_each(services, database_urls["owner"])
    settings = PersistenceSettings(
        database_url=SecretStr(database_urls["parley_persistence"]),
        rabbitmq_url=SecretStr(rabbitmq_url),
        partition_count=_PARTITION_COUNT,
    )

    printed = {command: await _printed(command, settings) for command in _COMPARED}
    metrics = _samples((await Metrics(services.persistence, publisher).text()).decode())

    for state in printed["jobs"]:
        assert metrics[f'parley_jobs{{state="{state["state"]}"}}'] == state["count"]
        age = metrics[f'parley_oldest_job_age_seconds{{state="{state["state"]}"}}']
        assert age == pytest.approx(state["oldest_seconds"], abs=30)
    assert metrics["parley_dead_letters"] == printed["dead"]["count"] == 3
    causes = Counter((letter["queue"], letter["reason"], letter["kind"]) for letter in printed["dead"]["latest"])
    for (queue, reason, kind), count in causes.items():
        labels = f'{{kind="{kind}",queue="{queue}",reason="{reason}"}}'
        assert metrics[f"parley_dead_letters_by_cause{labels}"] == count
        assert 0 <= metrics[f"parley_latest_dead_letter_age_seconds{labels}"] < 60
    for queue in printed["queues"]:
        assert metrics[f'parley_queue_messages{{queue="{queue["name"]}"}}'] == queue["message_count"]
        assert metrics[f'parley_queue_consumers{{queue="{queue["name"]}"}}'] == queue["consumer_count"]
    assert metrics["parley_purges_open"] == len(printed["purges"]) == 1
    assert metrics["parley_oldest_purge_age_seconds"] >= 60
    assert metrics["parley_unindexed_messages"] == len(await services.rows("select from unindexed_messages")) > 0
    for tool in printed["tools"]:
        assert metrics[f'parley_tools_not_accepted{{server="{tool["server"]}"}}'] == 1
        assert metrics[f'parley_tool_changes_total{{server="{tool["server"]}"}}'] == tool["change_count"]
    assert len(printed["tools"]) == 1


def test_every_command_is_compared_or_about_one_thing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ops.main(["--help"])

    commands = set(re.findall(r"^    (\S+)(?: |$)", capsys.readouterr().out, re.MULTILINE))
    assert commands == _COMPARED | _OF_ONE_THING


async def _something_of_each(services: Services, owner_url: str) -> None:
    job = await services.accept()
    await services.change(job, "available_at = clock_timestamp() - interval '1 minute'")
    letters = [
        (uuid7(), "chat.jobs", "delivery_limit", "JobReady"),
        (uuid7(), "chat.jobs", "delivery_limit", "JobReady"),
        (uuid7(), "chat.journal.1", "rejected", "unreadable"),
    ]
    owner = await asyncpg.connect(owner_url)
    try:
        await owner.executemany(
            """
            insert into dead_letters (id, queue, reason, message_kind, body_bytes, body_hash)
            values ($1, $2, $3, $4, 10, '')
            """,
            letters,
        )
        await owner.execute(
            """
            insert into purges (id, user_id, user_digest, requested_by, created_at)
            values ($1, 'alice', '', 'ops', clock_timestamp() - interval '1 minute')
            """,
            uuid7(),
        )
        await owner.execute("truncate tool_pins")
        await owner.execute(
            """
            insert into tool_pins (server, tool, seen_digest, change_count)
            values ('weather', 'forecast', 'sha256:' || repeat('0', 64), 3)
            """
        )
    finally:
        await owner.close()


async def _printed(command: str, settings: PersistenceSettings) -> Any:
    asked = ops._parsed([command])  # noqa: SLF001
    answer = await asked.run(ops.System(settings), asked)
    return msgspec.to_builtins(answer.facts)


def _samples(text: str) -> dict[str, float]:
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}
