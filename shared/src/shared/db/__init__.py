"""Postgres through asyncpg: a pool whose transactions carry the user, as row level security wants it.

The services speak SQL: one statement, or one SQL function, per step on the hot path
(`docs/decisions/0001-sql-through-asyncpg.md`).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Self

import asyncpg
import msgspec

from shared.db.sabotage import connection_class
from shared.errors import DatabaseUnavailableError
from shared.faults import sabotaged
from shared.metrics import Counter, Gauge
from shared.observability import get_logger

log = get_logger()

_UNAVAILABLE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.InsufficientResourcesError,  # of disk, memory, connections
    asyncpg.ReadOnlySQLTransactionError,  # a replica, or a primary that became one
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.InternalClientError,  # what came over the wire makes no sense to the driver
)

_ACQUIRE_SECONDS_MAX = 5.0
_COMMAND_SECONDS = 15.0
# The server gives up first, as the connection survives that; in parts of what the client waits for a command.
_STATEMENT_PART, _LOCK_PART = 0.9, 0.75
_STATEMENT_SECONDS_MAX, _LOCK_SECONDS_MAX = 10.0, 5.0
# What a client that vanished or forgot its transaction may cost the server; milliseconds.
_SERVER_SETTINGS = {
    "idle_in_transaction_session_timeout": "10000",
    "client_connection_check_interval": "1000",
    "jit": "off",
    "app.index_later": "on",  # messages need not wait for the index of their words: this version looks there, too
}


_CONNECTIONS = Gauge("parley_database_connections", "Of the pool to Postgres.", ["state"])
_CONNECTIONS_MAX = Gauge("parley_database_connections_max", "How many there may be.")
_CLOCK_AHEAD = Gauge("parley_clock_ahead_seconds", "Of this machine, of that of Postgres; negative: behind.")
_UNAVAILABLE_COUNT = Counter("parley_database_unavailable", "Uses of Postgres that failed: away, or too slow.")


class UnsafeRoleError(Exception):
    """The database role could step around row level security; the service must not run as it."""


class Database:
    """A pool of connections as one role. Any use raises DatabaseUnavailableError where Postgres is away or too slow."""

    def __init__(self, pool: asyncpg.Pool, acquire_seconds: float) -> None:
        self._pool = pool
        self._acquire_seconds = acquire_seconds
        self._counts = (
            _CONNECTIONS.labels("used").follow(lambda: pool.get_size() - pool.get_idle_size()),
            _CONNECTIONS.labels("idle").follow(pool.get_idle_size),
            _CONNECTIONS_MAX.labels().follow(pool.get_max_size),
        )

    @classmethod
    async def connect(  # noqa: PLR0913 - each is one property of the connections
        cls,
        url: str,
        *,
        application_name: str,
        pool_size: int,
        wait_seconds: float = 30.0,
        command_seconds: float = _COMMAND_SECONDS,
        plans_once: bool = False,
    ) -> Self:
        """Open the pool, waiting up to `wait_seconds` for a Postgres that is starting.

        A statement that is not answered within `command_seconds` costs its connection: nothing is said on it any more.
        With `plans_once` a statement is planned for any arguments, once on each connection. It is for a service whose
        statements are good with one plan: Postgres plans those with a large one again and again, as it thinks that
        knowing the arguments might help, and takes longer for it than for carrying them out.
        Raises UnsafeRoleError for a role that is superuser, may bypass row level security or owns a table, by itself or
        as a member of another.
        """
        acquire_seconds = min(_ACQUIRE_SECONDS_MAX, command_seconds)
        pool = asyncpg.create_pool(
            url.replace("postgresql+asyncpg://", "postgresql://"),
            min_size=0,
            max_size=pool_size,
            timeout=acquire_seconds,
            command_timeout=command_seconds,
            connection_class=connection_class(),
            init=_init_connection,
            reset=_keep_session,
            server_settings={
                **_SERVER_SETTINGS,
                "statement_timeout": _milliseconds(min(_STATEMENT_SECONDS_MAX, command_seconds * _STATEMENT_PART)),
                "lock_timeout": _milliseconds(min(_LOCK_SECONDS_MAX, command_seconds * _LOCK_PART)),
                "application_name": application_name,
                **({"plan_cache_mode": "force_generic_plan"} if plans_once else {}),
            },
        )
        await pool
        database = cls(pool, acquire_seconds)
        try:
            await database._wait_until_up(wait_seconds)
            await database._refuse_unsafe_role()
        except BaseException:
            database._stop_counting()
            pool.terminate()
            raise
        return database

    async def close(self) -> None:
        self._stop_counting()
        try:
            await asyncio.wait_for(self._pool.close(), 5)
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection outside of any transaction: for a single SQL function that sets its user by itself."""
        with _translated():
            # The pool's own timeout would take a task of its own, for each use.
            async with asyncio.timeout(self._acquire_seconds):
                connection = await self._pool.acquire()
        try:
            with _translated():
                try:
                    yield connection
                except (asyncio.CancelledError, TimeoutError):
                    # What an unfinished exchange left on the wire must never be read by the next user of the
                    # connection, and a server that did not answer will not answer a rollback either.
                    if not sabotaged("broken_off"):
                        _terminate(connection)
                    raise
        finally:
            await self._release(connection)

    @asynccontextmanager
    async def transaction(self, user_id: str | None) -> AsyncIterator[asyncpg.Connection]:
        """One transaction; row level security admits the rows of `user_id` (None: what the role's policies say)."""
        async with self.connection() as connection:
            try:
                await connection.execute(_begin(user_id))
                yield connection
            except (asyncio.CancelledError, TimeoutError):
                raise
            except BaseException:
                if not connection.is_closed():
                    await connection.execute("rollback")
                raise
            await connection.execute("commit")

    async def ping(self) -> None:
        """One round trip, which tells how far apart the clocks are."""
        async with self.connection() as connection:
            began_at = time.time()
            now = await connection.fetchval("select extract(epoch from clock_timestamp())::float8", timeout=2)
            # It was read between the two; a clock that is right within that is right.
            _CLOCK_AHEAD.set(max(began_at - now, 0.0) or min(time.time() - now, 0.0))

    async def _release(self, connection: asyncpg.Connection) -> None:
        """The pool goes on with it where this is cancelled."""
        try:
            await self._pool.release(connection, timeout=5)
        except _UNAVAILABLE:
            _terminate(connection)

    def _stop_counting(self) -> None:
        for stop in self._counts:
            stop()

    async def _wait_until_up(self, wait_seconds: float) -> None:
        deadline = asyncio.get_running_loop().time() + wait_seconds
        while True:
            try:
                return await self.ping()
            except DatabaseUnavailableError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                log.warning("database_awaited")
                await asyncio.sleep(0.5)

    async def _refuse_unsafe_role(self) -> None:
        async with self.connection() as connection:
            role = await connection.fetchrow(
                """
                select current_user as name, exists (
                    select from pg_roles r
                    where pg_has_role(current_user, r.oid, 'member')
                      and (r.rolsuper or r.rolbypassrls
                           or exists (select from pg_class where relowner = r.oid and relkind in ('r', 'p')))
                ) as is_unsafe
                """
            )
        if role["is_unsafe"]:
            raise UnsafeRoleError(
                f"the database role {role['name']!r} is a superuser, bypasses row level security or owns tables, or is "
                "a member of a role that does; use the role that `python -m shared.db.migrate` made for this service"
            )


