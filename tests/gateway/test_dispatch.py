"""Marks of what was sent and answered, made by the dispatcher with a broker that confirms everything."""

from typing import Any, cast

import pytest

from gateway.dispatch import Dispatcher
from gateway.turns import Accepted
from shared.contracts import JobReady, LiveBatch, Touched
from shared.ids import uuid7
from shared.messaging import Publisher
from tests.support.turns import Turns
from tests.support.waiting import wait_until


class ConfirmingPublisher:
    """Stands in for the broker's side of a `Publisher`."""

    def __init__(self) -> None:
        self.told: list[LiveBatch] = []

    async def send(self, queue: str, message: object) -> None:
        """It arrived."""

    async def tell(self, _exchange: str, message: LiveBatch) -> None:
        self.told.append(message)


@pytest.fixture
def publisher() -> ConfirmingPublisher:
    return ConfirmingPublisher()


@pytest.fixture
def dispatcher(publisher: ConfirmingPublisher, turns: Turns) -> Dispatcher:
    """Marks when it is stopped, which each test does."""
    return Dispatcher(cast("Publisher", publisher), turns.gateway)


async def accepted(turns: Turns) -> Accepted:
    return await turns.ask(f"user-{uuid7().hex}", "hello")


async def dispatched(dispatcher: Dispatcher, turn: Accepted) -> None:
    """Sends the job, and waits until the mark was made or left out."""
    dispatcher.dispatch(JobReady(job_id=turn.job_id, conversation_id=turn.conversation_id, user_id=turn.user_id))
    await dispatcher.stop()


async def job_of(turns: Turns, turn: Accepted) -> Any:
    async with turns.persistence.transaction(None) as db:
        return await db.fetchrow("select * from jobs where id = $1", turn.job_id)


async def test_a_confirmed_job_is_marked(dispatcher: Dispatcher, turns: Turns) -> None:
    turn = await accepted(turns)

    await dispatched(dispatcher, turn)

    assert (await job_of(turns, turn))["dispatched_at"] is not None


@pytest.mark.parametrize(
    "meanwhile",
    [
        "attempt = 1, available_at = now() + interval '10 s'",
        "attempt = 1",
        "status = 'in_progress', attempt = 1",
        "status = 'cancelled'",
    ],
    ids=["released for later", "released for now", "claimed", "ended"],
)
async def test_a_job_that_a_worker_had_before_the_mark_is_not_marked(
    dispatcher: Dispatcher, turns: Turns, meanwhile: str
) -> None:
    turn = await accepted(turns)
    await turns.change(f"update jobs set {meanwhile} where id = $1", turn.job_id)  # noqa: S608 - constants

    await dispatched(dispatcher, turn)

    assert (await job_of(turns, turn))["dispatched_at"] is None


async def test_an_answer_is_marked_once(dispatcher: Dispatcher, turns: Turns) -> None:
    turn = await accepted(turns)
    dispatcher.answered(turn.job_id)
    await dispatcher.stop()
    answered_at = (await job_of(turns, turn))["answered_at"]

    dispatcher.answered(turn.job_id)
    await dispatcher.stop()

    assert answered_at is not None
    assert (await job_of(turns, turn))["answered_at"] == answered_at


async def test_what_is_touched_within_a_moment_is_told_as_one_message(
    dispatcher: Dispatcher, publisher: ConfirmingPublisher
) -> None:
    touched = [Touched(conversation_id=uuid7(), user_id="ada", what=what) for what in ("created", "updated", "deleted")]

    for conversation in touched:
        dispatcher.touched(conversation)

    async def told() -> list[LiveBatch]:
        return publisher.told

    assert await wait_until(told) == [LiveBatch(jobs=[], conversations=touched)]


async def test_what_is_touched_before_a_stop_is_told(dispatcher: Dispatcher, publisher: ConfirmingPublisher) -> None:
    first, second = [Touched(conversation_id=uuid7(), user_id="ada", what="updated") for _ in range(2)]

    dispatcher.touched(first)
    await dispatcher.stop()
    dispatcher.touched(second)
    await dispatcher.stop()

    assert [batch.conversations for batch in publisher.told] == [[first], [second]]
