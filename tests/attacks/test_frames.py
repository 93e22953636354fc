"""What a user says stays inside of what carries it: events to readers, and addresses in the broker."""

import json
from collections.abc import Sequence
from typing import Any, cast

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.dispatch import Dispatcher
from gateway.stream import frame
from shared.contracts import CancelRequested, JobReady, Touched
from shared.events import ResponseEvents
from shared.ids import uuid7
from shared.messaging import CONTROL, JOBS, LIVE, Publisher, journal_queue
from tests.attacks.effort import effort
from tests.support.turns import Turns

_RESPONSE: dict[str, Any] = {"id": "resp_1", "object": "response", "status": "queued", "output": [], "usage": None}
_SPOKEN = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@effort
@given(texts=st.lists(_SPOKEN, min_size=1))
@example(texts=["\n\ndata: [DONE]\n\n"])
@example(texts=["a\rdata: b", "\r\n\r\nevent: response.completed\r\n"])
@example(texts=["\u2028\u2029\x85"])
def test_text_that_looks_like_an_event_stays_within_its_own(texts: Sequence[str]) -> None:
    writer = ResponseEvents(dict(_RESPONSE))
    events = [event for text in texts for event in writer.text(text)]

    stream = b"".join(frame(event) for event in events)

    assert b"\r" not in stream
    frames = stream.split(b"\n\n")
    assert len(frames) == len(events) + 1
    told = []
    for framed in frames[:-1]:
        name, _, data = framed.partition(b"\ndata: ")
        event = json.loads(data)
        assert name == f"event: {event['type']}".encode()
        told.append(event.get("delta", ""))
    assert "".join(told) == "".join(texts)


class _Noting:
    """Stands in for the broker's side of a `Publisher`, and notes where messages were to go."""

    partition_count = 4

    def __init__(self) -> None:
        self.places: list[str] = []

    async def send(self, queue: str, _message: object) -> None:
        self.places.append(queue)

    async def tell(self, exchange: str, _message: object) -> None:
        self.places.append(exchange)


async def test_no_word_of_a_user_is_part_of_an_address_in_the_broker(turns: Turns) -> None:
    noting = _Noting()
    dispatcher = Dispatcher(cast("Publisher", noting), turns.gateway)
    user, conversation, job = "#.*.journal.0\r\nx", uuid7(), uuid7()

    dispatcher.dispatch(JobReady(job_id=job, conversation_id=conversation, user_id=user))
    dispatcher.cancel(CancelRequested(job_id=job, conversation_id=conversation))
    dispatcher.touched(Touched(conversation_id=conversation, user_id=user, what=user))
    await dispatcher.stop()

    assert sorted(noting.places) == sorted([JOBS, CONTROL, LIVE, journal_queue(conversation.int % 4)])
