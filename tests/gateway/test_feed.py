"""What other tabs and devices are told: the events of a conversation, and which conversations were touched."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr

from gateway.feed import ConversationLog
from gateway.turns import Accepted
from shared.db import Database
from shared.ids import Prefix, from_wire, to_wire, uuid7
from tests.gateway.conftest import Caller, Serve
from tests.support.client import object_of
from tests.support.turns import Call, Turns
from tests.support.waiting import wait_until

Event = dict[str, Any]
HELLO = {"type": "message", "role": "user", "content": "Hello"}


def conversation_of(accepted: Accepted) -> str:
    return to_wire(Prefix.CONVERSATION, accepted.conversation_id)


async def stored(turns: Turns, user_id: str, conversation_id: str, after: int = 0) -> list[Event]:
    """The events behind `after` that a stream would begin with."""
    log = ConversationLog(turns.gateway, asyncio.Semaphore(1), user_id, from_wire(Prefix.CONVERSATION, conversation_id))
    return [json.loads(event) for event in (await log.after(after)).events]


async def told(turns: Turns, user_id: str, conversation_id: str) -> list[tuple[str, Any]]:
    """Of each event its kind, and what it says beyond that."""
    common = {"type", "sequence_number", "conversation_id", "created_at"}
    events = await stored(turns, user_id, conversation_id)
    assert [event["sequence_number"] for event in events] == list(range(1, len(events) + 1))
    assert {event["conversation_id"] for event in events} == {conversation_id}
    return [
        (event["type"].removeprefix("conversation."), {key: event[key] for key in event if key not in common})
        for event in events
    ]


class Following:
    """An open feed."""

    def __init__(self, answer: httpx2.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def next(self, seconds: float = 20.0) -> Event | str:
        """The next event; `[DONE]` and comments as they are."""
        async with asyncio.timeout(seconds):
            name = ""
            async for line in self._lines:
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: {"):
                    event: Event = json.loads(line.removeprefix("data: "))
                    assert event["type"] == name
                    return event
                elif line:
                    return line.removeprefix("data: ")
        return "end"

    async def event(self) -> Event:
        """The next event, whatever comments come before it."""
        while isinstance(told := await self.next(), str):
            assert told == ": ping", told
        return told


@asynccontextmanager
async def following(client: httpx2.AsyncClient, path: str, **query: Any) -> AsyncIterator[Following]:
    async with client.stream("GET", f"/v1/{path}", params=query) as answer:
        assert answer.status_code == 200, await answer.aread()
        yield Following(answer)


# --- what is noted --------------------------------------------------------------------------------------------------


async def test_a_conversation_notes_what_began_and_ended_in_it(ada: Caller, turns: Turns) -> None:
    first = await turns.exchange(ada.user_id, "one", "two", Call())
    second = await turns.ask(ada.user_id, "three", first.conversation_id)

    assert await told(turns, ada.user_id, conversation_of(first)) == [
        ("response.created", {"response_id": first.response_id, "previous_response_id": None}),
        ("response.ended", {"response_id": first.response_id, "status": "completed"}),
        ("response.created", {"response_id": second.response_id, "previous_response_id": first.response_id}),
    ]


async def test_a_conversation_notes_every_change_of_it(ada: Caller, turns: Turns) -> None:
    conversation_id = object_of(await ada.post("/v1/conversations"))["id"]
    path = f"/v1/conversations/{conversation_id}"
    item_id = object_of(await ada.post(f"{path}/items", json={"items": [HELLO]}))["first_id"]
    await ada.post(path, json={"title": "Greetings"})
    await ada.post(path, json={"title": "Greetings"})  # as it is
    await ada.post(path, json={"metadata": {"a": "b"}, "archived": True})
    await ada.delete(f"{path}/items/{item_id}")
    await ada.delete(path)
    for _ in range(2):  # once
        await ada.post(f"/api/conversations/{conversation_id}/restore")

    begun = {"title": "Hello", "metadata": {}, "archived": False, "active_response_id": None}
    renamed = begun | {"title": "Greetings"}
    archived = renamed | {"metadata": {"a": "b"}, "archived": True}
    assert await told(turns, ada.user_id, conversation_id) == [
        ("updated", begun),
        ("items.changed", {"change": "added", "item_id": item_id}),
        ("updated", renamed),
        ("updated", archived),
        ("items.changed", {"change": "deleted", "item_id": item_id}),
        ("deleted", {}),
        ("restored", archived),
    ]
    assert object_of(await ada.get(path))["last_sequence_number"] == 7


async def test_a_chosen_branch_and_a_title_of_the_models_are_noted(ada: Caller, turns: Turns) -> None:
    one = await turns.exchange(ada.user_id, "one", "two")
    await turns.exchange(ada.user_id, "uno", "dos", conversation_id=one.conversation_id, is_at_start=True)
    await ada.post(f"/v1/conversations/{conversation_of(one)}", json={"active_response_id": one.response_id})
    async with turns.persistence.transaction(None) as db:
        await db.execute(
            "update conversations set title = 'Numbers', title_source = 'model'"
            " where id = $1 and title_source = 'message'",
            one.conversation_id,
        )

    *_, chosen, titled = await told(turns, ada.user_id, conversation_of(one))

    state = {"title": "one", "metadata": {}, "archived": False, "active_response_id": one.response_id}
    assert chosen == ("updated", state)
    assert titled == ("updated", state | {"title": "Numbers"})


async def test_a_title_of_the_users_is_known_as_such(ada: Caller, turns: Turns) -> None:
    accepted = await turns.exchange(ada.user_id, "one", "two")
    sources = []
    changes: list[dict[str, Any]] = [{"archived": True}, {"metadata": {}}, {"title": "Mine"}]
    for change in changes:
        await ada.post(f"/v1/conversations/{conversation_of(accepted)}", json=change)
        async with turns.persistence.transaction(None) as db:
            sources.append(
                await db.fetchval("select title_source from conversations where id = $1", accepted.conversation_id)
            )

    assert sources == ["message", "message", "user"]


async def test_a_response_that_is_not_stored_notes_nothing(ada: Caller, turns: Turns) -> None:
    accepted = await turns.exchange(ada.user_id, "between us", "yes", store=False)

    async with turns.gateway.transaction(ada.user_id) as db:
        count = await db.fetchval(
            "select count(*) from conversation_events where conversation_id = $1", accepted.conversation_id
        )
    assert count == 0


async def test_events_of_many_at_once_are_numbered_without_a_gap(ada: Caller, turns: Turns) -> None:
    first = await turns.exchange(ada.user_id, "one", "two")
    path = f"/v1/conversations/{conversation_of(first)}"

    await asyncio.gather(
        *(ada.post(f"{path}/items", json={"items": [HELLO, HELLO]}) for _ in range(5)),
        *(ada.post(path, json={"title": str(number)}) for number in range(5)),
        *(turns.exchange(ada.user_id, "x", "y", conversation_id=first.conversation_id) for _ in range(5)),
    )

    kinds = [kind for kind, _ in await told(turns, ada.user_id, conversation_of(first))]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "response.created": 6,
        "response.ended": 6,
        "items.changed": 10,
        "updated": 5,
    }


async def test_a_claim_waits_for_nobody_who_changes_the_conversation(
    ada: Caller, turns: Turns, database_urls: dict[str, str]
) -> None:
    accepted = await turns.ask(ada.user_id, "one")
    worker = await Database.connect(database_urls["parley_worker"], application_name="test", pool_size=1)
    try:
        async with turns.persistence.transaction(None) as db, worker.connection() as claiming:
            await db.execute("select from conversations where id = $1 for update", accepted.conversation_id)
            claimed = await claiming.fetchrow(
                "select * from claim_job($1, $2, 'w', 60, 'd')", ada.user_id, accepted.job_id, timeout=5
            )
    finally:
        await worker.close()

    assert claimed["attempt"] == 1


async def test_events_are_seen_and_written_by_their_user_alone(ada: Caller, bob: Caller, turns: Turns) -> None:
    accepted = await turns.exchange(ada.user_id, "one", "two")

    async with turns.gateway.transaction(bob.user_id) as db:
        assert await db.fetchval("select count(*) from conversation_events") == 0
        await db.execute("select note_event($1, 'conversation.updated', '{}')", accepted.conversation_id)
    assert len(await stored(turns, ada.user_id, conversation_of(accepted))) == 2


async def test_a_log_is_read_page_by_page_from_anywhere(ada: Caller, turns: Turns) -> None:
    accepted = await turns.ask(ada.user_id, "one")
    async with turns.gateway.transaction(ada.user_id) as db:
        await db.execute(
            "select note_event($1, 'conversation.updated', '{}') from generate_series(2, 450)", accepted.conversation_id
        )
    log = ConversationLog(turns.gateway, asyncio.Semaphore(1), ada.user_id, accepted.conversation_id)

    pages = [await log.after(cursor) for cursor in (0, 200, 400, 450, 1_000)]

    assert [len(page.events) for page in pages] == [200, 200, 50, 0, 0]
    assert [page.has_more for page in pages] == [True, True, False, False, False]
    assert json.loads(pages[2].events[-1])["sequence_number"] == 450


# --- following ------------------------------------------------------------------------------------------------------


async def test_a_feed_goes_on_behind_any_event(serve: Serve, turns: Turns) -> None:
    user_id = f"user-{uuid7().hex}"
    first = await turns.exchange(user_id, "one", "two")
    await turns.exchange(user_id, "three", "four", conversation_id=first.conversation_id)
    whole = await stored(turns, user_id, conversation_of(first))

    async with serve() as served, served.client(user_id) as client:
        for after in range(4):
            query = {"starting_after": after} if after else {}
            async with following(client, f"conversations/{conversation_of(first)}/events", **query) as feed:
                assert [await feed.event() for _ in whole[after:]] == whole[after:]

    assert len(whole) == 4


async def test_a_feed_without_a_broker_tells_what_happens_and_pings(serve: Serve, turns: Turns) -> None:
    user_id = f"user-{uuid7().hex}"
    first = await turns.exchange(user_id, "one", "two")
    path = f"conversations/{conversation_of(first)}/events"
    async with (
        serve(heartbeat_seconds=0.3) as served,
        served.client(user_id) as client,
        following(client, path, starting_after=2) as feed,
    ):
        assert feed.answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert await feed.next() == ": ping"
        await client.post(f"/v1/conversations/{conversation_of(first)}", json={"title": "x"})
        event = await feed.event()

    assert (event["type"], event["sequence_number"], event["title"]) == ("conversation.updated", 3, "x")


async def test_a_feed_ends_with_the_deletion_and_goes_on_after_the_return(serve: Serve, turns: Turns) -> None:
    user_id = f"user-{uuid7().hex}"
    accepted = await turns.ask(user_id, "one")
    conversation_id = conversation_of(accepted)
    path = f"conversations/{conversation_id}/events"
    async with serve() as served, served.client(user_id) as client:
        async with following(client, path, starting_after=1) as feed:
            assert (await client.delete(f"/v1/conversations/{conversation_id}")).status_code == 200
            deleted = await feed.event()
            assert [await feed.next(), await feed.next()] == ["[DONE]", "end"]
        await turns.answer(accepted, None)  # the response that was stopped ends
        assert (await client.get(f"/v1/{path}")).status_code == 404
        await client.post(f"/api/conversations/{conversation_id}/restore")
        async with following(client, path, starting_after=deleted["sequence_number"]) as feed:
            rest = [await feed.event() for _ in range(2)]

    kinds = [event["type"] for event in [deleted, *rest]]
    assert kinds == ["conversation.deleted", "conversation.response.ended", "conversation.restored"]


@pytest.mark.parametrize("after", ["-1", "x", "1.5", str(2**31)])
async def test_a_bad_number_is_refused(ada: Caller, turns: Turns, after: str) -> None:
    accepted = await turns.exchange(ada.user_id, "one", "two")

    answer = await ada.get(f"/v1/conversations/{conversation_of(accepted)}/events?starting_after={after}")

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "starting_after")


async def test_a_user_has_so_many_feeds(serve: Serve, turns: Turns) -> None:
    user_id = f"user-{uuid7().hex}"
    path = f"conversations/{conversation_of(await turns.ask(user_id, 'one'))}/events"
    async with serve(feeds_per_user_max=1) as served, served.client(user_id) as client:
        async with following(client, path) as feed:
            assert (await feed.event())["sequence_number"] == 1
            refused = await client.get("/v1/events")
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_feeds")

        async def is_free() -> bool:
            async with client.stream("GET", "/v1/events") as answer:
                return bool(answer.status_code == 200)

        await wait_until(is_free)


# --- live, by the broker --------------------------------------------------------------------------------------------


async def test_a_change_at_one_gateway_is_told_at_another_at_once(
    serve: Serve, turns: Turns, rabbitmq_url: str
) -> None:
    user_id = f"user-{uuid7().hex}"
    conversation_id = conversation_of(await turns.exchange(user_id, "one", "two"))
    on_the_bus = {"rabbitmq_url": SecretStr(rabbitmq_url), "heartbeat_seconds": 60.0}
    async with (
        serve(**on_the_bus) as here,
        serve(**on_the_bus) as there,
        here.client(user_id) as client,
        there.client(user_id) as other,
    ):

        async def hears() -> bool:
            async with following(client, "events") as feed:
                assert await feed.next() == ": ping"
                await other.post(f"/v1/conversations/{conversation_id}", json={"metadata": {"now": uuid7().hex}})
                with suppress(TimeoutError):
                    return isinstance(await feed.next(seconds=1), dict)
            return False

        await wait_until(hears, what="both gateways are on the bus")
        after = object_of(await client.get(f"/v1/conversations/{conversation_id}"))["last_sequence_number"]
        async with (
            following(client, f"conversations/{conversation_id}/events", starting_after=after) as feed,
            following(client, "events") as all_of_them,
        ):
            assert await all_of_them.next() == ": ping"
            await other.post(f"/v1/conversations/{conversation_id}", json={"title": "x"})
            seen = [await feed.event()]
            await other.post(f"/v1/conversations/{conversation_id}", json={"archived": True})
            seen.append(await feed.event())
            message = {"model": "todo", "input": "hi", "conversation": conversation_id, "background": True}
            await other.post("/v1/responses", json=message)
            seen.append(await feed.event())
            touched = [await all_of_them.event()]
            while touched[-1]["kind"] != "conversation.response.created":  # behind what was told of earlier changes
                touched.append(await all_of_them.event())

    kinds = ["conversation.updated", "conversation.updated", "conversation.response.created"]
    assert [event["type"] for event in seen] == kinds
    assert [(event["title"], event["archived"]) for event in seen[:2]] == [("x", False), ("x", True)]
    earlier = ["conversation.updated"] * (len(touched) - len(kinds))
    assert touched == [
        {"type": "conversation.touched", "conversation_id": conversation_id, "kind": kind}
        for kind in [*earlier, *kinds]
    ]
