"""Reading the journal of a job, whose rows come in two forms.

As it is written, a row holds its events as text, one a line. Long after the end of the job the rows are packed into few
compressed ones. The events are the same bytes in both forms, so nobody who reads here sees a difference (promise G4).
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from shared.db import Row
from shared.events import Event

PACKED_BYTES_MAX = 256 * 1024  # of a packed row, unpacked; more where a single event is larger
_ROWS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Page:
    """Events behind a cursor, without a gap.

    `has_more`: others are stored behind these. Where the job `is_ended` and there are no more, there never will be.
    """

    events: Sequence[Event]
    has_more: bool
    is_ended: bool


async def read_after(
    connection: asyncpg.Connection, *, user_id: str, job_id: UUID, cursor: int, bytes_max: int
) -> Page | None:
    """The events of the user's job behind number `cursor`, in one round trip; None where there is no such job.

    Whole rows are read, at least one if there is any: a page may be larger than `bytes_max` by one row. A job that is
    hidden, or whose conversation is, is none.
    """
    rows = await connection.fetch(
        """
        select b.ended_at is not null as is_ended, b.next_seq, j.first_seq, j.frames, j.packed
        from jobs b
        join conversations c on c.id = b.conversation_id and c.deleted_at is null
        left join lateral (
            select s.*, sum(s.size) over (order by s.first_seq rows unbounded preceding) - s.size as bytes_before
            from (select r.first_seq, r.frames, r.packed, coalesce(octet_length(r.frames), $5::integer) as size
                  from journal r
                  where r.job_id = b.id and r.last_seq > $3
                    -- Where the cursor is: without it, all rows before would be looked at.
                    and r.first_seq >= coalesce((select max(f.first_seq) from journal f
                                                 where f.job_id = b.id and f.first_seq <= $3 + 1), 0)
                  order by r.first_seq limit $6) s
        ) j on j.bytes_before < $4
        where b.id = $1 and b.user_id = $2 and b.deleted_at is null
        order by j.first_seq
        """,
        job_id,
        user_id,
        cursor,
        bytes_max,
        PACKED_BYTES_MAX,
        _ROWS_MAX,
    )
    if not rows:
        return None
    events: list[Event] = []
    for row in rows:
        if row["first_seq"] is not None:
            events.extend(events_of(row)[max(0, cursor + 1 - row["first_seq"]) :])
    has_more = bool(events) and cursor + len(events) + 1 < rows[0]["next_seq"]
    return Page(events, has_more=has_more, is_ended=rows[0]["is_ended"])


def events_of(row: Row) -> list[Event]:
    """All events of a row of `journal`, in whichever form (columns `frames` and `packed`)."""
    frames: bytes = zlib.decompress(row["packed"]) if row["frames"] is None else row["frames"].encode()
    return frames.split(b"\n")


def packed(rows: Sequence[Row]) -> Iterator[tuple[int, int, bytes]]:
    """What takes the place of `rows`, the whole journal of an ended job: `first_seq`, `last_seq`, `packed`."""
    events = [event for row in rows for event in events_of(row)]
    first = size = 0
    for number, event in enumerate(events):
        if number > first and size + len(event) > PACKED_BYTES_MAX:
            yield first, number - 1, _pack(events[first:number])
            first, size = number, 0
        size += len(event)
    if events:
        yield first, len(events) - 1, _pack(events[first:])


def _pack(events: Sequence[Event]) -> bytes:
    return zlib.compress(b"\n".join(events))
