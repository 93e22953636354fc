"""The record of accepted tools in Postgres: one for all workers, whichever of them sees a server first."""

from collections.abc import Mapping

from chat_worker.agent.pins import Changed
from shared.db import Database


class StoredPins:
    """A `ToolPins`; the operator accepts changes with `ops tools accept`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def see(self, server: str, digests: Mapping[str, str]) -> list[Changed]:
        async with self._database.transaction(None) as connection:
            rows = await connection.fetch("select * from see_tools($1, $2)", server, dict(digests))
        return [Changed(row["tool"], is_new=row["is_new"], is_news=row["is_news"]) for row in rows]
