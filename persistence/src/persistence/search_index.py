"""The words of messages get into the search's index, soon after the messages are stored.

It is what costs most of storing a message, and nobody waits for it: until it is done a search looks at the message
itself. So it leaves Postgres to others for most of the time, however much there is to do.
"""

import asyncio

from persistence import counts
from shared.db import Database
from shared.db.errors import described
from shared.errors import DatabaseUnavailableError
from shared.observability import get_logger
from shared.supervision import supervised

log = get_logger()

LOCK = 7214005  # of Postgres; any number that nothing else in the database locks

_LOCK_SECONDS = 0.1  # for messages that are being deleted: long before Postgres would look for a deadlock
_REST = 3.0  # times as long as it took, before it goes on with more


class SearchIndex:
    """Indexes what is not indexed yet, until stopped; one process at a time does it."""

    def __init__(self, database: Database, *, round_seconds: float, messages_max: int) -> None:
        """`messages_max` are indexed at a time; where there are fewer, the next look is after `round_seconds`."""
        self._database = database
        self._round_seconds = round_seconds
        self._messages_max = messages_max
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = supervised(self._run(), "search index")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def run_once(self) -> int:
        """Index the oldest messages; returns how many. 0 also where another process is at it.

        Raises DatabaseUnavailableError, also where one of them is just being deleted.
        """
        async with self._database.transaction(None) as connection:
            is_free = await connection.fetchval(
                "select pg_try_advisory_xact_lock($1) from set_config('lock_timeout', $2, true)",
                LOCK,
                str(round(_LOCK_SECONDS * 1_000)),
            )
            if not is_free:
                return 0
            status: str = await connection.execute(
                """
                with next as materialized (
                    select m.id, m.conversation_id, m.user_id, m.content
                    from (select message_id from unindexed_messages order by message_id limit $1) u
                    join messages m on m.id = u.message_id
                ), indexed as (
                    insert into message_words (message_id, conversation_id, user_id, words)
                    select id, conversation_id, user_id, words_of(user_id, content) from next
                    on conflict (message_id) do nothing
                )
                delete from unindexed_messages where message_id in (select id from next)
                """,
                self._messages_max,
            )
        count = int(status.rpartition(" ")[2])
        counts.MESSAGES_INDEXED.inc(count)
        return count

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            began_at, count = clock(), 0
            try:
                count = await self.run_once()
            except DatabaseUnavailableError:
                pass  # said already; there is no hurry
            except Exception as error:  # noqa: BLE001
                log.error("search_index_failed", **described(error))  # noqa: TRY400 - a traceback may quote what rows hold
            is_behind = count == self._messages_max
            await asyncio.sleep(_REST * (clock() - began_at) if is_behind else self._round_seconds)
