"""The messages on the broker: a stored sample of each version decodes for as long as that version is supported."""

import json
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from shared.contracts import (
    VERSION,
    CancelRequested,
    ConversationSummarised,
    JobReady,
    JobReleased,
    JournalChunk,
    JournalChunks,
    LiveBatch,
    LiveEvents,
    Message,
    ResumeReply,
    ResumeRequest,
    TitleSuggested,
    Touched,
    decode,
    encode,
)
from shared.errors import InvalidInputError
from shared.events import Failure
from shared.states import JobStatus

GOLDEN = Path(__file__).parent / "golden"
_JOB = UUID("0199c3f2-a4d8-7b3f-8e5d-2c1b0a998877")
_CONVERSATION = UUID("0199c3f2-a4d8-7b3f-8e5d-000000000001")
_EVENTS = [msgspec.Raw(b'{"type":"response.in_progress","sequence_number":1,"response":{}}')]

SAMPLES: dict[str, Message] = {
    "job_ready": JobReady(job_id=_JOB, conversation_id=_CONVERSATION, user_id="ada"),
    "journal_chunks": JournalChunks(
        chunks=[
            JournalChunk(
                job_id=_JOB,
                conversation_id=_CONVERSATION,
                attempt=1,
                first_seq=1,
                events=_EVENTS,
                ended_as=JobStatus.COMPLETED,
            )
        ]
    ),
    "resume_request": ResumeRequest(job_id=_JOB, conversation_id=_CONVERSATION, attempt=2),
    "resume_reply": ResumeReply(
        job_id=_JOB, attempt=2, granted=True, next_seq=7, next_output_index=1, output=[{"type": "message"}]
    ),
    "job_released": JobReleased(
        job_id=_JOB,
        conversation_id=_CONVERSATION,
        attempt=1,
        delay_seconds=2.5,
        reason=Failure("model_unavailable", "The model cannot be reached."),
    ),
    "conversation_summarised": ConversationSummarised(
        job_id=_JOB,
        conversation_id=_CONVERSATION,
        user_id="ada",
        conversation_ids=[_CONVERSATION],
        deleted_item_count=1,
        text="Ada wants to buy milk.",
        token_count=6,
        covers_turn_count=12,
    ),
    "title_suggested": TitleSuggested(
        conversation_id=_CONVERSATION, user_id="ada", title="Buying milk", input_tokens=40, output_tokens=3
    ),
    "cancel_requested": CancelRequested(job_id=_JOB, conversation_id=_CONVERSATION),
    "live_batch": LiveBatch(
        jobs=[LiveEvents(job_id=_JOB, first_seq=1, events=_EVENTS)],
        conversations=[
            Touched(conversation_id=_CONVERSATION, user_id="ada", what="conversation.response.ended"),
        ],
    ),
}


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_stored_sample_decodes_to_what_was_meant(name: str) -> None:
    body = (GOLDEN / f"{name}.v{VERSION}.json").read_bytes().strip()

    assert type(decode(body)) is type(SAMPLES[name])
    assert encode(decode(body)) == body


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_what_is_sent_today_has_the_form_of_the_sample(name: str) -> None:
    sample = json.loads((GOLDEN / f"{name}.v{VERSION}.json").read_bytes())

    assert json.loads(encode(SAMPLES[name])) == sample


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_fields_that_the_next_version_adds_are_passed_over(name: str) -> None:
    """For an upgrade, process by process: a message of the version after this one, where it only adds."""
    sample = json.loads((GOLDEN / f"{name}.v{VERSION}.json").read_bytes())
    later = _with_additions(sample)

    assert later != sample
    assert decode(json.dumps(later).encode()) == decode(json.dumps(sample).encode())


def _with_additions(value: object) -> object:
    """`value` with a field more in every object of ours; what events and items hold is passed on as it is."""
    if isinstance(value, list):
        return [_with_additions(each) for each in value]
    if not isinstance(value, dict):
        return value
    known = {key: each if key in {"events", "output"} else _with_additions(each) for key, each in value.items()}
    return {**known, "added_later": {"kind": "unknown", "v": 2}}


def test_a_live_batch_of_before_there_were_conversations_in_it_decodes() -> None:
    batch = decode(b'{"kind":"live_batch","v":1,"jobs":[]}')

    assert batch == LiveBatch(jobs=[], conversations=[])


def test_events_cross_byte_for_byte() -> None:
    odd = b'{"type":"x","text":"\\u00e9 \xc3\xa9 \\n",  "n": 1.0}'
    batch = LiveBatch(jobs=[LiveEvents(job_id=_JOB, first_seq=0, events=[msgspec.Raw(odd)])])

    decoded = decode(encode(batch))

    assert isinstance(decoded, LiveBatch)
    assert bytes(decoded.jobs[0].events[0]) == odd


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"kind":"unknown","v":1}',
        b'{"kind":"job_ready","v":1}',
        b'{"kind":"job_ready","v":1,"job_id":"x","conversation_id":"y","user_id":1}',
        encode(JobReady(v=99, job_id=_JOB, conversation_id=_CONVERSATION, user_id="ada")),
    ],
)
def test_anything_else_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInputError) as refused:
        decode(body)

    assert refused.value.code == "bad_message"
