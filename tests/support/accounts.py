"""Users who have something everywhere: a row, or more, in every table that names a user."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from shared.ids import uuid7

# Whom they name is shut out, or asked to be forgotten: not what the user has.
NOT_THEIRS = {"purges"}


@dataclass(frozen=True)
class Account:
    """A user with two conversations, one of them deleted, the other archived. `word(place)` is what is said there."""

    user_id: str
    conversation_id: UUID
    deleted_conversation_id: UUID
    job_id: UUID
    file_id: UUID

    def word(self, place: str) -> str:
        return word_of(self.user_id, place)


def word_of(user_id: str, place: str) -> str:
    return f"{user_id} said {place}"


async def user_tables(owner_url: str) -> set[str]:
    """Every table with rows of users, as the catalogue knows them."""
    async with _owner(owner_url, "") as owner:
        rows = await owner.fetch(
            """
            select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid
            where a.attname = 'user_id' and not a.attisdropped and c.relkind in ('r', 'p')
              and c.relnamespace = 'public'::regnamespace
            """
        )
    return {row["relname"] for row in rows} - NOT_THEIRS


async def row_counts(owner_url: str, user_id: str) -> dict[str, int]:
    """How many rows of the user each table has."""
    tables = await user_tables(owner_url)
    async with _owner(owner_url, user_id) as owner:
        return {
            table: await owner.fetchval(f"select count(*) from {table} where user_id = $1", user_id)  # noqa: S608
            for table in sorted(tables)
        }


async def fill_account(owner_url: str, user_id: str) -> Account:
    """Make the user, with rows in every table; the test that wants all of them checks that with `row_counts`."""
    account = Account(user_id, uuid7(), uuid7(), uuid7(), uuid7())
    async with _owner(owner_url, user_id) as owner:
        for statement, *arguments in _statements(account):
            await owner.execute(statement, *arguments)
    return account


@asynccontextmanager
async def _owner(owner_url: str, user_id: str) -> AsyncIterator[asyncpg.Connection]:
    owner = await asyncpg.connect(owner_url)
    try:
        async with owner.transaction():
            await owner.execute("select set_config('app.user_id', $1, true)", user_id)
            yield owner
    finally:
        await owner.close()


def _statements(account: Account) -> list[tuple[object, ...]]:
    user_id, word = account.user_id, account.word
    conversation_id, job_id = account.conversation_id, account.job_id
    conversations = [(conversation_id, "title", None), (account.deleted_conversation_id, "deleted title", "now")]
    return [
        *(
            (
                """
                insert into conversations (id, user_id, title, metadata, last_turn, archived_at, deleted_at)
                values ($1, $2, $3, $4, 1, case when $5::text is null then now() end, $5::text::timestamptz)
                """,
                *(one, user_id, word(title), json.dumps({"topic": word(f"metadata of {title}")}), deleted_at),
            )
            for one, title, deleted_at in conversations
        ),
        (
            """
            insert into jobs (id, conversation_id, user_id, turn, status, request, response, usage, error, next_seq,
                              idempotency_key, ended_at, input_item_count, deleted_at)
            values ($1, $2, $3, 1, 'failed', $4, $5, '{"input_tokens": 7}', $6, 2, $7, now(), 1, now())
            """,
            *(job_id, conversation_id, user_id, json.dumps({"instructions": word("instructions")})),
            *(json.dumps({"output": word("output"), "error": {"message": word("failure")}}),),
            *(json.dumps({"message": word("failure")}), word("key")),
        ),
        (
            """
            insert into messages (id, conversation_id, job_id, user_id, turn, ordinal, role, content, parts, status,
                                  deleted_at)
            values ($1, $2, $3, $4, 1, 0, 'user', $5, '[]', 'completed', now())
            """,
            *(uuid7(), conversation_id, job_id, user_id, word("message")),
        ),
        (
            """
            insert into messages (id, conversation_id, user_id, turn, ordinal, role, content, parts, status)
            values ($1, $2, $3, 1, 0, 'user', $4, '[]', 'completed')
            """,
            *(uuid7(), account.deleted_conversation_id, user_id, word("deleted message")),
        ),
        (
            """
            with unindexed as (
                delete from message_words where user_id = $1 and conversation_id = $2 returning message_id
            )
            insert into unindexed_messages (message_id, user_id) select message_id, $1 from unindexed
            """,
            *(user_id, conversation_id),
        ),
        (
            """
            insert into tool_calls (id, conversation_id, job_id, user_id, turn, ordinal, call_id, server_label,
                                    tool_name, parameters, result, status)
            values ($1, $2, $3, $4, 1, 1, 'mcp_1', 'tasks', 'add_task', $5, $6, 'completed')
            """,
            *(uuid7(), conversation_id, job_id, user_id, word("parameters"), word("result")),
        ),
        (
            """
            insert into items (id, conversation_id, job_id, user_id, turn, ordinal, kind, item)
            values ($1, $2, $3, $4, 1, 2, 'function_call', $5)
            """,
            *(uuid7(), conversation_id, job_id, user_id, json.dumps({"arguments": word("item")})),
        ),
        (
            "insert into journal (job_id, first_seq, last_seq, user_id, frames) values ($1, 0, 1, $2, $3)",
            *(job_id, user_id, "\n".join(json.dumps({"delta": word(f"event {number}")}) for number in (0, 1))),
        ),
        (
            """
            insert into steps (job_id, step, kind, user_id, attempt, data) values ($1, 0, 'model', $2, 1, $3)
            """,
            *(job_id, user_id, json.dumps({"text": word("step")})),
        ),
        (
            """
            insert into summaries (job_id, conversation_id, user_id, turn, conversation_ids, text, token_count,
                                   covers_turn_count)
            values ($1, $2, $3, 1, array[$2::uuid], $4, 1, 1)
            """,
            *(job_id, conversation_id, user_id, word("summary")),
        ),
        (
            """
            insert into feedback (job_id, conversation_id, user_id, rating, reason) values ($1, $2, $3, 'positive', $4)
            """,
            *(job_id, conversation_id, user_id, word("reason")),
        ),
        (
            """
            insert into shares (id, conversation_id, user_id, token_digest, title, head_job_id, last_turn)
            values ($1, $2, $3, sha256(convert_to($3, 'UTF8')), $4, $5, 1)
            """,
            *(uuid7(), conversation_id, user_id, word("shared title"), job_id),
        ),
        (
            "insert into approval_answers (user_id, approval_request_id, job_id) values ($1, $2, $3)",
            *(user_id, word("approval"), job_id),
        ),
        (
            (
                "insert into dead_letters (id, job_id, queue, reason, message_kind, body_bytes, body_hash) "
                "values ($1, $2, 'chat.jobs', 'rejected', 'JobReady', 1, '')"
            ),
            *(uuid7(), job_id),
        ),
        (
            "insert into tasks (id, user_id, title, description) values ($1, $2, $3, $4)",
            *(uuid7(), user_id, word("task"), word("description")),
        ),
        (
            (
                "insert into idempotency_keys (user_id, key, tool_name, arguments_hash, result) "
                "values ($1, '1', 'add_task', '', '{}')"
            ),
            user_id,
        ),
        (
            """
            insert into files (id, user_id, filename, media_type, purpose, bytes, byte_count, sha256, is_inline,
                               deleted_at)
            values ($1, $2, $3, 'text/plain', 'user_data', $4, $5, '', false, now())
            """,
            *(account.file_id, user_id, word("filename"), content_of(account), len(content_of(account))),
        ),
        (
            """
            insert into webhook_endpoints (id, user_id, name, url, event_types, secret)
            values ($1, $2, $3, $4, array['response.completed'], 'whsec_not_to_be_told')
            """,
            *(uuid7(), user_id, word("endpoint"), f"https://{user_id}.example/"),
        ),
        (
            (
                "insert into webhook_deliveries (event_id, endpoint_id, user_id, job_id, type, body) "
                "values ($1, $2, $3, $4, 'response.completed', '{}')"
            ),
            *(uuid7(), uuid7(), user_id, job_id),
        ),
        (
            (
                "insert into usage_by_day (user_id, day, response_count, input_tokens, output_tokens) "
                "values ($1, '2026-01-02', 1, 23, 42)"
            ),
            user_id,
        ),
    ]


def content_of(account: Account) -> bytes:
    """Of the file; larger than what is read of a file at a time."""
    return account.word("content").encode() + bytes(range(256)) * 2_048
