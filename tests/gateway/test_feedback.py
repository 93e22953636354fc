"""What users think of answers, and which answers they have not seen."""

from typing import Any

import pytest
from fastapi import FastAPI

from gateway.settings import GatewaySettings
from gateway.turns import Accepted
from shared.ids import Prefix, new_wire_id, to_wire
from shared.metrics import value
from tests.gateway.conftest import Caller, GatewayWith
from tests.gateway.test_feed import told
from tests.support.client import object_of
from tests.support.stack import token_of
from tests.support.turns import Turns


def conversation_of(accepted: Accepted) -> str:
    return to_wire(Prefix.CONVERSATION, accepted.conversation_id)


def feedback_on(accepted: Accepted) -> str:
    return f"/v1/responses/{accepted.response_id}/feedback"


def count_of(rating: str) -> float:
    return value("parley_gateway_feedback_total", rating=rating)


async def in_tree(caller: Caller, accepted: Accepted) -> list[Any]:
    tree = object_of(await caller.get(f"/v1/conversations/{conversation_of(accepted)}/responses"))
    return [response["feedback"] for response in tree["data"]]


async def test_feedback_is_kept_and_comes_with_the_responses_of_the_conversation(ada: Caller, turns: Turns) -> None:
    first = await turns.exchange(ada.user_id, "Hello", "Hello!")
    await turns.exchange(ada.user_id, "More", "More!", conversation_id=first.conversation_id)

    given = object_of(await ada.put(feedback_on(first), json={"rating": "negative", "reason": " Too short. "}))

    assert (given["response_id"], given["rating"], given["reason"]) == (first.response_id, "negative", "Too short.")
    assert object_of(await ada.get(feedback_on(first))) == given
    assert await in_tree(ada, first) == [None, {"rating": "negative", "reason": "Too short."}]


async def test_feedback_given_again_takes_the_place_of_the_first_and_can_be_taken_back(
    ada: Caller, turns: Turns
) -> None:
    accepted = await turns.exchange(ada.user_id, "Hello", "Hello!")
    await ada.put(feedback_on(accepted), json={"rating": "negative", "reason": "Too short."})

    changed = object_of(await ada.put(feedback_on(accepted), json={"rating": "positive"}))
    deletions = [object_of(await ada.delete(feedback_on(accepted))) for _ in range(2)]
    gone = await ada.get(feedback_on(accepted))

    assert (changed["rating"], changed["reason"]) == ("positive", None)
    assert [one["deleted"] for one in deletions] == [True, True]
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_found")
    assert await in_tree(ada, accepted) == [None]


async def test_other_tabs_are_told_of_what_changed_and_of_nothing_else(ada: Caller, turns: Turns) -> None:
    accepted = await turns.exchange(ada.user_id, "Hello", "Hello!")
    before = len(await told(turns, ada.user_id, conversation_of(accepted)))

    for rating in ("positive", "positive", "negative"):
        await ada.put(feedback_on(accepted), json={"rating": rating})
    for _ in range(2):
        await ada.delete(feedback_on(accepted))

    events = (await told(turns, ada.user_id, conversation_of(accepted)))[before:]
    assert {kind for kind, _ in events} == {"feedback.changed"}
    assert [said for _, said in events] == [
        {"response_id": accepted.response_id, "rating": rating} for rating in ("positive", "negative", None)
    ]


async def test_ratings_are_counted_when_they_are_new(ada: Caller, turns: Turns) -> None:
    accepted = await turns.exchange(ada.user_id, "Hello", "Hello!")
    before = count_of("positive"), count_of("negative")

    await ada.put(feedback_on(accepted), json={"rating": "positive"})
    await ada.put(feedback_on(accepted), json={"rating": "positive", "reason": "Very good."})
    await ada.put(feedback_on(accepted), json={"rating": "negative"})

    assert (count_of("positive"), count_of("negative")) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"rating": "maybe"}, "invalid_input", "rating"),
        ({"reason": "Why not?"}, "invalid_input", "rating"),
        ({"rating": "positive", "reason": "x" * 2_001}, "reason_too_long", "reason"),
        ({"rating": "positive", "reason": "a\0b"}, "invalid_text", "reason"),
    ],
)
async def test_what_is_no_feedback_is_refused(
    ada: Caller, turns: Turns, body: dict[str, str], code: str, param: str
) -> None:
    accepted = await turns.exchange(ada.user_id, "Hello", "Hello!")

    answer = await ada.put(feedback_on(accepted), json=body)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert answer.json()["error"]["param"] == param


