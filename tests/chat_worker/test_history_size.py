"""Long conversations: how much of them is read for one turn, and by which indexes."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from chat_worker import history
from chat_worker.agent.prompt import PromptLimits
from chat_worker.history import HistoryLimits
from shared.db import Database
from shared.ids import uuid7
from tests.chat_worker.conftest import Connected

PROMPT_LIMITS = PromptLimits(token_count_max=2_000)
LIMITS = HistoryLimits(1_000, 2 * PROMPT_LIMITS.history_bytes_max, 4_000)
TEXT_BYTES = 100
LOOSE_COUNT = 10

_TABLES = ("jobs", "messages", "tool_calls", "items")


@dataclass(frozen=True)
class Long:
    """A conversation of many turns, each a question, a thought, a call and an answer. The last is to be answered."""

    user_id: str
    conversation_id: UUID
    turn_count: int

    async def job_id(self, database: Database, turn: int) -> UUID:
        async with database.transaction(self.user_id) as db:
            job_id: UUID = await db.fetchval(
                "select id from jobs where conversation_id = $1 and turn = $2", self.conversation_id, turn
            )
        return job_id


@pytest.fixture(scope="module")
async def made(connected: Connected) -> dict[int, Long]:
    """Conversations by their number of turns, next to each other."""
    owner = await asyncpg.connect(connected.owner_url)
    try:
        made = {turn_count: await make(owner, turn_count) for turn_count in (500, 10_000)}
        await owner.execute("analyze jobs, messages, items, tool_calls, summaries")
    finally:
        await owner.close()
    return made


@pytest.fixture(params=[500, 10_000], ids=["1,000 messages", "20,000 messages"])
def long(request: pytest.FixtureRequest, made: dict[int, Long]) -> Long:
    return made[request.param]


async def make(owner: asyncpg.Connection, turn_count: int) -> Long:
    long = Long(f"long-{turn_count}", uuid7(), turn_count)
    async with owner.transaction():
        await owner.execute("select set_config('app.user_id', $1, true)", long.user_id)
        for table in _TABLES:  # what their triggers tell of each turn is not looked at here
            await owner.execute(f"alter table {table} disable trigger user")
        await owner.execute(
            "insert into conversations (id, user_id, last_turn) values ($1, $2, $3)",
            long.conversation_id,
            long.user_id,
            turn_count,
        )
        await owner.execute(_JOBS, long.conversation_id, long.user_id, turn_count)
        await owner.execute(_MESSAGES, long.conversation_id, long.user_id, TEXT_BYTES)
        await owner.execute(_TOOL_CALLS, long.conversation_id, long.user_id)
        await owner.execute(_THOUGHTS, long.conversation_id, long.user_id)
        await owner.execute(_LOOSE_MESSAGES, long.conversation_id, long.user_id, LOOSE_COUNT)
        for table in _TABLES:
            await owner.execute(f"alter table {table} enable trigger user")
    return long


_JOBS = """
with numbered as materialized (select turn, gen_random_uuid() as id from generate_series(1, $3::integer) turn)
insert into jobs (id, conversation_id, user_id, parent_job_id, turn, status, request, next_seq)
select id, $1, $2, lag(id) over (order by turn), turn, 'completed', '{}', 1 from numbered
"""
_MESSAGES = """
insert into messages (id, conversation_id, job_id, user_id, turn, ordinal, role, content, parts, status)
select gen_random_uuid(), conversation_id, id, user_id, turn, ordinal,
       case ordinal when 0 then 'user' else 'assistant' end, repeat('x', $3::integer), '[]', 'completed'
from jobs cross join generate_series(0, 1) ordinal where conversation_id = $1 and user_id = $2
"""
_TOOL_CALLS = """
insert into tool_calls (id, conversation_id, job_id, user_id, turn, ordinal, call_id, server_label, tool_name,
                        parameters, result, status)
