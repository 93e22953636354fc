"""What the worker hears besides its jobs."""

import asyncio
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from chat_worker.control import Control
from shared.contracts import CancelRequested, JobReady, Message, ResumeReply, ResumeRequest, encode
from shared.errors import BrokerUnavailableError
from shared.ids import uuid7

JOB, CONVERSATION = uuid7(), UUID(int=1)
REPLY = ResumeReply(job_id=JOB, attempt=2, granted=True, next_seq=7, next_output_index=1)


@dataclass
class Persistence:
    """Answers the n-th question, which reaches it after `refusals` failed; earlier ones it overhears."""

    answers_at: int = 1
    refusals: int = 0
    questions: list[tuple[str, ResumeRequest, str | None]] = field(default_factory=list)
    control: Control | None = None

    async def send(self, queue: str, message: Message, *, reply_to: str | None = None) -> None:
        if self.refusals > 0:
            self.refusals -= 1
            raise BrokerUnavailableError("broker_unavailable", "away")
        assert isinstance(message, ResumeRequest)
        self.questions.append((queue, message, reply_to))
        if len(self.questions) == self.answers_at:
            assert self.control is not None
            asyncio.get_running_loop().call_soon(self.control.on_message, encode(REPLY))


def control_of(persistence: Persistence, *, wait_seconds_max: float = 5.0) -> tuple[Control, list[UUID]]:
    cancelled: list[UUID] = []
    persistence.control = Control(
        persistence,
        lambda: "chat.control.me",
        cancelled.append,
        partition_count=2,
        ask_seconds=0.01,
        wait_seconds_max=wait_seconds_max,
    )
    return persistence.control, cancelled


async def test_a_question_goes_to_the_jobs_partition_and_names_where_to_answer() -> None:
    persistence = Persistence()
    control, _ = control_of(persistence)

    reply = await control.ask_to_resume(JOB, CONVERSATION, 2)

    request = ResumeRequest(job_id=JOB, conversation_id=CONVERSATION, attempt=2)
    assert persistence.questions == [("chat.journal.1", request, "chat.control.me")]
    assert reply == REPLY


async def test_a_question_is_asked_again_until_it_is_answered() -> None:
    persistence = Persistence(answers_at=3, refusals=1)
    control, _ = control_of(persistence)

    assert await control.ask_to_resume(JOB, CONVERSATION, 2) == REPLY
    assert len(persistence.questions) == 3


async def test_a_question_that_is_never_answered_ends() -> None:
    control, _ = control_of(Persistence(answers_at=1_000_000), wait_seconds_max=0.05)

    with pytest.raises(BrokerUnavailableError):
        await control.ask_to_resume(JOB, CONVERSATION, 2)


async def test_an_answer_to_another_attempt_is_none() -> None:
    persistence = Persistence(answers_at=1)
    control, _ = control_of(persistence, wait_seconds_max=0.05)

    with pytest.raises(BrokerUnavailableError):
        await control.ask_to_resume(JOB, CONVERSATION, 3)


async def test_an_answer_that_comes_twice_does_no_harm() -> None:
    control, _ = control_of(Persistence())

    await control.ask_to_resume(JOB, CONVERSATION, 2)
    control.on_message(encode(REPLY))


async def test_a_cancel_is_passed_on_and_nonsense_is_not() -> None:
    control, cancelled = control_of(Persistence())

    control.on_message(b"\xff not a message")
    control.on_message(encode(JobReady(job_id=JOB, conversation_id=CONVERSATION, user_id="u")))
    control.on_message(encode(CancelRequested(job_id=JOB, conversation_id=CONVERSATION)))

    assert cancelled == [JOB]