async def test_nobody_rates_what_is_deleted_or_another_users(ada: Caller, bob: Caller, turns: Turns) -> None:
    theirs = await turns.exchange(bob.user_id, "Hello", "Hello!")
    deleted = await turns.exchange(ada.user_id, "Hello", "Hello!")
    unkept = await turns.exchange(ada.user_id, "Hello", "Hello!", store=False)
    await ada.delete(f"/v1/conversations/{conversation_of(deleted)}")

    answers = [await ada.put(feedback_on(one), json={"rating": "positive"}) for one in (theirs, deleted, unkept)]

    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.json()["error"]["message"] for answer in answers}) == 1
    assert await in_tree(bob, theirs) == [None]


async def test_the_length_of_a_reason_is_a_setting(
    ada: Caller, turns: Turns, gateway_with: GatewayWith, gateway_settings: GatewaySettings
) -> None:
    app: FastAPI = gateway_with(gateway_settings.model_copy(update={"feedback_chars_max": 5}))
    accepted = await turns.exchange(ada.user_id, "Hello", "Hello!")

    async with Caller(app, ada.user_id, token_of(ada.user_id)) as caller:
        answer = await caller.put(feedback_on(accepted), json={"rating": "positive", "reason": "123456"})

    assert answer.json()["error"]["message"] == "The reason has 6 characters; at most 5 are allowed."


# --- what was not seen yet


async def end(turns: Turns, accepted: Accepted) -> None:
    await turns.change("update jobs set ended_at = clock_timestamp() where id = $1 returning id", accepted.job_id)


async def is_unread(caller: Caller, conversation_id: str) -> bool:
    """As the list, the conversation itself and the simple contract all say."""
    listed = object_of(await caller.get("/v1/conversations"))["data"]
    [found] = [one["is_unread"] for one in listed if one["id"] == conversation_id]
    assert object_of(await caller.get(f"/v1/conversations/{conversation_id}"))["is_unread"] is found
    assert object_of(await caller.get(f"/api/conversations/{conversation_id}"))["is_unread"] is found
    return bool(found)


async def test_an_answer_makes_its_conversation_unread_until_it_is_marked_as_read(ada: Caller, turns: Turns) -> None:
    accepted = await turns.exchange(ada.user_id, "Hello", "Hello!")
    conversation_id = conversation_of(accepted)
    running = await is_unread(ada, conversation_id)
    await end(turns, accepted)

    ended = await is_unread(ada, conversation_id)
    marked = object_of(await ada.put(f"/v1/conversations/{conversation_id}/read"))

    assert (running, ended, marked["is_unread"]) == (False, True, False)
    assert await is_unread(ada, conversation_id) is False
    await ada.post(f"/v1/conversations/{conversation_id}", json={"title": "Greetings"})
    assert await is_unread(ada, conversation_id) is False


async def test_what_ended_behind_the_response_that_was_seen_stays_unread(ada: Caller, turns: Turns) -> None:
    seen = await turns.exchange(ada.user_id, "Hello", "Hello!")
    conversation_id = conversation_of(seen)
    await end(turns, seen)
    unseen = await turns.exchange(ada.user_id, "More", "More!", conversation_id=seen.conversation_id)
    await end(turns, unseen)

    marks = [
        object_of(await ada.put(f"/v1/conversations/{conversation_id}/read", json={"response_id": one.response_id}))
        for one in (seen, unseen, seen)
    ]

    assert [mark["is_unread"] for mark in marks] == [True, False, False]


async def test_only_a_response_of_the_conversation_can_have_been_seen_in_it(ada: Caller, turns: Turns) -> None:
    accepted, other = [await turns.exchange(ada.user_id, "Hello", "Hello!") for _ in range(2)]
    path = f"/v1/conversations/{conversation_of(accepted)}/read"

    answers = [
        await ada.put(path, json={"response_id": response_id})
        for response_id in (other.response_id, new_wire_id(Prefix.RESPONSE))
    ]

    assert [answer.status_code for answer in answers] == [404, 404]
    assert answers[0].json() == answers[1].json()
