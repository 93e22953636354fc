"""`python -m shared.db.migrate`: makes the services' database roles and brings the schema up to date.

Runs as the owner (`DATABASE_URL`); the roles and their passwords are those named in the services' own URLs. Running it
again changes nothing; two at once wait for each other.
"""

import asyncio
import sys
from functools import partial
from urllib.parse import unquote, urlsplit

import asyncpg
from alembic import command
from alembic.config import Config
from pydantic import SecretStr
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from shared.observability import configure_logging, get_logger
from shared.settings import ServiceSettings, settings_or_exit, well_known

log = get_logger()

_LOCK = 7214001  # any number that nothing else in the database locks
_ROLE_TRIES = 20
_ROLE_RETRY_SECONDS = 0.1
_LOCK_SECONDS = 3.0
_LOCK_TRIES = 30
_LOCK_CONFLICTS = {"55P03", "40P01"}  # lock_not_available, deadlock_detected
ROLES = ("parley_gateway", "parley_worker", "parley_persistence", "parley_tools")


class MigrateSettings(ServiceSettings):
    database_url: SecretStr = well_known("DATABASE_URL")
    gateway_database_url: SecretStr = well_known("GATEWAY_DATABASE_URL")
    chat_worker_database_url: SecretStr = well_known("CHAT_WORKER_DATABASE_URL")
    persistence_database_url: SecretStr = well_known("PERSISTENCE_DATABASE_URL")
    task_tools_database_url: SecretStr = well_known("TASK_TOOLS_DATABASE_URL")

    @property
    def service_urls(self) -> list[str]:
        return [
            url.get_secret_value()
            for url in (
                self.gateway_database_url,
                self.chat_worker_database_url,
                self.persistence_database_url,
                self.task_tools_database_url,
            )
        ]


async def migrate(owner_url: str, service_urls: list[str], lock_seconds: float = _LOCK_SECONDS) -> None:
    """Bring roles and schema up to date, however long others read and write the tables meanwhile.

    A change of a table waits for all who use it, and everybody else waits behind it: after `lock_seconds` it lets them
    pass, for as long again, and has another try.

    Raises ValueError where a service URL names a role that is not its own, SQLAlchemyError where Postgres refuses.
    """
    # asyncpg reads the URL, as it does for the services: SQLAlchemy knows nothing of `sslmode` and the like.
    engine = create_async_engine("postgresql+asyncpg://", async_creator=partial(asyncpg.connect, owner_url))
    try:
        async with engine.connect() as connection:
            await connection.execute(text("select pg_advisory_lock(:lock)"), {"lock": _LOCK})
            await connection.commit()
            await ensure_roles(connection, service_urls)
            await _upgrade_patiently(connection, lock_seconds)
            await _guard_database(connection)
    finally:
        await engine.dispose()


async def ensure_roles(connection: AsyncConnection, service_urls: list[str]) -> None:
    """Make the services' roles, with the passwords that their URLs name. Raises ValueError for another role's URL."""
    for url, role in zip(service_urls, ROLES, strict=True):
        await _ensure_role_patiently(connection, url, role)


async def _ensure_role_patiently(connection: AsyncConnection, url: str, role: str) -> None:
    """The lock is of one database, roles are of the whole server: another migration may be at the same role."""
    for tries_left in reversed(range(_ROLE_TRIES)):
        try:
            await _ensure_role(connection, url, role)
            await connection.commit()
        except DBAPIError as error:
            await connection.rollback()
            if not tries_left or not _is_conflict(error):
                raise
            await asyncio.sleep(_ROLE_RETRY_SECONDS)
        else:
            return


def _is_conflict(error: DBAPIError) -> bool:
    said = str(error.orig)
    return "concurrently updated" in said or "already exists" in said or "pg_authid" in said


async def _ensure_role(connection: AsyncConnection, url: str, role: str) -> None:
    parts = urlsplit(url)
    if unquote(parts.username or "") != role:
        raise ValueError(f"expected the user {role!r} in the service's database URL, found {parts.username!r}")
    exists = await connection.scalar(text("select 1 from pg_roles where rolname = :role"), {"role": role})
    template = "alter role %I login password %L" if exists else "create role %I login password %L"
    statement = await connection.scalar(
        text("select format(cast(:template as text), cast(:role as text), cast(:password as text))"),
        {"template": template, "role": role, "password": unquote(parts.password or "")},
    )
    await connection.exec_driver_sql(str(statement))


async def _upgrade_patiently(connection: AsyncConnection, lock_seconds: float) -> None:
    await connection.exec_driver_sql(f"set lock_timeout = {round(lock_seconds * 1000)}")
    await connection.commit()
    for tries_left in reversed(range(_LOCK_TRIES)):
        try:
            await connection.run_sync(_upgrade)
            await connection.commit()
        except DBAPIError as error:
            await connection.rollback()
            if not tries_left or getattr(error.orig, "sqlstate", None) not in _LOCK_CONFLICTS:
                raise
            log.warning("migration_waits", retry_seconds=lock_seconds)
            await asyncio.sleep(lock_seconds)
        else:
            return


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", "shared.db:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def _guard_database(connection: AsyncConnection) -> None:
    """As migration 0008, on each run: neither a dump nor a template carries what is granted on the database itself."""
    await connection.exec_driver_sql(
        "do $$ begin execute format('revoke temporary on database %I from public', current_database()); end $$"
    )
    await connection.commit()


def main() -> None:
    settings = settings_or_exit(MigrateSettings, "migrate")
    configure_logging("migrate", settings)
    try:
        asyncio.run(migrate(settings.database_url.get_secret_value(), settings.service_urls))
    except (ValueError, OSError, SQLAlchemyError) as error:
        sys.exit(f"migrate: {error}")
    log.info("migrated")


if __name__ == "__main__":
    main()
