"""Following conversations: what began, ended, was renamed, branched, archived or deleted; for other tabs and devices.

A conversation's events are numbered and stored by the database, with the change that they tell of. Its feed is a stream
like that of a response: what is stored behind a cursor, then what comes, until the conversation is deleted. The feed of
a user tells which conversations were touched, right now; whoever connects loads the list first.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from uuid import UUID

import msgspec

from gateway.auth import User
from gateway.denials import Denials
from gateway.dispatch import Dispatcher
from gateway.limits import Slots
from gateway.live import Live
from gateway.metrics import SentEvents
from gateway.queries import conversation_not_found, read_conversation
from gateway.settings import GatewaySettings
from gateway.stream import EventStream, Follower, StreamClosedError, StreamLimits, turn_to_read
from gateway.until import Signal
from shared.contracts import Touched
from shared.db import Database, Row
from shared.db.journal import Page
from shared.events import Event
from shared.ids import Prefix, to_wire

BEFORE_FIRST = 0  # events of conversations are numbered from 1

_PAGE_LENGTH_MAX = 200


@dataclass(frozen=True, slots=True)
class ConversationLog:
    """The events of one user's conversation. `reads` bounds how many feeds of this process read at the same time."""

    database: Database
    reads: asyncio.Semaphore
    user_id: str
    subject_id: UUID

    async def after(self, cursor: int) -> Page:
        """What happened behind `cursor`, a page of it; of a deleted conversation, up to its deletion.

        Raises NotFoundError where there is no such conversation; DatabaseUnavailableError, also where too many others
        are reading.
        """
        async with turn_to_read(self.reads), self.database.transaction(self.user_id) as db:
            rows = await db.fetch(
                """
                select c.user_id, c.is_deleted, c.last_seq, e.seq, e.kind, e.data, e.created_at
                from (select id, user_id, deleted_at is not null as is_deleted,
                             case when deleted_at is null then event_count
                                  else (select max(d.seq) from conversation_events d
                                        where d.conversation_id = $1 and d.kind = 'conversation.deleted')
                             end as last_seq
                      from conversations where id = $1 and user_id = $2 and not is_ephemeral) c
                left join lateral (
                    select seq, kind, data, created_at from conversation_events
                    where conversation_id = $1 and user_id = $2 and seq > $3 and seq <= c.last_seq
                    order by seq limit $4
                ) e on true
                order by e.seq
                """,
                self.subject_id,
                self.user_id,
                cursor,
                _PAGE_LENGTH_MAX,
            )
        if not rows:
            raise conversation_not_found()
        events = [self._event(row) for row in rows if row["seq"] is not None]
        has_more = bool(events) and rows[-1]["seq"] < rows[-1]["last_seq"]
        return Page(events, has_more=has_more, is_ended=rows[0]["is_deleted"])

    def _event(self, row: Row) -> Event:
        assert row["user_id"] == self.user_id, "a row of another user"
        return msgspec.json.encode(
            {
                "type": row["kind"],
                "sequence_number": row["seq"],
                "conversation_id": to_wire(Prefix.CONVERSATION, self.subject_id),
                "created_at": int(row["created_at"].timestamp()),
                **row["data"],
            }
        )


class Feeds:
    """The feeds of this gateway, and how changes made here become known to those at all gateways."""

    def __init__(  # noqa: PLR0913, PLR0917 - what it works with
        self,
        database: Database,
        dispatcher: Dispatcher,
        live: Live,
        settings: GatewaySettings,
        stopping: Signal,
        denials: Denials,
    ) -> None:
        self._database = database
        self._denials = denials
        self._dispatcher = dispatcher
        self._live = live
        self._settings = settings
        self._stopping = stopping
        self._slots = Slots("feeds", per_user_max=settings.feeds_per_user_max, all_max=settings.feeds_max)
        # Streams of responses have half of the connections; some stay free for accepting, however many read at once.
        self._reads = asyncio.Semaphore(max(1, settings.database_pool_size // 4))

    def touched(self, user_id: str, conversation_id: UUID, what: str) -> None:
        """Tell that something happened in the conversation; `what` is the kind of the event."""
        self._dispatcher.touched(Touched(conversation_id=conversation_id, user_id=user_id, what=what))

    async def of_conversation(self, user: User, conversation_id: UUID, starting_after: int | None) -> EventStream:
        """Its events behind `starting_after`; null: from the first. Raises NotFoundError, LimitExceededError."""
        await read_conversation(self._database, user.id, conversation_id)
        log = ConversationLog(self._database, self._reads, user.id, conversation_id)
        follower = Follower(log, self._live, heartbeat_seconds=self._settings.heartbeat_seconds)
        return self._stream(user, follower.follow(BEFORE_FIRST if starting_after is None else starting_after))

    def of_user(self, user: User) -> EventStream:
        """Which of the user's conversations are touched from now on. Raises LimitExceededError."""
        return self._stream(user, self._touches(user.id))

    async def _touches(self, user_id: str) -> AsyncGenerator[Sequence[Event], None]:
        """Raises StreamClosedError where some may have been missed."""
        with self._live.tail_of_user(user_id) as tail:
            yield ()  # the headers' first company: whoever sees it can load the list, and will miss nothing
            while True:
                touches = await tail.next(self._settings.heartbeat_seconds)
                if touches is None or not self._live.is_up:
                    raise StreamClosedError("missed something")
                yield [_touch(touched) for touched in touches]

    def _stream(self, user: User, batches: AsyncGenerator[Sequence[Event], None]) -> EventStream:
        slot = self._slots.take(user.id)
        limits = StreamLimits.of(self._settings, user)
        return EventStream(batches, (self._stopping, self._denials.of(user)), limits, slot, SentEvents())


def _touch(touched: Touched) -> Event:
    return msgspec.json.encode(
        {
            "type": "conversation.touched",
            "conversation_id": to_wire(Prefix.CONVERSATION, touched.conversation_id),
            "kind": touched.what,
        }
    )
