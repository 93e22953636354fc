"""What an error tells: what of it may be said without telling what a row holds, and whether anything was done."""

import traceback

import asyncpg

from shared.errors import DatabaseUnavailableError

# Postgres says that it did nothing; of what cut the connection nobody knows what was done before.
_UNDONE = (
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.QueryCanceledError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
)


def described(error: BaseException) -> dict[str, str]:
    """The fields by which to log `error`, instead of its text and traceback.

    `cause` is its type, `at` the line that raised it; of an error of Postgres `sqlstate` and what it is about. The text
    of such an error quotes rows ("Failing row contains (…)"), values and parameters.
    """
    fields = {"cause": type(error).__name__, "at": _place(error)}
    root = error if isinstance(error, asyncpg.PostgresError) else error.__cause__
    if isinstance(root, asyncpg.PostgresError):
        fields |= {"database_cause": type(root).__name__, "sqlstate": root.sqlstate}
        about = {"table": root.table_name, "column": root.column_name, "constraint": root.constraint_name}
        fields |= {name: value for name, value in about.items() if value}
    return {name: value for name, value in fields.items() if value}


def is_undone(error: BaseException) -> bool:
    """Whether it is certain that a statement which failed with `error`, outside of a transaction, did nothing."""
    return not isinstance(error, DatabaseUnavailableError) or isinstance(error.__cause__, _UNDONE)


def _place(error: BaseException) -> str:
    """The last of our lines on the way to `error`, the libraries' being the same for all."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.endswith(".py") and "site-packages" not in frame.filename]
    return f"{ours[-1].filename.rpartition('/')[2]}:{ours[-1].lineno} {ours[-1].name}" if ours else ""
