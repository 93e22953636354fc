"""A delivery is settled once, whatever it holds and whatever becomes of it."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from aiormq.exceptions import ChannelInvalidStateError

from chat_worker.consumers import take_delivery
from chat_worker.runner import Runner, Verdict
from shared import tracing
from shared.contracts import CancelRequested, JobReady, encode
from shared.ids import uuid7

READY = JobReady(job_id=uuid7(), conversation_id=uuid7(), user_id="user-1")


@dataclass
class RawMessage:
    message_id: str | None = None
    headers: dict[str, object] = field(default_factory=dict)


@dataclass
class Delivery:
    """A message of `chat.jobs`, with how it was settled."""

    body: bytes = field(default_factory=lambda: encode(READY))
    raw_message: RawMessage = field(default_factory=RawMessage)
    settled: list[str] = field(default_factory=list)
    channel_is_lost: bool = False

    async def ack(self) -> None:
        if self.channel_is_lost:
            raise ChannelInvalidStateError
        self.settled.append("acked")

    async def nack(self, *, requeue: bool) -> None:
        self.settled.append("returned" if requeue else "dead")

    async def reject(self, *, requeue: bool) -> None:
        self.settled.append("returned" if requeue else "dead")


@dataclass
class ARunner:
    """Does with every job the same."""

    verdict: Verdict = Verdict.SETTLED
    error: BaseException | None = None
    ran: list[tuple[JobReady, str | None]] = field(default_factory=list)

    async def run(self, ready: JobReady, *, delivery_id: str | None, sent_by: tracing.Position | None) -> Verdict:
        assert sent_by is None, "its message names no trace"
        self.ran.append((ready, delivery_id))
        if self.error is not None:
            raise self.error
        return self.verdict


async def take(delivery: Delivery, runner: ARunner) -> None:
    await take_delivery(cast("Any", delivery), cast("Runner", runner))


@pytest.mark.parametrize(("verdict", "settled"), [(Verdict.SETTLED, "acked"), (Verdict.RETURNED, "returned")])
async def test_the_runner_decides(verdict: Verdict, settled: str) -> None:
    delivery, runner = Delivery(raw_message=RawMessage("m-1")), ARunner(verdict)

    await take(delivery, runner)

    assert delivery.settled == [settled]
    assert runner.ran == [(READY, "m-1")]


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b'{"kind":"job_ready","job_id":"x"}',
        b'{"kind":"job_ready","v":99}',
        encode(CancelRequested(job_id=uuid7(), conversation_id=uuid7())),
    ],
)
async def test_what_is_no_job_goes_to_the_dead_letters(body: bytes) -> None:
    delivery, runner = Delivery(body), ARunner()

    await take(delivery, runner)

    assert delivery.settled == ["dead"]
    assert runner.ran == []


async def test_a_bug_hands_the_delivery_back() -> None:
    delivery = Delivery()

    await take(delivery, ARunner(error=KeyError("a bug")))

    assert delivery.settled == ["returned"]


async def test_a_delivery_that_was_cancelled_is_left_to_the_broker() -> None:
    delivery = Delivery()

    with pytest.raises(asyncio.CancelledError):
        await take(delivery, ARunner(error=asyncio.CancelledError()))

    assert delivery.settled == []


async def test_an_acknowledgement_that_fails_is_no_error() -> None:
    await take(Delivery(channel_is_lost=True), ARunner())
