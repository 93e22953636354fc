"""Streams: large ones, slow readers, a database that hangs, a conversation that goes."""

import asyncio
import socket
import time
from collections.abc import MutableMapping, Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from gateway.application import rest_of
from gateway.auth import User
from gateway.live import Live
from gateway.stream import BEFORE_FIRST, EventStream, Follower, Journal, Polling, frame
from gateway.turns import Accepted
from shared.contracts import LiveBatch, LiveEvents, encode, raw_events
from shared.db import Database
from shared.errors import DatabaseUnavailableError
from shared.events import Event, ResponseEvents, type_of
from shared.ids import Prefix, to_wire, uuid7
from shared.messaging import Broker
from shared.states import JobStatus
from tests.gateway.conftest import NO_BROKER, Caller, Serve
from tests.support.stack import token_of
from tests.support.tcp import proxied
from tests.support.turns import Turns
from tests.support.waiting import wait_until


def said(accepted: Accepted, *, deltas: int, text: str, is_over: bool = True) -> list[Event]:
    """What follows the first event of a response that says `text` so many times."""
    writer = ResponseEvents(accepted.response, next_seq=len(accepted.events))
    events = [writer.in_progress()]
    for _ in range(deltas):
        events += writer.text(text)
    if is_over:
        events += writer.end(JobStatus.COMPLETED, ended_at=datetime.now(UTC), usage=None)
    return events


async def store(turns: Turns, accepted: Accepted, events: Sequence[Event], *, status: str = "in_progress") -> None:
    """As persistence would, a hundred events a row."""
    first = len(accepted.events)
    async with turns.persistence.transaction(None) as db:
        for index in range(0, len(events), 100):
            row = events[index : index + 100]
            await db.execute(
                "insert into journal (job_id, first_seq, last_seq, user_id, frames) values ($1, $2, $3, $4, $5)",
                accepted.job_id,
                first + index,
                first + index + len(row) - 1,
                accepted.user_id,
                b"\n".join(row).decode(),
            )
        await db.execute(
            "update jobs set next_seq = $2, status = $3, ended_at = case when $4 then clock_timestamp() end"
            " where id = $1",
            accepted.job_id,
            first + len(events),
            status,
            JobStatus(status).is_terminal,
        )


async def sent_by(stream: EventStream) -> list[bytes]:
    """The pieces of its body, to a client that stays."""
    sent: list[bytes] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message.get("body", b""))

    scope: dict[str, Any] = {"type": "http", "state": {}}
    await stream(scope, stays, send)
    rest = rest_of(scope)
    assert rest is not None
    await rest.send_by(send)
    return sent


