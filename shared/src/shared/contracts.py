"""Every message that crosses the broker. JSON, so that an operator can read them in the management UI.

A message says who and how far, never what a conversation holds: meaning is in Postgres, and the row wins where the two
disagree. Events travel as their exact bytes; summaries and titles as text, to the one process that may store them. `v`
is the version of the contract: a field may be added with a default, any other change is a new version, which consumers
must know one release before anybody sends it. The golden samples in `tests/shared/golden/` must decode for as long as a
version is supported.
"""

from uuid import UUID

import msgspec

from shared.errors import InvalidInputError
from shared.events import Event, Failure, JsonObject
from shared.states import JobStatus

VERSION = 1


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Base of all: `v` is checked when a message is decoded."""

    v: int = VERSION


class JobReady(Message, frozen=True, kw_only=True, tag="job_ready"):
    """To `chat.jobs`: this job may run now. Sent again whenever that is in doubt; the claim decides."""

    job_id: UUID
    conversation_id: UUID
    user_id: str


class JournalChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A run of events of one attempt, numbered from `first_seq`.

    `ended_as` is the job's end state where the last event is the terminal one.
    """

    job_id: UUID
    conversation_id: UUID
    attempt: int
    first_seq: int
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
    attempt: int


class ResumeReply(Message, frozen=True, kw_only=True, tag="resume_reply"):
    """Where the attempt goes on. `granted` is false where the job ended, or a later attempt owns it."""

    job_id: UUID
    attempt: int
    granted: bool
    next_seq: int = 0
    next_output_index: int = 0
    output: list[JsonObject] = []


class JobReleased(Message, frozen=True, kw_only=True, tag="job_released"):
    """To `chat.journal.<p>`: the attempt is over without an end; run the job again after `delay_seconds`."""

    job_id: UUID
    conversation_id: UUID
    attempt: int
    delay_seconds: float
    reason: Failure | None = None


class ConversationSummarised(Message, frozen=True, kw_only=True, tag="conversation_summarised"):
    """To `chat.journal.<p>`: what was said up to the turn of `job_id`, that one included, in short.

    It tells of items of `conversation_ids`; when those were read, `deleted_item_count` of theirs were deleted. It is
    not stored where one was since. May be lost: then it is made again.
    """

    job_id: UUID
    conversation_id: UUID
    user_id: str
    conversation_ids: list[UUID]
    deleted_item_count: int
    text: str
    token_count: int
    covers_turn_count: int


class TitleSuggested(Message, frozen=True, kw_only=True, tag="title_suggested"):
    """To `chat.journal.<p>`: a title for a conversation whose title nobody chose yet, and what it cost. May be lost."""

    conversation_id: UUID
    user_id: str
    title: str
    input_tokens: int = 0
    output_tokens: int = 0


class CancelRequested(Message, frozen=True, kw_only=True, tag="cancel_requested"):
    """To `chat.control` for the workers, and to `chat.journal.<p>` for a job that no worker runs."""

    job_id: UUID
    conversation_id: UUID


class LiveEvents(msgspec.Struct, frozen=True, kw_only=True):
    """Events of one job that are stored now."""

    job_id: UUID
    first_seq: int
    events: list[msgspec.Raw]


class Touched(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation of `user_id` in which something happened; `what` is the kind of its event."""

    conversation_id: UUID
    user_id: str
    what: str


class LiveBatch(Message, frozen=True, kw_only=True, tag="live_batch"):
    """To `chat.live`: what one transaction stored. May be lost; the journal and the conversations' events have it."""

    jobs: list[LiveEvents]
    conversations: list[Touched] = []


ToPersistence = JournalChunks | ResumeRequest | JobReleased | CancelRequested | ConversationSummarised | TitleSuggested
AnyMessage = JobReady | ToPersistence | ResumeReply | LiveBatch

_decoder: msgspec.json.Decoder[AnyMessage] = msgspec.json.Decoder(AnyMessage)
encode = msgspec.json.encode


def raw_events(events: list[Event]) -> list[msgspec.Raw]:
    return [msgspec.Raw(event) for event in events]


def decode(body: bytes) -> AnyMessage:
    """The message in `body`.

    Raises InvalidInputError (`bad_message`) for what is no message, or one of a version unknown here.
    """
    try:
        message = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError("bad_message", "not a message of this system") from error
    if message.v != VERSION:
        raise InvalidInputError("bad_message", f"version {message.v} of {type(message).__name__} is unknown here")
    return message
