"""What is accepted, what is refused before anything is stored, and what counts as the same request."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from gateway.app import create_app
from gateway.settings import GatewaySettings
from shared.ids import Prefix, from_wire
from tests.gateway.conftest import Caller, Serve
from tests.support.turns import Turns
from tests.support.waiting import wait_until

RETRY = {"x-stainless-retry-count": "1"}
Object = dict[str, Any]


async def create(caller: Caller, text: str = "yes", *, retry: bool = False, **fields: Any) -> Object:
    """A background response; fails unless it is accepted."""
    body = {"model": "chat", "input": text, "background": True, **fields}
    answer = await caller.post("/v1/responses", json=body, headers=RETRY if retry else {})
    assert answer.status_code == 200, answer.text
    response: Object = answer.json()
    return response


async def jobs_of(turns: Turns, user_id: str) -> list[Any]:
    async with turns.persistence.transaction(None) as db:
        rows: list[Any] = await db.fetch("select * from jobs where user_id = $1 order by id", user_id)
    return rows


async def job_of(turns: Turns, response: Object) -> Any:
    async with turns.persistence.transaction(None) as db:
        return await db.fetchrow("select * from jobs where id = $1", from_wire(Prefix.RESPONSE, response["id"]))


async def marked_as_answered(turns: Turns, response: Object) -> None:
    """The gateway notes delivered answers a moment later."""

    async def is_marked() -> bool:
        return (await job_of(turns, response))["answered_at"] is not None

    await wait_until(is_marked)


async def set_job(turns: Turns, response: Object, assignments: str) -> None:
    await turns.change(
        f"update jobs set {assignments} where id = $1",  # noqa: S608 - constants
        from_wire(Prefix.RESPONSE, response["id"]),
    )


async def test_what_the_disk_has_no_room_for_is_not_accepted_and_leaves_nothing(ada: Caller, turns: Turns) -> None:
    """The commit itself fails, after every statement went well."""
    body = {"model": "chat", "input": "hello", "background": True}
    headers = {"idempotency-key": "kept"}
    await turns.change(
        "create function no_room() returns trigger language plpgsql as "
        "$$ begin raise sqlstate '53100' using message = 'could not extend file: No space left on device'; end $$"
    )
    await turns.change(
        "create constraint trigger no_room after insert on jobs deferrable initially deferred "
        "for each row execute function no_room()"
    )

    refused = await ada.post("/v1/responses", json=body, headers=headers)
    await turns.change("drop trigger no_room on jobs")
    left = await jobs_of(turns, ada.user_id)
    accepted = await ada.post("/v1/responses", json=body, headers=headers)

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
    assert int(refused.headers["retry-after"]) > 0
    assert left == []
    assert accepted.status_code == 200
    assert len(await jobs_of(turns, ada.user_id)) == 1


async def test_a_message_for_a_busy_conversation_is_refused_where_it_asks_for_that(ada: Caller, turns: Turns) -> None:
    first = await create(ada)
    body = {"model": "chat", "input": "more", "conversation": first["conversation"], "multitask_strategy": "reject"}

    refused = await ada.post("/v1/responses", json=body)

    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "conversation_locked"
    assert refused.headers["x-should-retry"] == "false"
    assert len(await jobs_of(turns, ada.user_id)) == 1
    await set_job(turns, first, "status = 'completed'")
    assert (await ada.post("/v1/responses", json={**body, "background": True})).status_code == 200


async def test_a_message_that_interrupts_stops_what_is_queued_and_running_and_waits_for_its_turn(
    ada: Caller, turns: Turns
) -> None:
    running, waiting, elsewhere = await create(ada), None, await create(ada, "elsewhere")
    waiting = await create(ada, "more", conversation=running["conversation"]["id"])
    await set_job(turns, running, "status = 'in_progress'")

    new = await create(ada, "stop", conversation=running["conversation"]["id"], multitask_strategy="interrupt")

    assert (await job_of(turns, running))["cancel_requested_at"] is not None
    assert (await job_of(turns, waiting))["cancel_requested_at"] is not None
    assert (await job_of(turns, elsewhere))["cancel_requested_at"] is None
    assert (await job_of(turns, new))["cancel_requested_at"] is None
    assert (await job_of(turns, new))["turn"] == 3


async def test_an_unknown_strategy_is_refused(ada: Caller) -> None:
    answer = await ada.post("/v1/responses", json={"model": "chat", "input": "yes", "multitask_strategy": "guess"})

    assert answer.status_code == 400


async def test_a_blind_retry_gives_the_first_response_where_its_answer_was_not_delivered(
    ada: Caller, turns: Turns
) -> None:
    first = await create(ada)
    await marked_as_answered(turns, first)
    await set_job(turns, first, "answered_at = null")

    again = await create(ada, retry=True)

    assert again["id"] == first["id"]
    assert len(await jobs_of(turns, ada.user_id)) == 1


async def test_the_same_words_are_a_new_message_where_nothing_says_that_they_are_a_retry(
    ada: Caller, bob: Caller, turns: Turns
) -> None:
    first = await create(ada)
    ids = {first["id"], (await create(ada))["id"], (await create(ada, "no", retry=True))["id"]}
    ids.add((await create(bob, retry=True))["id"])

    assert len(ids) == 4
    assert len(await jobs_of(turns, ada.user_id)) == 3


async def test_a_retry_of_what_was_answered_is_a_new_message(ada: Caller, turns: Turns) -> None:
    first = await create(ada)
    await marked_as_answered(turns, first)

    honest = await create(ada, retry=True)

    assert honest["id"] != first["id"]


async def test_a_retry_long_after_the_end_is_a_new_message(ada: Caller, turns: Turns) -> None:
    first = await create(ada)
    await marked_as_answered(turns, first)
    await set_job(turns, first, "answered_at = null, status = 'completed', ended_at = now() - interval '3 minutes'")

    assert (await create(ada, retry=True))["id"] != first["id"]


async def test_a_retry_of_what_still_runs_is_one_however_old_it_is(ada: Caller, turns: Turns) -> None:
    first = await create(ada)
    await marked_as_answered(turns, first)
    await set_job(turns, first, "answered_at = null, created_at = now() - interval '1 hour'")

    assert (await create(ada, retry=True))["id"] == first["id"]


async def test_a_key_is_what_counts_where_there_is_one(ada: Caller) -> None:
    body = {"model": "chat", "input": "yes", "background": True}
    ids = []
    for key in ("one", "two", "one"):
        answer = await ada.post("/v1/responses", json=body, headers={**RETRY, "idempotency-key": key})
        ids.append(answer.json()["id"])

    assert ids[0] == ids[2]
    assert ids[0] != ids[1]


async def test_a_client_that_leaves_while_it_waits_frees_its_place_and_may_retry(serve: Serve, turns: Turns) -> None:
    body = {"model": "chat", "input": "are you there?"}
    async with serve(waits_per_user_max=1) as served, served.client("eve-leaves") as client:
        leaving = asyncio.create_task(client.post("/v1/responses", json=body))

        async def is_stored() -> bool:
            return bool(await jobs_of(turns, "eve-leaves"))

        await wait_until(is_stored)
        refused = await client.post("/v1/responses", json=body)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "too_many_waits"
        leaving.cancel()

        [job] = await jobs_of(turns, "eve-leaves")
        async with turns.persistence.transaction(None) as db:
            await db.execute("update jobs set status = 'cancelled', ended_at = now() where id = $1", job["id"])

        async def is_free() -> httpx2.Response | None:
            answer = await client.post("/v1/responses", json=body, headers=RETRY)
            return answer if answer.status_code != 429 else None

        again = await wait_until(is_free)

    assert again is not None
    assert again.status_code == 200
    assert len(await jobs_of(turns, "eve-leaves")) == 1


async def test_a_stream_s_place_is_given_back_where_its_message_is_refused(ada: Caller) -> None:
    body = {"model": "chat", "input": "hi", "stream": True, "conversation": f"conv_{'0' * 32}"}

    for _ in range(25):
        assert (await ada.post("/v1/responses", json=body)).status_code == 404


@pytest.fixture
async def full_gateway(gateway_settings: GatewaySettings, turns: Turns) -> Any:
    """A gateway of a system that has as much to do as it may."""
    await turns.ask("somebody", "hello")
    app = create_app(gateway_settings.model_copy(update={"open_jobs_max": 1}))
    async with app.router.lifespan_context(app):
        yield app


async def test_a_system_that_has_too_much_to_do_says_so_before_it_stores_anything(
    full_gateway: FastAPI, caller: Callable[[], Caller], turns: Turns
) -> None:
    ada = caller()
    ada._transport = httpx2.ASGITransport(full_gateway)  # noqa: SLF001 - the same user at another gateway

    for path, body in (("/v1/responses", {"model": "chat", "input": "hi"}), ("/api/chat", {"message": "hi"})):
        answer = await ada.post(path, json=body)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0

    assert not await jobs_of(turns, ada.user_id)


async def test_an_ended_foreground_response_cannot_be_cancelled(ada: Caller, turns: Turns) -> None:
    answered = await turns.exchange(ada.user_id, "hi", "hello")

    answer = await ada.post(f"/v1/responses/{answered.response_id}/cancel")

    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "Cannot cancel a synchronous response."


async def test_an_ended_background_response_stays_as_it_is_when_it_is_cancelled(ada: Caller, turns: Turns) -> None:
    created = await create(ada)
    await set_job(turns, created, "status = 'completed', response = request || '{\"status\": \"completed\"}'")

    for _ in range(2):
        answer = await ada.post(f"/v1/responses/{created['id']}/cancel")
        assert answer.status_code == 200
        assert answer.json()["status"] == "completed"


async def test_what_an_assistant_said_is_stored_with_all_fields_of_its_part(ada: Caller) -> None:
    said = [{"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "hi"}]
    created = await create(ada, input=said)

    items = (await ada.get(f"/v1/conversations/{created['conversation']['id']}/items?order=asc")).json()["data"]

    assert items[0]["content"] == [{"type": "output_text", "text": "Hello!", "annotations": [], "logprobs": []}]
