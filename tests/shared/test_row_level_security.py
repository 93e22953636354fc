"""Row level security: whose rows a statement reaches that names no user at all; and that no user stays behind.

Of each table there is a row of two users, made without the services.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack

import asyncpg
import pytest

from shared.db import Database, UnsafeRoleError
from shared.db.migrate import ROLES
from shared.errors import DatabaseUnavailableError
from shared.ids import uuid7
from tests.shared.test_privileges import RIGHTS, WITHOUT_A_USER
from tests.support.owner import value_as_owner

ADA, BOB = "ada", "bob"
OF_ONE_USER = ("parley_gateway", "parley_worker", "parley_tools")  # roles that see one user's rows at a time
TENANT = "(user_id = NULLIF(current_setting('app.user_id'::text, true), ''::text))"
TENANT_OF_PURGES = "(user_digest = purge_digest(id, NULLIF(current_setting('app.user_id'::text, true), ''::text)))"
IN_SCOPE = "(current_setting('app.scope'::text, true) = '{}'::text)"
BY_CREATOR = "(created_by = NULLIF(current_setting('app.user_id'::text, true), ''::text))"

# The policies beside `tenant`: of which role, for which command, which rows it may see and which it may write.
WRITTEN_BACK = {
    "conversation_events", "conversations", "dead_letters", "feedback", "items", "jobs", "journal", "message_words",
    "messages", "purges", "shares", "steps", "summaries", "tool_calls", "unindexed_messages", "usage_by_day",
    "webhook_deliveries", "webhook_endpoints",
}  # fmt: skip
FURTHER_POLICIES: dict[tuple[str, str], tuple[str, str, str | None, str | None]] = {
    **{(table, "write_back"): ("parley_persistence", "ALL", "true", "true") for table in WRITTEN_BACK},
    ("denials", "gateways_read"): ("parley_gateway", "SELECT", "true", None),
    ("denials", "gateways_deny"): ("parley_gateway", "INSERT", None, BY_CREATOR),
    ("denials", "gateways_change"): ("parley_gateway", "UPDATE", "true", BY_CREATOR),
    ("denials", "read_share"): ("{owner}", "SELECT", "true", None),
    ("denials", "retention"): ("parley_persistence", "ALL", "true", None),
    ("shares", "read_share"): ("{owner}", "SELECT", "true", None),
    ("files", "retention"): ("parley_persistence", "ALL", "true", "true"),
    ("idempotency_keys", "retention"): ("parley_persistence", "ALL", "true", None),
    ("jobs", "dispatch"): ("parley_gateway", "SELECT", IN_SCOPE.format("dispatch"), None),
    ("jobs", "dispatch_mark"): ("parley_gateway", "UPDATE", IN_SCOPE.format("dispatch"), None),
    ("jobs", "lease"): (
        "parley_worker",
        "ALL",
        "(worker_id = NULLIF(current_setting('app.worker_id'::text, true), ''::text))",
        None,
    ),
    ("message_words", "search"): (
        "parley_gateway",
        "SELECT",
        "(words @@ (NULLIF(current_setting('app.search'::text, true), ''::text))::tsquery)",
        None,
    ),
    ("purges", "administration"): ("parley_gateway", "SELECT", IN_SCOPE.format("administration"), None),
    ("audit_log", "administration"): ("parley_gateway", "SELECT", IN_SCOPE.format("administration"), None),
    ("audit_log", "operation"): ("parley_persistence", "SELECT", "true", None),
    ("audit_log", "record"): (
        "parley_gateway",
        "INSERT",
        None,
        (
            "((actor_kind = ANY (ARRAY['user'::text, 'admin'::text])) "
            "OR ((actor_kind = 'ops'::text) AND (action = 'user.exported'::text)))"
        ),
    ),
    ("audit_log", "record_operation"): (
        "parley_persistence",
        "INSERT",
        None,
        "(actor_kind = ANY (ARRAY['ops'::text, 'service'::text]))",
    ),
    ("audit_log", "retention"): ("{owner}", "ALL", "true", None),
}

# What a row needs besides its user, where a constraint wants something in particular.
_VALUES = {
    ("feedback", "rating"): "'positive'",
    ("files", "purpose"): "'user_data'",
    ("items", "kind"): "'reasoning'",
    ("journal", "frames"): "'{}'",
    ("messages", "role"): "'user'",
    ("messages", "status"): "'completed'",
    ("purges", "requested_by"): "'user'",
    ("purges", "id"): "md5({user})::uuid",
    ("purges", "user_digest"): "purge_digest(md5({user})::uuid, {user})",
    ("shares", "token_digest"): "sha256({user}::text::bytea)",
    ("steps", "kind"): "'model'",
    ("tool_calls", "status"): "'completed'",
    ("message_words", "words"): "'hello'",
}
_OF_TYPE = {
    "uuid": "gen_random_uuid()",
    "text": "'x'",
    "integer": "1",
    "jsonb": "'{}'",
    "bytea": "'x'",
    "boolean": "false",
    "date": "'2026-01-01'",
    "text[]": "'{}'",
    "uuid[]": "'{}'",
    "tsvector": "'hello'",
    "timestamp with time zone": "now()",
}


@pytest.fixture(scope="module")
async def owner(database_urls: dict[str, str]) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_urls["owner"])
    yield connection
    await connection.close()


@pytest.fixture(scope="module")
async def tables(owner: asyncpg.Connection) -> Mapping[str, Mapping[str, str]]:
    """The tables with a user: what a row of theirs needs, by column. Each has a row of ADA's and one of BOB's."""
    rows = await owner.fetch(
        """
        select c.relname as table, a.attname as name, format_type(a.atttypid, a.atttypmod) as type
        from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
          and exists (select from pg_attribute u where u.attrelid = c.oid and u.attname = 'user_id')
          and (a.attnotnull and not a.atthasdef or a.attname = 'user_id'
               or (c.relname, a.attname) in (select * from unnest($1::text[], $2::text[])))
        """,
        [table for table, _ in _VALUES],
        [column for _, column in _VALUES],
    )
    tables: dict[str, dict[str, str]] = {}
    for row in rows:
        value = _VALUES.get((row["table"], row["name"])) or _OF_TYPE[row["type"]]
        tables.setdefault(row["table"], {})[row["name"]] = "{user}" if row["name"] == "user_id" else value
    async with owner.transaction():
        await owner.execute("set local session_replication_role = replica")  # rows without those that they belong to
        for table, values in tables.items():
            for user in (ADA, BOB):
                await owner.execute(_insert(table, values, user))
    return tables


@pytest.fixture(scope="module")
async def databases(database_urls: dict[str, str]) -> AsyncIterator[Mapping[str, Database]]:
    async with AsyncExitStack() as stack:
        opened = {}
        for role in ROLES:
            opened[role] = await Database.connect(database_urls[role], application_name="test", pool_size=1)
            stack.push_async_callback(opened[role].close)
        yield opened


async def test_it_is_forced_on_every_table_that_says_something_of_a_user(owner: asyncpg.Connection) -> None:
    rows = await owner.fetch(
        """
        select relname from pg_class
        where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')
          and not (relrowsecurity and relforcerowsecurity)
        """
    )

    assert {row["relname"] for row in rows} == WITHOUT_A_USER


async def test_the_policies_are_those_that_are_listed(
    owner: asyncpg.Connection, tables: Mapping[str, Mapping[str, str]]
) -> None:
    rows = await owner.fetch(
        """
        select tablename, policyname, array_to_string(roles, ', ') as roles, cmd, qual, with_check,
               permissive = 'RESTRICTIVE' as is_restrictive
        from pg_policies where schemaname = 'public'
        """
    )
    of_tenants = {
        (table, "tenant"): ("public", "ALL", *[TENANT_OF_PURGES if table == "purges" else TENANT] * 2)
        for table in tables
    }
    owner_name = await owner.fetchval("select current_user")
    further = {key: (role.format(owner=owner_name), *policy) for key, (role, *policy) in FURTHER_POLICIES.items()}

    assert {
        (row["tablename"], row["policyname"]): (row["roles"], row["cmd"], row["qual"], row["with_check"])
        for row in rows
    } == of_tenants | further
    assert {row["policyname"] for row in rows if row["is_restrictive"]} == {"search"}


@pytest.mark.parametrize("role", OF_ONE_USER)
async def test_a_statement_without_a_condition_reaches_the_rows_of_the_transactions_user_alone(
    databases: Mapping[str, Database], tables: Mapping[str, Mapping[str, str]], role: str
) -> None:
    """As if every condition on the user were forgotten."""
    readable = [table for table in tables if table in RIGHTS[role] and RIGHTS[role][table].select]
    seen = {}
    for user in (ADA, BOB, "nobody", "", None):
        async with databases[role].transaction(user) as db:
            if role == "parley_gateway":
                await db.execute("select set_config('app.search', 'hello', true)")
            for table in readable:
                column = "user_digest" if table == "purges" else "user_id"
                rows = await db.fetch(f"select distinct {column} from {table}")  # noqa: S608 - constants
                seen[user, table] = [row[0] for row in rows]

    for table in readable:
        expected = [[ADA], [BOB], [], [], []]
        found = [seen[user, table] for user in (ADA, BOB, "nobody", "", None)]
        if table == "purges":  # in which the user is a digest
            assert [len(rows) for rows in found] == [len(rows) for rows in expected], table
        else:
            assert found == expected, table


@pytest.mark.parametrize("role", OF_ONE_USER)
async def test_nothing_can_be_changed_or_deleted_of_another_user(
    databases: Mapping[str, Database], tables: Mapping[str, Mapping[str, str]], role: str
) -> None:
    reached = []
    for table, may in RIGHTS[role].items():
        if table not in tables:
            continue
        statements = [f'update {table} set "{column}" = default' for column in may.update.split()]  # noqa: S608
        statements += [f"delete from {table}"] * may.delete  # noqa: S608 - constants
        for statement in statements:
            for user in ("nobody", None):
                async with databases[role].transaction(user) as db:
                    status: str = await db.execute(statement)
                if not status.endswith(" 0"):
                    reached.append((statement, status))

    assert reached == []


@pytest.mark.parametrize("role", OF_ONE_USER)
async def test_nothing_can_be_added_in_the_name_of_another_user(
    databases: Mapping[str, Database], tables: Mapping[str, Mapping[str, str]], role: str
) -> None:
    """What is refused is the row, not the columns: they are those that the role may insert."""
    refusals = {}
    for table, may in RIGHTS[role].items():
        if table not in tables or not may.insert:
            continue
        columns = (
            tables[table]
            if may.insert == "*"
            else {name: value for name, value in tables[table].items() if name in may.insert.split()}
        )
        for user in (ADA, None):
            with pytest.raises(asyncpg.InsufficientPrivilegeError) as refused:
                async with databases[role].transaction(user) as db:
                    await db.execute(_insert(table, columns, BOB))
            refusals[table, user] = str(refused.value)

    assert {text.split(" for table")[0] for text in refusals.values()} <= {
        "new row violates row-level security policy",
        # A role that may not call what the policy calls cannot add either.
        "permission denied for function purge_digest",
    }, refusals


@pytest.mark.parametrize("role", OF_ONE_USER)
def test_no_row_can_be_given_to_another_user(role: str) -> None:
    """Nor can it be moved to another conversation, job or turn: the rights do not reach those columns."""
    keys = {"id", "user_id", "conversation_id", "job_id", "parent_job_id", "turn", "ordinal", "user_digest"}

    assert {table for table, may in RIGHTS[role].items() if keys & set(may.update.split())} == set()


async def test_marks_of_all_users_are_made_in_their_scope_alone_and_add_no_job(
    databases: Mapping[str, Database], tables: Mapping[str, Mapping[str, str]]
) -> None:
    gateway = databases["parley_gateway"]
    async with gateway.transaction(None) as db:
        await db.execute("select set_config('app.scope', 'dispatch', true)")
        assert {row["user_id"] for row in await db.fetch("select user_id from jobs")} >= {ADA, BOB}
        assert await db.fetch("select from conversations") == []

    addition = f"select set_config('app.scope', 'dispatch', true); {_insert('jobs', tables['jobs'], BOB)}"
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="violates row-level security"):
        async with gateway.transaction(None) as db:
            await db.execute(addition)


# --- no user stays behind


async def settings_of(database: Database) -> dict[str, str | None]:
    """What the next one finds in the pool's connection."""
    async with database.connection() as db:
        return {
            name: await db.fetchval("select nullif(current_setting($1, true), '')", name)
            for name in ("app.user_id", "app.search", "app.scope", "app.worker_id")
        }


