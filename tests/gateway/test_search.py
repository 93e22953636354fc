"""Finding conversations: by their place in the list, by words; and that Postgres has an index for each way."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import asyncpg
import pytest

from gateway import branches, conversation_items, queries
from gateway.feed import ConversationLog
from gateway.limits import Page
from gateway.queries import Archived, ConversationsAfter, ItemsAfter, Order
from persistence.search_index import SearchIndex
from shared.db import Database
from shared.ids import Prefix, to_wire, uuid7
from tests.gateway.conftest import Caller
from tests.support.client import object_of
from tests.support.turns import Turns


async def a_conversation(turns: Turns, user: Caller, text: str, reply: str = "Hi!") -> str:
    accepted = await turns.exchange(user.user_id, text, reply)
    return to_wire(Prefix.CONVERSATION, accepted.conversation_id)


@dataclass(frozen=True)
class Search:
    """Searches when the words of everything said so far are in the index, or before any of them is."""

    index: SearchIndex | None

    async def page(self, user: Caller, search: str, **query: Any) -> dict[str, Any]:
        if self.index is not None:
            while await self.index.run_once():
                pass
        answer = await user.get("/v1/conversations", params={"search": search, **query})
        assert answer.status_code == 200, answer.text
        return object_of(answer)

    async def __call__(self, user: Caller, search: str, **query: Any) -> list[str]:
        """The ids of the conversations that were found."""
        return [conversation["id"] for conversation in (await self.page(user, search, **query))["data"]]


@pytest.fixture(params=["indexed", "not indexed yet"])
def found(request: pytest.FixtureRequest, turns: Turns) -> Search:
    is_indexed = request.param == "indexed"
    return Search(SearchIndex(turns.persistence, round_seconds=1, messages_max=100) if is_indexed else None)


@pytest.mark.parametrize(
    ("search", "finds"),
    [
        ("milk", True),
        ("MILK", True),
        ("mil", True),  # the last word may be a beginning
        ("milk bread", True),
        ("bread mil", True),
        ("mil bread", False),
        ('"milk and bread"', True),
        ('"bread and milk"', False),
        ("milk -butter", True),
        ("milk -bread", False),
        ("cheese or milk", True),
        ("cheese", False),
        ("grüße", True),
        ("牛奶", True),
        ("milk!", True),
        ("...", False),
        ("&", False),
        ("milk &", True),
        ("| milk ) : * \\ ' ''", True),
        ('"', False),
        ("''", False),
        ("-", False),
        ("<->", False),
        ("or or or", False),
        ("x" * 200, False),
    ],
)
async def test_a_search_looks_at_the_words_of_messages(
    ada: Caller, turns: Turns, found: Search, search: str, finds: object
) -> None:
    conversation_id = await a_conversation(turns, ada, "Hello", "I noted milk and bread. Grüße! 牛奶 (Milk)")

    assert await found(ada, search) == ([conversation_id] if finds else [])


async def test_a_search_looks_at_titles_old_ones_forgotten(ada: Caller, turns: Turns, found: Search) -> None:
    conversation_id = await a_conversation(turns, ada, "Hello")
    await ada.post(f"/v1/conversations/{conversation_id}", json={"title": "Shopping on Friday"})
    shown = await found(ada, "friday")
    await ada.post(f"/v1/conversations/{conversation_id}", json={"title": "Monday"})

    assert shown == [conversation_id]
    assert await found(ada, "friday") == []


async def test_a_blank_search_is_none(ada: Caller, turns: Turns, found: Search) -> None:
    conversation_id = await a_conversation(turns, ada, "Hello")

    assert await found(ada, "  ") == await found(ada, "") == [conversation_id]


async def test_a_search_that_is_too_long_is_refused(ada: Caller) -> None:
    answer = await ada.get("/v1/conversations", params={"search": "x" * 201})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "search")


async def test_a_snippet_shows_the_latest_message_that_was_found(ada: Caller, turns: Turns, found: Search) -> None:
    first = await turns.exchange(ada.user_id, "I like milk <b>very</b> much", "Noted.")
    await turns.exchange(
        ada.user_id,
        "Go on",
        f"{'word ' * 100}then there was milk {'again ' * 100}",
        conversation_id=first.conversation_id,
    )
    await a_conversation(turns, ada, "The milk of tomorrow")

    listed = (await found.page(ada, "milk"))["data"]

    assert listed[0]["snippet"] == "The milk of tomorrow"
    assert "then there was milk again" in listed[1]["snippet"]
    assert len(listed[1]["snippet"]) < 300
    assert object_of(await ada.get("/v1/conversations"))["data"][0]["snippet"] is None


async def test_what_was_found_says_which_message_it_is_and_which_of_its_words_were_meant(
    ada: Caller, turns: Turns, found: Search
) -> None:
    said = await turns.exchange(ada.user_id, "There is *milk* \ue000here\ue001, and MILKshake", "Noted.")
    conversation_id = to_wire(Prefix.CONVERSATION, said.conversation_id)
    items = object_of(await ada.get(f"/v1/conversations/{conversation_id}/items?order=asc"))["data"]
    await ada.post("/v1/conversations", json={"items": [{"role": "user", "content": "More milk"}]})
    await a_conversation(turns, ada, "Hello")
    [titled] = await found(ada, "hello")
    await ada.post(f"/v1/conversations/{titled}", json={"title": "Of milk"})

    in_title, added, in_branch = (await found.page(ada, "milk"))["data"]

    assert in_title["match"] is None
    assert added["match"]["response_id"] is None
    assert in_branch["match"] == {
        "item_id": items[0]["id"],
        "response_id": said.response_id,
        "snippet": [
            {"text": "There is *", "is_match": False},
            {"text": "milk", "is_match": True},
            {"text": "* here, and ", "is_match": False},
            {"text": "MILKshake", "is_match": True},
        ],
    }
    assert in_branch["snippet"] == "There is *milk* here, and MILKshake"


async def test_a_search_finds_nothing_of_others_nothing_deleted_and_nothing_archived_unasked(
    ada: Caller, bob: Caller, turns: Turns, found: Search
) -> None:
    theirs = await a_conversation(turns, bob, "a secret")
    deleted, archived = await a_conversation(turns, ada, "a secret"), await a_conversation(turns, ada, "a secret")
    emptied = await a_conversation(turns, ada, "Hello", "a secret")
    await ada.delete(f"/v1/conversations/{deleted}")
    await ada.post(f"/v1/conversations/{archived}", json={"archived": True})
    last = object_of(await ada.get(f"/v1/conversations/{emptied}/items"))["first_id"]
    await ada.delete(f"/v1/conversations/{emptied}/items/{last}")

    assert await found(ada, "secret") == []
    assert await found(ada, "secret", archived="all") == await found(ada, "secret", archived="true") == [archived]
    assert await found(bob, "secret") == [theirs]


async def test_what_was_found_is_read_page_by_page_in_both_orders(ada: Caller, turns: Turns, found: Search) -> None:
    made = [await a_conversation(turns, ada, f"milk {number}") for number in range(5)]
    await a_conversation(turns, ada, "bread")

    for order, expected in (("desc", made[::-1]), ("asc", made)):
        seen: list[str] = []
        after: dict[str, str] = {}
        while len(seen) < 5:
            query: dict[str, Any] = {"search": "milk", "limit": 2, "order": order, **after}
            page = await found.page(ada, **query)
            seen += [conversation["id"] for conversation in page["data"]]
            after = {"after": page["last_id"]}
        assert seen == expected
        assert page["has_more"] is False


@pytest.mark.parametrize(
    "text",
    [
        " ".join(map(chr, range(0x20000, 0x20000 + 40_000))),
        "a-" * 40_000,
        "x" * 90_000,
        "a1@" * 30_000,  # Postgres took a minute to find its words
        "<!-- " * 20_000,
    ],
)
async def test_no_text_is_too_odd_to_be_stored(ada: Caller, turns: Turns, found: Search, text: str) -> None:
    conversation_id = await a_conversation(turns, ada, "Hello", text)

    assert await found(ada, "hello") == [conversation_id]


@pytest.mark.parametrize("search", ['"' + "a " * 8 + '"', "a " * 100])
async def test_a_long_message_of_one_word_is_found_in_no_time(
    ada: Caller, turns: Turns, found: Search, search: str
) -> None:
    """Postgres took minutes to say where in it all the words are."""
    await a_conversation(turns, ada, "a " * 5_000)

    page = await found.page(ada, search)

    assert page["data"][0]["snippet"].startswith("a a a")


async def test_without_a_search_the_words_are_shown_to_nobody(ada: Caller, turns: Turns) -> None:
    await a_conversation(turns, ada, "Hello")

    async with turns.gateway.transaction(ada.user_id) as db:
        assert await db.fetchval("select count(*) from message_words") == 0


# --- plans ----------------------------------------------------------------------------------------------------------

_TURN_COUNT = 500  # of the long conversation, with two messages each
_TABLES = (
    "conversations, jobs, messages, tool_calls, items, message_words, unindexed_messages, conversation_events, feedback"
)
_USER_COUNT = 15  # who have 50 conversations of 8 turns


@dataclass(frozen=True)
class Crowd:
    """A user with one conversation of 1,000 messages, one that forked, and others; among many other users."""

    user_id: str
    long_id: UUID
    forked_id: UUID


@pytest.fixture(scope="module")
async def crowd(turns: Turns, database_urls: dict[str, str]) -> Crowd:
    user_id = f"user-{uuid7().hex}"
    long_id, forked_id = uuid7(), uuid7()
    owner = await asyncpg.connect(database_urls["owner"])
    try:
        # They would note each turn by itself, which takes its time.
        await owner.execute("alter table jobs disable trigger user")
        await _fill(owner, user_id, conversation_ids=[long_id, forked_id], turn_count=_TURN_COUNT)
        await _fill(owner, user_id, conversation_ids=[uuid7() for _ in range(100)], turn_count=2)
        for _ in range(_USER_COUNT):
            await _fill(owner, f"user-{uuid7().hex}", conversation_ids=[uuid7() for _ in range(50)], turn_count=8)
        await owner.execute("alter table jobs enable trigger user")
        async with owner.transaction():
            await owner.execute("select set_config('app.user_id', 'nobody', true)")
            await owner.execute(
                "insert into conversations (id, user_id)"
                " select gen_random_uuid(), 'nobody' from generate_series(1, 9000)"
            )
        async with owner.transaction():  # what was said in the last moment, by others and a little by the user
            await owner.execute("set local row_security = off")
            await owner.execute(
                """
                with later as (
                    delete from message_words where message_id in (
                        (select message_id from message_words where user_id <> $1 limit 2000)
                        union all
                        (select message_id from message_words where user_id = $1 and words @@ 'needle' limit 5))
                    returning message_id, user_id
                )
                insert into unindexed_messages select * from later
                """,
                user_id,
            )
        await owner.execute(f"vacuum analyze {_TABLES}")
    finally:
        await owner.close()
    async with turns.gateway.transaction(user_id) as db:
        await db.execute("update conversations set is_forked = true where id = $1", forked_id)
    return Crowd(user_id, long_id, forked_id)


async def _fill(owner: asyncpg.Connection, user_id: str, *, conversation_ids: list[UUID], turn_count: int) -> None:
    """Turns of two messages, a tool call, a reasoning item and feedback; in every tenth, the messages say "needle"."""
    async with owner.transaction():
        await owner.execute("select set_config('app.user_id', $1, true)", user_id)
        for statement in (
            """
            insert into conversations (id, user_id, title, last_turn, event_count)
            select id, $2, 'About things', $3, $3 from unnest($1::uuid[]) id
            """,
            """
            insert into jobs (id, conversation_id, user_id, turn, status, request, next_seq)
            select gen_random_uuid(), id, $2, turn, 'completed', '{}', 1
            from unnest($1::uuid[]) id, generate_series(1, $3::integer) turn
            """,
            """
            insert into conversation_events (conversation_id, seq, user_id, kind, data)
            select id, seq, $2, 'conversation.updated', '{}'
            from unnest($1::uuid[]) id, generate_series(1, $3::integer) seq
            """,
            """
            insert into messages (id, conversation_id, job_id, user_id, turn, ordinal, role, content, parts, status)
            select gen_random_uuid(), conversation_id, id, $2, turn, ordinal, 'user',
                   'some words about thing ' || turn || case turn % 10 when 5 then ' needle' else '' end, '[]',
                   'completed'
            from jobs, unnest(array[0, 2]) ordinal where conversation_id = any($1) and turn <= $3
            """,
            """
            insert into items (id, conversation_id, job_id, user_id, turn, ordinal, kind, item)
            select gen_random_uuid(), conversation_id, id, $2, turn, 3, 'reasoning', '{"id": "rs_x"}'
            from jobs where conversation_id = any($1) and turn <= $3
            """,
            """
            insert into tool_calls (id, conversation_id, job_id, user_id, turn, ordinal, call_id, server_label,
                                    tool_name, parameters, status)
            select gen_random_uuid(), conversation_id, id, $2, turn, 1, 'x', 's', 't', '{}', 'completed'
            from jobs where conversation_id = any($1) and turn <= $3
            """,
            """
            insert into feedback (job_id, conversation_id, user_id, rating)
            select id, conversation_id, $2, 'positive' from jobs where conversation_id = any($1) and turn <= $3
            """,
            """
            update conversations c
            set head_job_id = (select j.id from jobs j where j.conversation_id = c.id and j.turn = $3)
            where id = any($1) and user_id = $2
            """,
        ):
            await owner.execute(statement, conversation_ids, user_id, turn_count)


class Explaining:
    """A database that says how Postgres carries out each statement, and how much of it was read."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.nodes: list[dict[str, Any]] = []

    @asynccontextmanager
    async def transaction(self, user_id: str | None) -> AsyncIterator["Explaining"]:
        async with self._database.transaction(user_id) as self._db:
            yield self

    async def fetch(self, statement: str, *arguments: Any) -> Any:
        await self._explain(statement, arguments)
        return await self._db.fetch(statement, *arguments)

    async def fetchrow(self, statement: str, *arguments: Any) -> Any:
        await self._explain(statement, arguments)
        return await self._db.fetchrow(statement, *arguments)

    async def fetchval(self, statement: str, *arguments: Any) -> Any:
        await self._explain(statement, arguments)
        return await self._db.fetchval(statement, *arguments)

    async def _explain(self, statement: str, arguments: Any) -> None:
        lines = await self._db.fetch(f"explain (analyze, costs off, timing off, format json) {statement}", *arguments)
        (plan,) = json.loads("".join(line[0] for line in lines))
        self.nodes += _nodes(plan["Plan"])

    @property
    def scanned_whole(self) -> set[str]:
        return {node["Relation Name"] for node in self.nodes if node["Node Type"] == "Seq Scan"}

    @property
    def indexes(self) -> set[str]:
        return {node["Index Name"] for node in self.nodes if "Index Name" in node}

    def rows_of(self, table: str) -> int:
        """How many rows were read of `table`."""
        return sum(
            (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
            for node in self.nodes
            if node.get("Relation Name") == table
        )


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from _nodes(inner)


@pytest.fixture
def explaining(turns: Turns) -> Explaining:
    return Explaining(turns.gateway)


@pytest.mark.parametrize("order", list(Order))
async def test_a_page_of_a_long_conversation_reads_no_more_items_than_it_shows(
    crowd: Crowd, explaining: Explaining, order: Order
) -> None:
    database = cast("Database", explaining)
    first = await conversation_items.list_items(
        database, crowd.user_id, crowd.long_id, ItemsAfter(after=None, limit=20, order=order)
    )
    middle = await _item_in_the_middle(database, crowd)
    explaining.nodes.clear()

    page = await conversation_items.list_items(
        database, crowd.user_id, crowd.long_id, ItemsAfter(after=middle, limit=20, order=order)
    )

    assert len(first.items) == len(page.items) == 20
    assert explaining.scanned_whole == set()
    assert {"messages_in_order", "tool_calls_in_order", "items_in_order"} <= explaining.indexes
    assert all(explaining.rows_of(table) <= 25 for table in ("messages", "tool_calls", "items"))


async def _item_in_the_middle(database: Database, crowd: Crowd) -> UUID:
    async with database.transaction(crowd.user_id) as db:
        item_id: UUID = await db.fetchval(
            "select id from messages where conversation_id = $1 and turn = $2 and ordinal = 0",
            crowd.long_id,
            _TURN_COUNT // 2,
        )
    return item_id


async def test_a_page_of_messages_of_a_branch_and_of_the_tree_use_indexes(crowd: Crowd, explaining: Explaining) -> None:
    database = cast("Database", explaining)

    for conversation_id in (crowd.long_id, crowd.forked_id):
        messages = await queries.page_messages(database, crowd.user_id, conversation_id, Page(limit=20), Order.DESC)
        items = await conversation_items.list_items(
            database, crowd.user_id, conversation_id, ItemsAfter(after=None, limit=20, order=Order.DESC)
        )
        responses = await queries.page_responses(
            database, crowd.user_id, conversation_id, branches.ResponsesAfter(None, 20, is_ascending=False)
        )
        log = ConversationLog(database, _Free(), crowd.user_id, conversation_id)  # type: ignore[arg-type]
        events = (await log.after(400)).events
        assert messages.messages
        assert items.items
        assert responses.responses
        assert len(events) >= _TURN_COUNT - 400

    assert explaining.scanned_whole == set()


class _Free:
    """A semaphore that nobody waits for."""

    async def acquire(self) -> bool:
        return True

    def release(self) -> None: ...


@pytest.mark.parametrize("order", list(Order))
async def test_the_list_of_conversations_uses_its_index(crowd: Crowd, explaining: Explaining, order: Order) -> None:
    database = cast("Database", explaining)

    first = await queries.list_conversations(database, crowd.user_id, ConversationsAfter(None, 10, order))
    second = await queries.list_conversations(
        database,
        crowd.user_id,
        ConversationsAfter(UUID(first.conversations[-1].id.removeprefix("conv_")), 10, order, Archived.ALL),
    )
    await queries.page_conversations(database, crowd.user_id, Page(limit=10), Archived.FALSE)

    assert len({one.id for one in [*first.conversations, *second.conversations]}) == 20
    assert explaining.scanned_whole == set()
    assert "conversations_by_user" in explaining.indexes


@pytest.mark.parametrize("search", ["needle", "need", '"things needle" or needle -hay'])
async def test_a_search_asks_the_index_of_words_and_reads_little_of_what_others_said(
    crowd: Crowd, explaining: Explaining, search: str
) -> None:
    database = cast("Database", explaining)

    run = await queries.list_conversations(
        database, crowd.user_id, ConversationsAfter(None, 10, Order.DESC, search=search)
    )

    assert {to_wire(Prefix.CONVERSATION, one) for one in (crowd.long_id, crowd.forked_id)} == {
        one.id for one in run.conversations
    }
    assert all("needle" in found.snippet for found in run.found.values())
    assert explaining.scanned_whole == set()
    assert "message_words_search" in explaining.indexes
    assert "unindexed_messages_by_user" in explaining.indexes
    assert explaining.rows_of("unindexed_messages") <= 2 * 5
    assert explaining.rows_of("message_words") <= 2 * (2 * _TURN_COUNT // 10 * 2)
