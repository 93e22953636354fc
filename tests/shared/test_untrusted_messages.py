"""Whatever a queue brings, its consumer lives: it takes what is meant for it, and counts what is not."""

import contextlib
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chat_worker.consumers import take_delivery
from chat_worker.control import Control
from gateway.live import Live
from persistence.dead_letters import dead_letter_of
from shared import metrics
from shared.contracts import (
    BYTES_MAX,
    VERSION,
    CancelRequested,
    JobReady,
    LiveBatch,
    LiveEvents,
    Message,
    Refusal,
    RefusedMessageError,
    ResumeReply,
    Touched,
    decode,
    encode,
)
from shared.ids import uuid7
from shared.messaging import CANCELS, Broker
from tests.shared.test_contracts import SAMPLES

_BODIES = [encode(sample) for sample in SAMPLES.values()]


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """A message of ours with a piece of it replaced."""
    body = draw(st.sampled_from(_BODIES))
    start = draw(st.integers(0, len(body)))
    end = draw(st.integers(start, len(body)))
    return body[:start] + draw(st.binary(max_size=16)) + body[end:]


garbage = st.one_of(st.binary(max_size=200), st.text(max_size=50).map(str.encode), spoilt(), st.sampled_from(_BODIES))


@given(garbage)
@example(b'{"kind":"live_batch","v":1,"jobs":' + b"[" * 2_000)
@example(b'{"kind":"cancel_requested","v":1e999}')
@example(b"\xef\xbb\xbf{}")
def test_every_consumer_survives_whatever_comes(body: bytes) -> None:
    with contextlib.suppress(RefusedMessageError):
        decode(body)
    a_control([]).on_message(body)
    a_gateway()._take(body)  # noqa: SLF001 - what its queue calls
    letter = dead_letter_of(cast("Any", ADeadMessage(body, {"x-death": [body, {"queue": 1}]})))
    assert letter.body == body


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (b"x" * (BYTES_MAX + 1), Refusal.TOO_LARGE),
        (b"", Refusal.NOT_JSON),
        (b"\x81\xa4kind\xa9job_ready", Refusal.NOT_JSON),
        (b'{"kind":"live_batch","v":1,"jobs":[{"events":[' + b"[" * 2_000, Refusal.NOT_JSON),
        (b"[]", Refusal.WRONG_SCHEMA),
        (b'{"kind":"job_ready","v":1}', Refusal.WRONG_SCHEMA),
        (b'{"kind":"job_ready","v":"1"}', Refusal.WRONG_SCHEMA),
        (encode(JobReady(job_id=uuid7(), conversation_id=uuid7(), user_id="")), Refusal.WRONG_SCHEMA),
        (encode(JobReady(job_id=uuid7(), conversation_id=uuid7(), user_id="u" * 256)), Refusal.WRONG_SCHEMA),
        (encode(ResumeReply(job_id=uuid7(), attempt=-1, granted=True)), Refusal.WRONG_SCHEMA),
        (encode(ResumeReply(job_id=uuid7(), attempt=2**31, granted=True)), Refusal.WRONG_SCHEMA),
        (b'{"kind":"job_ready","v":%d,"of":"tomorrow"}' % (VERSION + 1), Refusal.UNKNOWN_VERSION),
        (b'{"kind":"of tomorrow","v":%d}' % (VERSION + 1), Refusal.UNKNOWN_VERSION),
    ],
)
def test_a_refusal_says_why(body: bytes, refusal: Refusal) -> None:
    with pytest.raises(RefusedMessageError) as refused:
        decode(body)

    assert refused.value.refusal is refusal


async def test_refusals_are_counted_by_place_and_reason() -> None:
    before = _counted('place="chat.live",reason="misplaced"'), _counted('place="chat.control",reason="not_json"')

    a_gateway()._take(encode(SAMPLES["job_ready"]))  # noqa: SLF001 - what its queue calls
    a_control([]).on_message(b"\x00")

    after = _counted('place="chat.live",reason="misplaced"'), _counted('place="chat.control",reason="not_json"')
    assert after == (before[0] + 1, before[1] + 1)


async def test_live_news_reach_those_who_follow_that_job_and_that_user_alone() -> None:
    """Who follows a job was found to be its user when the stream was opened; a message cannot say otherwise."""
    gateway, mine, another = a_gateway(), uuid7(), uuid7()
    events = LiveEvents(job_id=another, first_seq=0, events=[])
    forged = LiveBatch(jobs=[events], conversations=[Touched(conversation_id=mine, user_id="mallory", what="x")])

    with gateway.tail(mine) as of_job, gateway.tail_of_user("ada") as of_user:
        gateway._take(encode(forged))  # noqa: SLF001 - what its queue calls

        assert await of_job.next(0) is None  # told to read again what is stored, and nothing else
        assert await of_user.next(0) == []


def test_a_cancel_for_a_job_that_this_worker_does_not_have_is_passed_on_by_its_id_alone() -> None:
    """The row decides, see `Leases.cancel_signalled`: the signal only makes it be read sooner."""
    cancelled: list[UUID] = []
    job_id = uuid7()

    a_control(cancelled).on_message(encode(CancelRequested(job_id=job_id, conversation_id=uuid7())))
    a_control(cancelled).on_message(encode(ResumeReply(job_id=job_id, attempt=1, granted=True)))

    assert cancelled == [job_id]


@pytest.mark.parametrize("message", [sample for sample in SAMPLES.values() if not isinstance(sample, JobReady)])
async def test_a_job_queue_parks_what_is_no_job(message: Message) -> None:
    settled: list[str] = []

    class Delivery:
        body = encode(message)

        class raw_message:  # noqa: N801 - as FastStream has it
            message_id = "1"

        async def reject(self, *, requeue: bool) -> None:
            settled.append(f"rejected, requeue={requeue}")

    await take_delivery(cast("Any", Delivery()), cast("Any", None))

    assert settled == ["rejected, requeue=False"]


def test_a_dead_letter_of_a_sender_that_may_not_send_it_costs_no_job_its_attempt() -> None:
    body = encode(SAMPLES["journal_chunks"])
    by_gateway = ADeadMessage(body, {"x-death": [{"queue": "chat.journal.0", "exchange": CANCELS}]})
    made_up = {"queue": "chat.journal.0", "exchange": "", "reason": "rejected"}
    with_history = ADeadMessage(body, {"x-death": [{"queue": "chat.journal.0", "exchange": CANCELS}, made_up]})

    for raw in (by_gateway, with_history):
        letter = dead_letter_of(cast("Any", raw))
        assert (letter.kind, letter.job_ids) == ("unreadable", [])


class ADeadMessage:
    message_id = "1"

    def __init__(self, body: bytes, headers: dict[str, Any]) -> None:
        self.body = body
        self.headers = headers


def a_gateway() -> Live:
    return Live(Broker("amqp://nowhere", "test"))


def a_control(cancelled: list[UUID]) -> Control:
    return Control(
        cast("Any", None), lambda: None, cancelled.append, partition_count=1, ask_seconds=1, wait_seconds_max=1
    )


def _counted(labels: str) -> float:
    for line in metrics.text_of().decode().splitlines():
        if labels in line:
            return float(line.rpartition(" ")[2])
    return 0