NOTHING = {"app.user_id": None, "app.search": None, "app.scope": None, "app.worker_id": None}


async def _use(database: Database, *, then: str = "select 1") -> None:
    """A transaction with every setting that there is, and several round trips."""
    async with database.transaction(ADA) as db:
        for name in ("app.search", "app.scope", "app.worker_id"):
            await db.execute(f"select set_config('{name}', 'ada', true)")
        await db.fetch("select * from conversations")
        await db.execute(then)
        await db.fetch("select * from conversations")


async def test_a_user_ends_with_the_transaction(databases: Mapping[str, Database]) -> None:
    await _use(databases["parley_gateway"])

    assert await settings_of(databases["parley_gateway"]) == NOTHING


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("select 1 / 0", asyncpg.DivisionByZeroError),
        ("select secret from webhook_endpoints", asyncpg.InsufficientPrivilegeError),
        ("set local statement_timeout = 1; select pg_sleep(10)", DatabaseUnavailableError),
        ("select pg_terminate_backend(pg_backend_pid())", DatabaseUnavailableError),
    ],
    ids=["failed", "refused", "too slow", "connection lost"],
)
async def test_a_user_ends_with_a_failure(
    databases: Mapping[str, Database], statement: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await _use(databases["parley_gateway"], then=statement)

    assert await settings_of(databases["parley_gateway"]) == NOTHING


async def test_a_user_ends_with_an_error_of_ours(databases: Mapping[str, Database]) -> None:
    with pytest.raises(RuntimeError):
        async with databases["parley_gateway"].transaction(ADA):
            raise RuntimeError

    assert await settings_of(databases["parley_gateway"]) == NOTHING


async def test_a_user_ends_with_a_cancellation_wherever_it_strikes(
    databases: Mapping[str, Database], tables: Mapping[str, Mapping[str, str]]
) -> None:
    """The pool has one connection: whoever comes next gets the one that was cancelled, or a new one."""
    del tables
    database, turns_of_the_loop, was_cancelled = databases["parley_gateway"], 0, True
    while was_cancelled:
        using = asyncio.create_task(_use(database))
        for _ in range(turns_of_the_loop):
            await asyncio.sleep(0)
        using.cancel()
        [outcome] = await asyncio.gather(using, return_exceptions=True)
        was_cancelled = isinstance(outcome, asyncio.CancelledError)
        assert was_cancelled or outcome is None
        assert await settings_of(database) == NOTHING
        async with database.connection() as db:
            assert await db.fetch("select from conversations") == []
        turns_of_the_loop += 1 + turns_of_the_loop // 6  # a busy machine needs thousands for a statement

    assert turns_of_the_loop > 8  # a statement takes more than one


@pytest.mark.parametrize(
    "user", ["', true); select set_config('app.user_id', 'bob", "\\x", "ada' or '1'='1", "名前", "a" * 255, "%s $1"]
)
async def test_a_user_is_a_value_whatever_it_says(databases: Mapping[str, Database], user: str) -> None:
    async with databases["parley_gateway"].transaction(user) as db:
        assert await db.fetchval("select current_setting('app.user_id')") == user


# --- who may not be what a service connects as


@pytest.mark.parametrize(
    "made",
    [
        "alter role {role} superuser",
        "alter role {role} bypassrls",
        "create role {group} bypassrls; grant {group} to {role}",
        "create role {group} superuser; grant {group} to {role}",
        "create role {group}; alter table {table} owner to {group}; grant {group} to {role}",
        "alter table {table} owner to {role}",
        "alter role {role} noinherit; create role {group} bypassrls; grant {group} to {role}",
    ],
    ids=[
        "superuser",
        "unbound",
        "member of one that is unbound",
        "member of a superuser",
        "member of an owner",
        "owner",
        "member of one that is unbound, by choice",
    ],
)
async def test_a_role_that_could_step_around_it_is_refused(database_urls: dict[str, str], made: str) -> None:
    owner_url, names = database_urls["owner"], _names()
    await _run(owner_url, "create table {table} (id int); create role {role} login password 'x'", names)
    await _run(owner_url, made, names)
    try:
        with pytest.raises(UnsafeRoleError, match=names["role"]):
            await _connect_as(owner_url, names["role"])
    finally:
        await _run(owner_url, "drop table {table}; drop role {role}; drop role if exists {group}", names)


async def test_a_role_that_could_not_is_not(database_urls: dict[str, str]) -> None:
    owner_url, names = database_urls["owner"], _names()
    await _run(owner_url, "create role {role} login password 'x'; create role {group}; grant {group} to {role}", names)
    try:
        await (await _connect_as(owner_url, names["role"])).close()
    finally:
        await _run(owner_url, "drop role {role}; drop role {group}", names)


def _names() -> dict[str, str]:
    """Of roles, which the whole server shares, and of a table."""
    return {what: f"{what}_{uuid7().hex}" for what in ("role", "group", "table")}


async def _run(owner_url: str, statements: str, names: Mapping[str, str]) -> None:
    for statement in statements.format(**names).split("; "):
        await value_as_owner(owner_url, statement)


async def _connect_as(owner_url: str, role: str) -> Database:
    _, _, host = owner_url.rpartition("@")
    return await Database.connect(f"postgresql://{role}:x@{host}", application_name="test", pool_size=1)


def _insert(table: str, values: Mapping[str, str], user: str) -> str:
    quoted = f"'{user}'"
    listed = ", ".join(value.replace("{user}", quoted) for value in values.values())
    return f"insert into {table} ({', '.join(values)}) values ({listed})"  # noqa: S608 - constants
