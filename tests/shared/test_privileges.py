"""What each service's role may do in the database: what is listed here, and nothing else.

Every statement is tried, besides asking the catalogue: a right that nobody thought of, such as one of PUBLIC or of a
role that it is a member of, does not hide.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeAlias

import asyncpg
import pytest

from shared.db.migrate import ROLES

ALL = "*"
WITHOUT_A_USER = {"alembic_version", "tool_pins"}  # tables whose rows are nobody's: nothing to hide


@dataclass(frozen=True)
class May:
    """What a role may do with a table: columns, divided by blanks, or ALL; and whether it may delete rows."""

    select: str = ""
    insert: str = ""
    update: str = ""
    delete: bool = False


_SPOKEN = "id conversation_id job_id user_id turn ordinal"  # of what was said: messages, tool calls, items
_AUDIT_INSERT = "id actor_kind actor action target details request_id outcome"
_TASK_INSERT = "id user_id title description due priority created_at updated_at"
_TASK_UPDATE = "title description completed completed_at due priority updated_at"

RIGHTS: Mapping[str, Mapping[str, May]] = {
    "parley_gateway": {
        "approval_answers": May("user_id approval_request_id", "user_id approval_request_id job_id"),
        "audit_log": May(ALL, _AUDIT_INSERT),
        "conversation_events": May(ALL, "conversation_id seq user_id kind data"),
        "conversations": May(
            ALL,
            "id user_id title metadata active_job_id head_job_id last_turn is_ephemeral is_forked event_count",
            "title title_source metadata active_job_id head_job_id last_turn is_forked archived_at event_count "
            "deleted_item_count updated_at deleted_at read_at",
        ),
        "denials": May(ALL, ALL, "reason created_by changed_at until"),
        "feedback": May(ALL, "job_id conversation_id user_id rating reason", "rating reason updated_at", delete=True),
        "files": May(
            ALL,
            "id user_id filename media_type purpose bytes byte_count sha256 is_inline expires_at",
            "seen_at deleted_at",
        ),
        "items": May(ALL, f"{_SPOKEN} kind item", "deleted_at"),
        "jobs": May(
            "id conversation_id user_id parent_job_id turn status background store input_item_count request attempt "
            "available_at next_seq cancel_requested_at dispatched_at response idempotency_key body_hash answered_at "
            "created_at ended_at deleted_at",
            "id conversation_id user_id parent_job_id turn background store input_item_count request next_seq "
            "idempotency_key body_hash",
            "cancel_requested_at dispatched_at answered_at deleted_at",
        ),
        "journal": May(ALL, "job_id first_seq last_seq user_id frames"),
        "message_words": May("message_id conversation_id user_id", ALL),
        "messages": May(ALL, f"{_SPOKEN} role content parts status metadata", "deleted_at"),
        "purges": May(ALL, "id user_id user_digest requested_by"),
        "shares": May(
            "id conversation_id user_id title head_job_id last_turn created_at expires_at",
            "id conversation_id user_id token_digest title head_job_id last_turn expires_at",
            delete=True,
        ),
        "summaries": May(
            "job_id conversation_id user_id turn conversation_ids text token_count covers_turn_count created_at",
            delete=True,
        ),
        "tasks": May(ALL, _TASK_INSERT, _TASK_UPDATE, delete=True),
        "tool_calls": May(ALL, "", "deleted_at"),
        "unindexed_messages": May(ALL, ALL),
        "usage_by_day": May(ALL),
        "webhook_deliveries": May(
            "event_id endpoint_id user_id job_id type attempts next_attempt_at delivered_at last_status last_error "
            "created_at",
            delete=True,
        ),
        "webhook_endpoints": May(
            "id user_id name url event_types failure_count failing_since disabled_at disabled_reason created_at "
            "updated_at",
            "id user_id name url event_types secret",
            "name url event_types secret previous_secret_until failure_count failing_since disabled_at disabled_reason "
            "updated_at",
            delete=True,
        ),
    },
    "parley_worker": {
        "conversations": May("id user_id active_job_id deleted_item_count title_source is_ephemeral deleted_at"),
        "files": May("id user_id filename media_type bytes byte_count expires_at deleted_at"),
        "items": May(ALL),
        "jobs": May(
            "id conversation_id user_id parent_job_id turn status attempt worker_id delivery_id lease_until "
            "available_at next_seq request cancel_requested_at created_at started_at",
            "",
            "status attempt worker_id delivery_id lease_until started_at",
        ),
        "messages": May(ALL),
        "steps": May("job_id user_id step kind index data", "job_id user_id step kind index attempt data"),
        "summaries": May(ALL),
        "tool_calls": May(ALL),
        "tool_pins": May(ALL, ALL, "seen_digest seen_at change_count"),
    },
    "parley_persistence": {
        "approval_answers": May(ALL, delete=True),
        "audit_log": May(ALL, _AUDIT_INSERT),
        "conversation_events": May("conversation_id seq user_id", "conversation_id seq user_id kind data", delete=True),
        "conversations": May(ALL, "", "active_job_id title title_source event_count updated_at", delete=True),
        "dead_letters": May(ALL, "id job_id queue reason message_kind body_bytes body_hash", delete=True),
        "denials": May("id until", delete=True),
        "feedback": May("job_id conversation_id user_id", delete=True),
        "files": May("id user_id is_inline seen_at expires_at deleted_at", "", "seen_at", delete=True),
        "idempotency_keys": May("user_id key created_at", delete=True),
        "items": May(ALL, f"{_SPOKEN} kind item", delete=True),
        "jobs": May(
            ALL,
            "",
            "status journal_attempt worker_id lease_until available_at next_seq cancel_requested_at dispatched_at "
            "response usage error ended_at rolled_up_at",
            delete=True,
        ),
        "journal": May(ALL, ALL, delete=True),
        "message_words": May("message_id", ALL),
        "messages": May(ALL, f"{_SPOKEN} role content parts status", delete=True),
        "purges": May(ALL, "id user_id user_digest requested_by", "user_id deleted finished_at", delete=True),
        "shares": May("id conversation_id user_id", delete=True),
        "steps": May(ALL, delete=True),
        "summaries": May(
            "job_id conversation_id user_id turn conversation_ids",
            "job_id conversation_id user_id turn conversation_ids text token_count covers_turn_count",
            delete=True,
        ),
        "tasks": May("id user_id", delete=True),
        "tool_calls": May(
            ALL,
            f"{_SPOKEN} call_id server_label tool_name parameters result error status approval_request_id duration_ms",
            delete=True,
        ),
        "tool_pins": May(ALL, "", "accepted_digest accepted_at", delete=True),
        "unindexed_messages": May(ALL, ALL, delete=True),
        "usage_by_day": May(ALL, ALL, "response_count input_tokens output_tokens purged_at", delete=True),
        "webhook_deliveries": May(
            ALL,
            "event_id endpoint_id user_id job_id type body",
            "attempts next_attempt_at delivered_at last_status last_error",
            delete=True,
        ),
        "webhook_endpoints": May(
            ALL,
            "id url secret event_types",
            "url secret event_types failure_count failing_since disabled_at disabled_reason updated_at",
            delete=True,
        ),
    },
    "parley_tools": {
        "idempotency_keys": May(
            "user_id key tool_name arguments_hash result", "user_id key tool_name arguments_hash result"
        ),
        "tasks": May(ALL, _TASK_INSERT, _TASK_UPDATE, delete=True),
    },
}

FUNCTIONS: Mapping[str, set[str]] = {
    "parley_gateway": {
        "accept_turn", "accept_turns", "note_usage", "begin_search", "found_messages", "parsable", "search_query",
        "user_word", "words_of", "note_event", "wire_id", "purge_digest", "read_share",
    },
    "parley_worker": {"begin_attempts", "claim_job", "history_of", "see_tools"},
    "parley_persistence": {
        "parsable", "user_word", "words_of", "note_event", "wire_id", "purge_digest", "forget_audit_log",
    },
    "parley_tools": set(),
}  # fmt: skip
OF_THE_OWNER = {"note_usage", "forget_audit_log", "read_share"}  # functions that run with its rights

# What no service has to do with, in a database of its own or of others.
FORBIDDEN = {
    "a table": "create table mine (id int)",
    "a temporary table": "create temporary table mine (id int)",
    "a table of what it reads": "create table public.mine as select 1",
    "a temporary table by the way": "select 1 into temporary mine",
    "a view": "create view public.mine as select 1",
    "a sequence": "create sequence public.mine",
    "a type": "create type public.mine as enum ('a')",
    "a function": "create function public.mine() returns int language sql as 'select 1'",
    "a function for the session": "create function pg_temp.mine() returns int language sql as 'select 1'",
    "a schema": "create schema mine",
    "a role": "create role mine",
    "a database": "create database mine",
    "a way to other databases": "create foreign data wrapper mine",
    "a publication": "create publication mine for all tables",
    "an event trigger": "create event trigger mine on ddl_command_start execute function pg_catalog.now()",
    "an index": "create index on public.jobs (id)",
    "another column": "alter table jobs add column mine text",
    "no table": "drop table jobs",
    "no row level security": "alter table jobs disable row level security",
    "row level security that spares the owner": "alter table jobs no force row level security",
    "another policy": "create policy mine on jobs using (true)",
    "a wider policy": "alter policy tenant on jobs using (true)",
    "no policy": "drop policy tenant on jobs",
    "no triggers": "alter table jobs disable trigger all",
    "no foreign keys for the session": "set session_replication_role = replica",
    "a trigger": "create trigger mine before update on jobs for each row "
                 "execute function suppress_redundant_updates_trigger()",
    "another function": "create or replace function public.user_word(p_user_id text) returns text "
                        "language sql as 'select 1'",
    "another owner": "alter table jobs owner to current_user",
    "its row level security gone": "alter role current_user bypassrls",
    "itself a superuser": "alter role current_user superuser",
    "the owner's password": "alter role {owner} password 'mine'",
    "another service's password": "alter role {other} password 'mine'",
    "the owner's role": "set role {owner}",
    "another service's role": "set role {other}",
    "the owner's session": "set session authorization {owner}",
    "another service's session": "set session authorization {other}",
    "the passwords": "select rolpassword from pg_authid",
    "the passwords, under their other name": "select passwd from pg_shadow",
    "a program": "copy (select 1) to program 'true'",
    "a program's output": "copy jobs from program 'true'",
    "a file": "copy (select 1) to '/tmp/mine'",
    "a file of the server": "select pg_read_file('/etc/passwd')",
    "a folder of the server": "select pg_ls_dir('/')",
    "a library": "load '/tmp/mine.so'",
    "a large object": "select lo_create(0)",
    "a large object of the old kind": "select lo_creat(-1)",
    "a large object with content": "select lo_from_bytea(0, 'mine')",
    "a file as a large object": "select lo_import('/etc/passwd')",
    "the server's settings": "alter system set fsync = off",
    "settings of all": "alter database {database} set row_security = off",
    "what others do": "select pg_terminate_backend({backend})",
    "the past of the database": "select * from pg_catalog.pg_statistic",
    "the history of the schema": "select * from alembic_version",
}  # fmt: skip

Connections: TypeAlias = Mapping[str, asyncpg.Connection]


@pytest.fixture(scope="module")
async def as_role(database_urls: dict[str, str]) -> AsyncIterator[Connections]:
    """Connections as the owner and as each role."""
    async with AsyncExitStack() as stack:
        opened = {}
        for role, url in database_urls.items():
            opened[role] = await asyncpg.connect(url, statement_cache_size=0)
            stack.push_async_callback(opened[role].close)
        yield opened


@pytest.fixture(scope="module")
async def columns(as_role: Connections) -> Mapping[str, list[str]]:
    """The columns of every table, view and sequence in the schema."""
    rows = await as_role["owner"].fetch(
        """
        select c.relname, array_agg(a.attname::text order by a.attnum) as columns
        from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') group by 1
        """
    )
    return {row["relname"]: row["columns"] for row in rows}


async def test_every_right_to_a_table_is_listed(as_role: Connections, columns: Mapping[str, list[str]]) -> None:
    """By the catalogue, which also knows rights that no statement of ours could show."""
    rows = await as_role["owner"].fetch(
        """
        select r.role, t.name as table, array_remove(array[
                   case when has_column_privilege(r.role, t.name::regclass, c.name, 'select') then 'select' end,
                   case when has_column_privilege(r.role, t.name::regclass, c.name, 'insert') then 'insert' end,
                   case when has_column_privilege(r.role, t.name::regclass, c.name, 'update') then 'update' end,
                   case when has_column_privilege(r.role, t.name::regclass, c.name, 'references') then 'references' end
               ], null) as rights, c.name as column, array_remove(array[
                   case when has_table_privilege(r.role, t.name::regclass, 'delete') then 'delete' end,
                   case when has_table_privilege(r.role, t.name::regclass, 'truncate') then 'truncate' end,
                   case when has_table_privilege(r.role, t.name::regclass, 'trigger') then 'trigger' end
               ], null) as rights_to_all
        from unnest($1::text[]) r(role)
        cross join jsonb_each($2::jsonb) t(name, columns)
        cross join jsonb_array_elements_text(t.columns) c(name)
        """,
        list(ROLES),
        json.dumps(dict(columns)),
    )
    found: dict[str, dict[str, set[str]]] = {role: {} for role in ROLES}
    for row in rows:
        rights = {f"{right} {row['column']}" for right in row["rights"]} | set(row["rights_to_all"])
        if rights:
            found[row["role"]].setdefault(row["table"], set()).update(rights)

    assert found == {role: _expanded(role, columns) for role in ROLES}


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_can_run_what_is_listed_and_no_other_statement(
    as_role: Connections, columns: Mapping[str, list[str]], role: str
) -> None:
    possible: dict[str, set[str]] = {}
    for table, names in columns.items():
        for right, statement in _statements(table, names).items():
            if await _is_allowed(as_role[role], statement):
                possible.setdefault(table, set()).add(right)

    assert possible == _expanded(role, columns)


async def test_every_function_that_a_role_may_call_is_listed(as_role: Connections) -> None:
    found = await as_role["owner"].fetch(
        """
        select r.role, array_agg(distinct p.proname::text) filter (
            where has_function_privilege(r.role, p.oid, 'execute')) as functions
        from unnest($1::text[]) r(role), pg_proc p where p.pronamespace = 'public'::regnamespace group by 1
        """,
        list(ROLES),
    )

    assert {row["role"]: set(row["functions"] or ()) for row in found} == FUNCTIONS


async def test_what_runs_as_the_owner_looks_nowhere_else_for_its_tables(as_role: Connections) -> None:
    found = await as_role["owner"].fetch(
        "select proname, proconfig from pg_proc where pronamespace = 'public'::regnamespace and prosecdef"
    )

    assert {row["proname"]: row["proconfig"] for row in found} == {
        name: ["search_path=public, pg_temp"] for name in OF_THE_OWNER
    }


@pytest.mark.parametrize("role", ROLES)
async def test_a_function_that_is_not_listed_cannot_be_called(as_role: Connections, role: str) -> None:
    functions = await as_role["owner"].fetch(
        """
        select p.oid::regprocedure::text as signature, p.proname,
               format('select %s(%s)', p.oid::regproc,
                      (select string_agg(format('null::%s', t.oid::regtype), ', ' order by t.ordinality)
                       from unnest(p.proargtypes) with ordinality t(oid, ordinality))) as call
        from pg_proc p where p.pronamespace = 'public'::regnamespace and p.prorettype <> 'trigger'::regtype
        """
    )

    called = {row["signature"]: await _is_allowed(as_role[role], row["call"]) for row in functions}

    assert called == {row["signature"]: row["proname"] in FUNCTIONS[role] for row in functions}


async def test_everybody_else_has_no_right_at_all(as_role: Connections) -> None:
    """PUBLIC, which every role of the server belongs to: whoever is let into the database finds nothing open."""
    found = await as_role["owner"].fetch(
        """
        select c.oid::regclass::text as what, a.privilege_type from pg_class c, aclexplode(c.relacl) a
        where c.relnamespace = 'public'::regnamespace and a.grantee = 0
        union all
        select c.oid::regclass::text, a.privilege_type
        from pg_class c join pg_attribute t on t.attrelid = c.oid, aclexplode(t.attacl) a
        where c.relnamespace = 'public'::regnamespace and a.grantee = 0
        union all
        select p.oid::regprocedure::text, a.privilege_type
        from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
        where p.pronamespace = 'public'::regnamespace and a.grantee = 0
        union all
        select 'schema ' || n.nspname, a.privilege_type
        from pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
        where n.nspname = 'public' and a.grantee = 0
        union all
        select 'database', a.privilege_type
        from pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
        where d.datname = current_database() and a.grantee = 0 and a.privilege_type <> 'CONNECT'
        """
    )

    assert found == []


async def test_a_function_of_a_later_migration_is_nobody_s_until_it_is_granted(as_role: Connections) -> None:
    owner = as_role["owner"]
    transaction = owner.transaction()
    await transaction.start()
    try:
        await owner.execute("create function public.added() returns int language sql as 'select 1'")
        callers = [
            role
            for role in ROLES
            if await owner.fetchval("select has_function_privilege($1, 'public.added()', 'execute')", role)
        ]
    finally:
        await transaction.rollback()

    assert callers == []


@pytest.mark.parametrize("role", ROLES)
async def test_what_no_service_has_to_do_with_is_refused(as_role: Connections, role: str) -> None:
    owner = as_role["owner"]
    names = {
        "owner": f'"{await owner.fetchval("select current_user")}"',
        "other": next(name for name in ROLES if name != role),
        "database": f'"{await owner.fetchval("select current_database()")}"',
        "backend": await owner.fetchval("select pg_backend_pid()"),
    }

    allowed = [
        wish for wish, statement in FORBIDDEN.items() if await _is_allowed(as_role[role], statement.format(**names))
    ]

    assert allowed == []


@pytest.mark.parametrize("role", ROLES)
async def test_whoever_switches_row_level_security_off_reads_nothing(
    as_role: Connections, columns: Mapping[str, list[str]], role: str
) -> None:
    readable = [
        f"set row_security = off; select {_names(may.select, columns[table])[0]} from {table}; reset row_security"  # noqa: S608
        for table, may in RIGHTS[role].items()
        if may.select and table not in WITHOUT_A_USER
    ]

    assert [statement for statement in readable if await _is_allowed(as_role[role], statement)] == []


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_is_nobody_special(as_role: Connections, role: str) -> None:
    row = await as_role["owner"].fetchrow(
        """
        select rolsuper, rolbypassrls, rolcreatedb, rolcreaterole, rolreplication,
               (select array_agg(m.rolname) from pg_roles m
                where m.oid <> r.oid and pg_has_role(r.oid, m.oid, 'member')) as member_of,
               exists (select from pg_class where relowner = r.oid) as owns_a_table,
               exists (select from pg_proc where proowner = r.oid) as owns_a_function
        from pg_roles r where rolname = $1
        """,
        role,
    )

    assert not any(row.values()), dict(row)


def _expanded(role: str, columns: Mapping[str, list[str]]) -> dict[str, set[str]]:
    """The rights of the role one by one, by table: `delete`, and `select <column>` and the like."""
    expanded = {}
    for table, may in RIGHTS[role].items():
        by_column = {"select": may.select, "insert": may.insert, "update": may.update}
        rights = {f"{right} {name}" for right, names in by_column.items() for name in _names(names, columns[table])}
        expanded[table] = rights | ({"delete"} if may.delete else set())
    return expanded


def _names(listed: str, all_names: list[str]) -> Sequence[str]:
    return all_names if listed == ALL else listed.split()


def _statements(table: str, columns: Sequence[str]) -> dict[str, str]:
    """A statement for each right, which changes no row and needs no other right."""
    statements = {
        "delete": f"delete from {table} where false",  # noqa: S608
        "truncate": f"truncate {table}",
        "trigger": f"create trigger mine before update on {table} for each row "
        "execute function suppress_redundant_updates_trigger()",
    }
    for column in columns:
        statements |= {
            f"select {column}": f'select "{column}" from {table} limit 0',  # noqa: S608
            f"insert {column}": f'insert into {table} ("{column}") select null where false',
            f"update {column}": f'update {table} set "{column}" = default where false',  # noqa: S608
        }
    return statements


async def _is_allowed(connection: asyncpg.Connection, statement: str) -> bool:
    """Whether no missing right is in the way of the statement, nor that its column is generated."""
    try:
        await connection.execute(statement)
    except (asyncpg.InsufficientPrivilegeError, asyncpg.GeneratedAlwaysError):
        return False
    except asyncpg.PostgresError:
        return True
    return True