select gen_random_uuid(), conversation_id, id, user_id, turn, 2, 'c', 'tasks', 'list_tasks', '', '', 'completed'
from jobs where conversation_id = $1 and user_id = $2
"""
_THOUGHTS = """
insert into items (id, conversation_id, job_id, user_id, turn, ordinal, kind, item)
select gen_random_uuid(), conversation_id, id, user_id, turn, 3, 'reasoning', '{}'
from jobs where conversation_id = $1 and user_id = $2
"""
_LOOSE_MESSAGES = """
insert into messages (id, conversation_id, user_id, turn, ordinal, role, content, parts, status)
select gen_random_uuid(), $1, $2, 1, 100 + number, 'user', 'a note', '[]', 'completed'
from generate_series(1, $3::integer) number
"""


async def test_a_turn_reads_no_more_than_fits_however_long_the_conversation(long: Long, connected: Connected) -> None:
    job_id = await long.job_id(connected.worker, long.turn_count)

    told = await history.read(connected.worker, long.user_id, job_id, LIMITS)
    chain, loose = await plans(connected.worker, long, job_id)

    fitting = LIMITS.bytes_max // (2 * TEXT_BYTES)
    assert fitting <= len(told.past) <= fitting + 1 + LOOSE_COUNT
    for plan in (chain, loose):
        assert sequential_scans(plan) == set()
    # A turn is a job and four items, once for their sizes and once for their texts.
    assert rows_read(chain) < 12 * fitting
    assert rows_read(loose) < 8 * LOOSE_COUNT
    assert {"jobs_pkey", "messages_by_job", "tool_calls_by_job", "items_by_job"} <= indexes(chain)
    assert "messages_loose" in indexes(loose)


@pytest.fixture
async def summarised(long: Long, connected: Connected) -> AsyncIterator[Long]:
    """The conversation with a summary of all but its last turns."""
    await insert_summary(connected.persistence, await long.job_id(connected.worker, long.turn_count - 5))
    yield long
    async with connected.persistence.transaction(None) as db:
        await db.execute("delete from summaries where user_id = $1", long.user_id)


async def test_a_turn_behind_a_summary_reads_no_further(summarised: Long, connected: Connected) -> None:
    long = summarised
    last = await long.job_id(connected.worker, long.turn_count)

    told = await history.read(connected.worker, long.user_id, last, LIMITS)
    chain, loose = await plans(connected.worker, long, last)

    assert told.summary is not None
    assert told.summary.turn_count == long.turn_count - 5
    assert len(told.past) == 4
    assert not told.is_cut
    assert rows_read(chain) < 12 * 8
    assert rows_read(loose) < 10
    assert sequential_scans(chain) == set()


async def insert_summary(database: Database, job_id: UUID) -> None:
    async with database.transaction(None) as db:
        await db.execute(
            """
            insert into summaries (job_id, conversation_id, user_id, turn, conversation_ids, text, token_count,
                                   covers_turn_count)
            select id, conversation_id, user_id, turn, array[conversation_id], 'In short.', 3, turn
            from jobs where id = $1
            """,
            job_id,
        )


async def plans(worker: Database, long: Long, job_id: UUID) -> tuple[Any, Any]:
    """How the two statements of a history were carried out for the job."""
    arguments = (long.user_id, LIMITS.turn_count_max, LIMITS.bytes_max, LIMITS.output_bytes_max, True)
    async with worker.transaction(long.user_id) as db:
        source = await db.fetchval("select prosrc from pg_proc where proname = 'history_of'")
        statement = source.partition("return query")[2].rpartition(";")[0]
        chain = await db.fetchval(f"{_EXPLAIN} {statement}", job_id, *arguments)
        turn = await db.fetchval("select turn from jobs where id = $1", job_id)
        from_turn = await db.fetchval("select coalesce(max(turn), -1) from summaries where user_id = $1", long.user_id)
        loose = await db.fetchval(
            f"{_EXPLAIN} {history._LOOSE}",  # noqa: SLF001
            long.conversation_id,
            long.user_id,
            turn,
            LIMITS.loose_item_count_max + 1,
            LIMITS.bytes_max,
            from_turn,
        )
    return _plan(chain), _plan(loose)


def _plan(explained: str) -> Any:
    return msgspec.json.decode(explained)[0]["Plan"]


_EXPLAIN = "explain (analyze, timing off, format json)"


def nodes(plan: Any) -> Iterator[Any]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def _reads(plan: Any) -> Iterator[Any]:
    """Reads of what grows with a conversation; of small tables the quickest is to read all."""
    return (node for node in nodes(plan) if node.get("Relation Name") in _TABLES)


def rows_read(plan: Any) -> int:
    """How many rows were taken from tables, those that a filter threw away included."""
    return sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in _reads(plan)
    )


def sequential_scans(plan: Any) -> set[str]:
    """The tables that were looked through from end to end."""
    return {node["Relation Name"] for node in _reads(plan) if node["Node Type"] == "Seq Scan"}


def indexes(plan: Any) -> set[str]:
    return {node["Index Name"] for node in nodes(plan) if "Index Name" in node}
