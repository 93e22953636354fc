"""What goes wrong meanwhile: tables that nobody can read for a while, statements and connections that break off."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import asyncpg

from tests.support.tcp import Line

_PAUSE_SECONDS_MAX = 0.8
_STALL_SECONDS_MAX = 1.5
_OUTAGE_SECONDS_MAX = 1.0
_TABLES = ("conversations", "jobs", "messages", "tasks", "files", "journal", "webhook_endpoints")
_OTHERS = """
select pid from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and usename = any($1::text[])
order by state = 'active' desc, random() limit $2
"""
_ROLES = ["parley_gateway", "parley_worker", "parley_persistence", "parley_tools"]


@dataclass
class Disturbances:
    """Deals them out until it is told to stop. `owner` owns the database; the services reach the broker by `line`."""

    owner: asyncpg.Connection
    line: Line
    chance: random.Random
    counts: Counter[str] = field(default_factory=Counter)

    async def go_on(self, over: asyncio.Event) -> None:
        """One after the other, with pauses."""
        kinds: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._stall, 4),
            (self._cancel_statements, 4),
            (self._end_connections, 4),
            (self._cut_broker, 2),
        ]
        while not over.is_set():
            await asyncio.sleep(self.chance.random() * _PAUSE_SECONDS_MAX)
            [disturb] = self.chance.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
            await disturb()

    async def _stall(self) -> None:
        """Whoever needs the table waits with a connection in hand, and soon whoever needs a connection."""
        table = self.chance.choice(_TABLES)
        try:
            async with self.owner.transaction():
                await self.owner.execute("set local lock_timeout = '2s'")
                await self.owner.execute(f"lock table {table} in access exclusive mode")
                await asyncio.sleep(self.chance.random() * _STALL_SECONDS_MAX)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            return
        self.counts["tables locked"] += 1

    async def _cancel_statements(self) -> None:
        """As a statement's timeout does."""
        await self._strike("pg_cancel_backend", "statements cancelled")

    async def _end_connections(self) -> None:
        await self._strike("pg_terminate_backend", "database connections ended")

    async def _strike(self, function: str, what: str) -> None:
        statement = f"select {function}(pid) from ({_OTHERS}) others"  # noqa: S608 - our own words
        self.counts[what] += len(await self.owner.fetch(statement, _ROLES, self.chance.randrange(1, 6)))

    async def _cut_broker(self) -> None:
        """Every connection to the broker breaks, and for a moment there is no other."""
        self.line.cut()
        try:
            await asyncio.sleep(self.chance.random() * _OUTAGE_SECONDS_MAX)
        finally:
            self.line.mend()
        self.counts["times that all lost the broker"] += 1
