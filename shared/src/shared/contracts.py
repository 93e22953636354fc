"""Every message that crosses the broker. JSON, so that an operator can read them in the management UI.

A message says who and how far, never what a conversation holds: meaning is in Postgres, and the row wins where the two
disagree. Events travel as their exact bytes; summaries and titles as text, to the one process that may store them. `v`
is the version of the contract: a field may be added with a default, any other change is a new version, which consumers
must know one release before anybody sends it. The golden samples in `tests/shared/golden/` must decode for as long as a
version is supported.

What comes is not trusted: it is measured before it is read, and read no further than the fields below allow. Whoever
consumes it counts what it refuses (`messaging.refuse`).
"""

import contextlib
from enum import StrEnum
from typing import Annotated, TypeAlias
from uuid import UUID

import msgspec

from shared.errors import InvalidInputError
from shared.events import Event, Failure, JsonObject
from shared.states import JobStatus

VERSION = 1
# As `max_message_size` in deploy/rabbitmq/rabbitmq.conf: no broker of ours takes more from a publisher.
BYTES_MAX = 32 * 1024 * 1024

# As the columns that they are compared with.
_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_UserId: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Base of all: `v` is checked when a message is decoded."""

    v: int = VERSION


class JobReady(Message, frozen=True, kw_only=True, tag="job_ready"):
    """To `chat.jobs`: this job may run now. Sent again whenever that is in doubt; the claim decides."""

    job_id: UUID
    conversation_id: UUID
    user_id: _UserId


class JournalChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A run of events of one attempt, numbered from `first_seq`.

    `ended_as` is the job's end state where the last event is the terminal one.
    """

    job_id: UUID
    conversation_id: UUID
    attempt: _Count
    first_seq: _Count
    events: list[msgspec.Raw]
    ended_as: JobStatus | None = None

    @property
    def next_seq(self) -> int:
        return self.first_seq + len(self.events)


class JournalChunks(Message, frozen=True, kw_only=True, tag="journal_chunks"):
    """To `chat.journal.<p>`: what a worker's jobs of one partition produced since its last message."""

    chunks: list[JournalChunk]


class ResumeRequest(Message, frozen=True, kw_only=True, tag="resume_request"):
    """To `chat.journal.<p>`, before the first chunk of an attempt ≥ 2; answered by `ResumeReply`.

    Behind it in the queue comes nothing of the former attempt that would still be stored.
    """

    job_id: UUID
    conversation_id: UUID
    attempt: _Count


class ResumeReply(Message, frozen=True, kw_only=True, tag="resume_reply"):
    """Where the attempt goes on. `granted` is false where the job ended, or a later attempt owns it."""

    job_id: UUID
    attempt: _Count
    granted: bool
    next_seq: _Count = 0
    next_output_index: _Count = 0
    output: list[JsonObject] = []


class JobReleased(Message, frozen=True, kw_only=True, tag="job_released"):
    """To `chat.journal.<p>`: the attempt is over without an end; run the job again after `delay_seconds`."""

    job_id: UUID
    conversation_id: UUID
    attempt: _Count
    delay_seconds: float
    reason: Failure | None = None


class ConversationSummarised(Message, frozen=True, kw_only=True, tag="conversation_summarised"):
    """To `chat.journal.<p>`: what was said up to the turn of `job_id`, that one included, in short.

    It tells of items of `conversation_ids`; when those were read, `deleted_item_count` of theirs were deleted. It is
    not stored where one was since. May be lost: then it is made again.
    """

    job_id: UUID
    conversation_id: UUID
    user_id: _UserId
    conversation_ids: list[UUID]
    deleted_item_count: _Count
    text: str
    token_count: _Count
    covers_turn_count: _Count


class TitleSuggested(Message, frozen=True, kw_only=True, tag="title_suggested"):
    """To `chat.journal.<p>`: a title for a conversation whose title nobody chose yet, and what it cost. May be lost."""

    conversation_id: UUID
    user_id: _UserId
    title: str
    input_tokens: _Count = 0
    output_tokens: _Count = 0


class CancelRequested(Message, frozen=True, kw_only=True, tag="cancel_requested"):
    """To `chat.control` for the workers, and to `chat.journal.<p>` for a job that no worker runs."""

    job_id: UUID
    conversation_id: UUID


class LiveEvents(msgspec.Struct, frozen=True, kw_only=True):
    """Events of one job that are stored now."""

    job_id: UUID
    first_seq: _Count
    events: list[msgspec.Raw]


class Touched(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation of `user_id` in which something happened; `what` is the kind of its event."""

    conversation_id: UUID
    user_id: _UserId
    what: str


class LiveBatch(Message, frozen=True, kw_only=True, tag="live_batch"):
    """To `chat.live`: what one transaction stored. May be lost; the journal and the conversations' events have it."""

    jobs: list[LiveEvents]
    conversations: list[Touched] = []


ToPersistence = JournalChunks | ResumeRequest | JobReleased | CancelRequested | ConversationSummarised | TitleSuggested
AnyMessage = JobReady | ToPersistence | ResumeReply | LiveBatch

_decoder: msgspec.json.Decoder[AnyMessage] = msgspec.json.Decoder(AnyMessage)
encode = msgspec.json.encode


class Refusal(StrEnum):
    """Why a message is refused; the words of the metric."""

    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    WRONG_SCHEMA = "wrong_schema"
    UNKNOWN_VERSION = "unknown_version"
    MISPLACED = "misplaced"  # a message of ours, where none of its kind is expected or its sender may not send it


class RefusedMessageError(InvalidInputError):
    """`bad_message`: no message of this system, or none for this place."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__("bad_message", message)
        self.refusal = refusal


class _Version(msgspec.Struct):
    v: int = VERSION


def raw_events(events: list[Event]) -> list[msgspec.Raw]:
    return [msgspec.Raw(event) for event in events]


def decode(body: bytes) -> AnyMessage:
    """The message in `body`.

    Raises RefusedMessageError for what is no message, or one of a version unknown here.
    """
    if len(body) > BYTES_MAX:
        raise RefusedMessageError(Refusal.TOO_LARGE, f"larger than {BYTES_MAX} bytes")
    try:
        message = _decoder.decode(body)
    except msgspec.ValidationError as error:
        _refuse_other_version(body)
        raise RefusedMessageError(Refusal.WRONG_SCHEMA, "not a message of this system") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedMessageError(Refusal.NOT_JSON, "not JSON, or nested too deeply") from error
    if message.v != VERSION:
        _refuse_other_version(body)
    return message


def _refuse_other_version(body: bytes) -> None:
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        version = msgspec.json.decode(body, type=_Version).v
        if version != VERSION:
            raise RefusedMessageError(Refusal.UNKNOWN_VERSION, f"version {version} is unknown here")