async def _init_connection(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        encoder=lambda value: msgspec.json.encode(value).decode(),
        decoder=msgspec.json.decode,
    )


async def _keep_session(_connection: asyncpg.Connection) -> None:
    """Nothing of ours outlives a transaction, so a returned connection needs no reset round trip."""


def _terminate(connection: asyncpg.Connection) -> None:
    # A connection that the server ended is taken back by the pool, and says so to whoever comes with it later.
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


def _begin(user_id: str | None) -> str:
    # One round trip for both. The hexadecimal form lets no character of the id meet the SQL parser.
    if user_id is None:
        return "begin"
    return f"begin; select set_config('app.user_id', convert_from('\\x{user_id.encode().hex()}', 'UTF8'), true)"


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


@contextmanager
def _translated() -> Iterator[None]:
    """Raise what means "not now" as DatabaseUnavailableError, and let no error quote what the tables hold."""
    try:
        yield
    except _UNAVAILABLE as error:
        if isinstance(error, ValueError):
            raise  # the driver refuses an argument: a bug of ours, not the server's state
        _forget_content(error)
        _UNAVAILABLE_COUNT.inc()
        log.warning("database_unavailable", cause=type(error).__name__)
        raise DatabaseUnavailableError from error
    except asyncpg.PostgresError as error:
        _forget_content(error)
        raise


def _forget_content(error: Exception) -> None:
    # "Failing row contains (…)": message texts, which would end up in the log. Code, constraint and message remain.
    if isinstance(error, asyncpg.PostgresError):
        error.detail = error.hint = None


Row = Any  # asyncpg.Record: columns by name