async def stays() -> MutableMapping[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_turn_that_waited_and_ran_before_anybody_listened_is_read_at_once(
    gateway: FastAPI, ada: Caller, turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Persistence lets it run as soon as the turn before has ended, whoever follows."""
    monkeypatch.setattr(Live, "is_up", True)  # so that nobody looks into the journal before a heartbeat's time
    first = await turns.ask(ada.user_id, "one")
    accepted = await turns.ask(ada.user_id, "two", first.conversation_id)
    events = said(accepted, deltas=2, text="x")
    await store(turns, accepted, events, status="completed")
    answers = gateway.state.services.answers

    async with asyncio.timeout(answers._settings.heartbeat_seconds / 2):  # noqa: SLF001
        user = User(ada.user_id, time.time() + 60)
        sent = await sent_by(answers.stream_new(user, accepted, answers.stream_slot(user.id)))
        response = await answers.wait(accepted, stays, seconds=60)

    assert not accepted.is_active
    assert b"".join(sent) == b"".join(map(frame, [*accepted.events, *events])) + b"data: [DONE]\n\n"
    assert response["status"] == "completed"


async def test_a_large_response_is_replayed_in_slices_and_is_the_journal(
    gateway: FastAPI, ada: Caller, turns: Turns
) -> None:
    accepted = await turns.ask(ada.user_id, "tell me a long story")
    events = said(accepted, deltas=2_000, text="x" * 1_000)
    await store(turns, accepted, events, status="completed")
    answers = gateway.state.services.answers
    stream = answers.stream(
        User(ada.user_id, time.time() + 60), accepted.job_id, None, answers.stream_slot(ada.user_id)
    )

    sent = await sent_by(stream)

    assert b"".join(sent) == b"".join(map(frame, [*accepted.events, *events])) + b"data: [DONE]\n\n"
    # No event is split: the last ones, which hold the whole text, are sent one by one.
    assert all(len(body) <= 64 * 1024 or body.count(b"event: ") == 1 for body in sent)
    assert all(body.startswith((b"event: ", b"data: [DONE]")) for body in sent if body)


async def test_a_reader_that_takes_nothing_is_let_go(serve: Serve, turns: Turns) -> None:
    accepted = await turns.ask("sam-slow", "tell me a very long story")
    await store(turns, accepted, said(accepted, deltas=3_000, text="x" * 10_000, is_over=False))
    request = (
        f"GET /v1/responses/{accepted.response_id}?stream=true HTTP/1.1\r\nhost: x\r\n"
        f"authorization: Bearer {token_of('sam-slow')}\r\n\r\n"
    )
    async with serve(send_timeout_seconds=0.5, streams_per_user_max=1) as served:
        with socket.create_connection(("127.0.0.1", served.port)) as lazy:
            lazy.sendall(request.encode())
            assert await asyncio.to_thread(lazy.recv, 10)

            async def is_gone() -> bool:
                return served.connection_count == 0

            await wait_until(is_gone, what="the connection is closed")
        async with (
            served.client("sam-slow") as client,
            client.stream("GET", f"/v1/responses/{accepted.response_id}", params={"stream": "true"}) as again,
        ):
            assert again.status_code == 200


async def test_deleting_a_conversation_stops_its_jobs_and_closes_their_streams(serve: Serve, turns: Turns) -> None:
    accepted = await turns.ask("dan-deletes", "hello")
    conversation = accepted.conversation_id
    async with serve() as served, served.client("dan-deletes") as client:
        url = f"/v1/responses/{accepted.response_id}"
        async with client.stream("GET", url, params={"stream": "true"}) as stream:
            lines = stream.aiter_lines()
            assert await anext(lines) == "event: response.created"
            deleted = await client.delete(f"/v1/conversations/{to_wire(Prefix.CONVERSATION, conversation)}")
            rest = [line async for line in lines]

        assert deleted.status_code == 200
        assert "data: [DONE]" not in rest
        assert (await client.get(url)).status_code == 404
    async with turns.persistence.transaction(None) as db:
        job = await db.fetchrow("select cancel_requested_at from jobs where id = $1", accepted.job_id)
    assert job["cancel_requested_at"] is not None


async def test_a_postgres_that_hangs_is_answered_with_503_within_seconds_and_forgotten(
    serve: Serve, database_urls: dict[str, str]
) -> None:
    """A request waits at most once for GATEWAY_DATABASE_SECONDS_MAX, be it for a statement or for a connection."""
    wait_seconds = 1.5
    async with (
        proxied(database_urls["parley_gateway"]) as (url, line),
        serve(database_url=SecretStr(url), database_seconds_max=wait_seconds, database_pool_size=4) as served,
        served.client("fay") as client,
    ):

        async def timed(method: str, path: str, **sent: Any) -> tuple[float, httpx2.Response]:
            started_at = time.monotonic()
            answer = await client.request(method, path, **sent)
            return time.monotonic() - started_at, answer

        assert (await client.get("/api/conversations")).status_code == 200
        line.freeze()
        timed_answers = await asyncio.gather(
            *(timed("POST", "/v1/responses", json={"model": "chat", "input": "hi"}) for _ in range(6)),
            *(timed("GET", "/api/conversations") for _ in range(6)),
        )
        line.mend()

        async def works() -> bool:
            return (await client.get("/api/conversations")).status_code == 200

        await wait_until(works)

    assert {answer.status_code for _, answer in timed_answers} == {503}
    assert {answer.headers["retry-after"] for _, answer in timed_answers} == {"2"}
    # One wait, and room for a machine that is busy. By default it is 4 s, so that an answer takes less than 5.
    assert max(seconds for seconds, _ in timed_answers) < 3 * wait_seconds


class LiveBus(Live):
    """A bus that is up, and says what the test says."""

    def __init__(self) -> None:
        super().__init__(Broker(NO_BROKER, "test"))

    @property
    def is_up(self) -> bool:
        return True

    def say(self, accepted: Accepted, first_seq: int, events: Sequence[Event]) -> None:
        batch = LiveEvents(job_id=accepted.job_id, first_seq=first_seq, events=raw_events(list(events)))
        self._take(encode(LiveBatch(jobs=[batch])))


async def test_a_stream_from_beyond_the_end_ends_with_the_response(turns: Turns) -> None:
    accepted, bus = await turns.ask("zoe-far", "hello"), LiveBus()
    journal = Journal(turns.gateway, asyncio.Semaphore(1), "zoe-far", accepted.job_id)
    following = Follower(journal, bus, heartbeat_seconds=60).follow(1_000_000)
    listening = asyncio.ensure_future(anext(following, None))
    events = said(accepted, deltas=3, text="hi")
    await store(turns, accepted, events, status="completed")

    async def has_ended() -> bool:
        bus.say(accepted, len(accepted.events), events)
        return listening.done()

    await wait_until(has_ended)

    assert listening.result() is None


async def test_streams_leave_connections_for_others(turns: Turns) -> None:
    accepted = await turns.ask("jim-joins", "hello")
    reads = asyncio.Semaphore(1)
    journal = Journal(turns.gateway, reads, "jim-joins", accepted.job_id)

    async with reads:
        waiting = asyncio.create_task(journal.after(BEFORE_FIRST))
        await asyncio.wait([waiting], timeout=0.1)
        assert not waiting.done()

    assert [type_of(event) for event in (await waiting).events] == ["response.created"]


def test_polling_slows_down_and_begins_anew_with_news() -> None:
    polling = Polling()

    pauses = [polling.next_pause() for _ in range(20)]
    assert pauses[0] <= 0.5
    assert all(3.5 <= pause <= 5.0 for pause in pauses[10:])
    assert len(set(pauses)) == len(pauses)
    polling.reset()
    assert polling.next_pause() <= 0.5


@pytest.mark.parametrize(
    "statement",
    ["select pg_sleep(60)", "do $$ begin raise sqlstate '53100' using message = 'no space left'; end $$"],
    ids=["hangs", "is full"],
)
async def test_a_database_that_cannot_now_is_said_to_be_unavailable(
    database_urls: dict[str, str], statement: str
) -> None:
    url = database_urls["parley_gateway"]
    database = await Database.connect(url, application_name="test", pool_size=1, command_seconds=0.5)

    async def execute() -> None:
        async with database.transaction("ada") as db:
            await db.execute(statement)

    with pytest.raises(DatabaseUnavailableError):
        await execute()

    await database.ping()
    await database.close()


async def test_an_error_of_the_database_quotes_nothing_that_it_holds(turns: Turns) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        async with turns.gateway.transaction("ada") as db:
            await db.execute("insert into tasks (id, user_id, title) values ($1, 'ada', $2)", uuid7(), "secret" * 99)

    assert "secret" not in str(caught.value)
    assert caught.value.sqlstate == "23514"
    assert caught.value.constraint_name
