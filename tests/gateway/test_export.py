"""A user's export: everything that is stored of them and nothing of anybody else, in bounded memory."""

import asyncio
import base64
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from fastapi import FastAPI
from starlette.types import Message

from gateway import export as export_module
from gateway.auth import User
from gateway.denials import Kind
from gateway.export import EXPORTED, LEFT_OUT, export
from gateway.routes import account
from shared.db import Database
from shared.errors import PermissionDeniedError
from shared.ids import Prefix, to_wire
from tests.gateway.conftest import NO_BROKER, Caller
from tests.support.accounts import Account, content_of, fill_account, row_counts, user_tables, word_of
from tests.support.stack import JWT_SECRET

# What is said of a user only where they are not told: the worker's ledger, which the responses repeat.
_NOT_TOLD = {"step"}


def words_in(text: str, user_id: str) -> set[str]:
    """The places of which the user's words are in `text`."""
    return {word.split('"')[0] for word in text.split(word_of(user_id, ""))[1:]}


async def exported(caller: Caller) -> tuple[str, Any]:
    answer = await caller.get(f"/api/{caller.user_id}/export")
    assert answer.status_code == 200, answer.text
    return answer.text, answer.json()


async def test_every_table_with_rows_of_users_is_exported_or_known_not_to_be(database_urls: Mapping[str, str]) -> None:
    assert await user_tables(database_urls["owner"]) == EXPORTED | LEFT_OUT


async def test_an_export_has_all_that_a_user_ever_said_and_nothing_of_another(
    ada: Caller, bob: Caller, database_urls: Mapping[str, str]
) -> None:
    accounts = [await fill_account(database_urls["owner"], caller.user_id) for caller in (ada, bob)]
    assert all((await row_counts(database_urls["owner"], ada.user_id)).values()), "every table has something"

    text, document = await exported(ada)

    assert words_in(text, ada.user_id) == _places() - _NOT_TOLD
    assert not words_in(text, bob.user_id)
    assert bob.user_id not in text
    assert "whsec_" not in text
    assert "token_digest" not in text
    assert document.keys() == {
        *("object", "user_id", "exported_at", "conversations", "files", "tasks", "approval_answers"),
        *("webhook_endpoints", "webhook_deliveries", "usage_by_day"),
    }
    kept, deleted = document["conversations"]
    assert kept["archived_at"]
    assert deleted["deleted_at"]
    assert {name: len(rows) for name, rows in kept.items() if isinstance(rows, list)} == {
        "jobs": 1,
        "messages": 1,
        "tool_calls": 1,
        "items": 1,
        "summaries": 1,
        "feedback": 1,
        "shares": 1,
        "conversation_events": len(kept["conversation_events"]),
        "journal": 1,
    }
    assert kept["jobs"][0]["id"] == to_wire(Prefix.RESPONSE, accounts[0].job_id)
    assert [event["delta"] for event in kept["journal"][0]["events"]] == [
        word_of(ada.user_id, f"event {number}") for number in (0, 1)
    ]
    assert base64.b64decode(document["files"][0]["content"]) == content_of(accounts[0])
    assert document["usage_by_day"] == [
        {"day": "2026-01-02", "response_count": 1, "input_tokens": 23, "output_tokens": 42}
    ]


async def test_an_export_of_an_empty_account_is_a_document_too(ada: Caller) -> None:
    _, document = await exported(ada)

    assert (document["user_id"], document["conversations"], document["files"]) == (ada.user_id, [], [])


async def test_an_export_takes_as_many_pages_and_slices_as_there_are(
    ada: Caller, database_urls: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = await fill_account(database_urls["owner"], ada.user_id)
    await _say_more(database_urls["owner"], filled, count=2 * export_module._ROWS_MAX + 1)  # noqa: SLF001
    monkeypatch.setattr(export_module, "_SLICE_BYTES", 3 * 1_000)

    _, document = await exported(ada)

    contents = [message["content"] for message in document["conversations"][1]["messages"][1:]]
    assert contents == [f"message {number}" for number in range(2 * export_module._ROWS_MAX + 1)]  # noqa: SLF001
    assert base64.b64decode(document["files"][0]["content"]) == content_of(filled)


async def test_no_transaction_is_open_while_a_reader_takes_their_time(
    ada: Caller, database_urls: Mapping[str, str]
) -> None:
    await fill_account(database_urls["owner"], ada.user_id)
    database = await Database.connect(database_urls["parley_gateway"], application_name="test", pool_size=1)
    try:
        pieces = export(database, ada.user_id)
        async for _ in pieces:
            await database.ping()  # with the only connection there is
    finally:
        await database.close()


async def test_one_export_of_a_user_at_a_time_and_each_is_in_the_audit_log(
    gateway: FastAPI, ada: Caller, bob: Caller, database_urls: Mapping[str, str]
) -> None:
    with gateway.state.services.exports.take(ada.user_id):
        refused = await ada.get(f"/api/{ada.user_id}/export")
        others = await bob.get(f"/api/{bob.user_id}/export")
    again = await ada.get(f"/api/{ada.user_id}/export")

    assert (refused.status_code, refused.json()["error"]["error_code"]) == (429, "too_many_exports")
    assert (others.status_code, again.status_code) == (200, 200)
    entries = await _entries(database_urls["owner"], ada.user_id)
    assert entries == [("user", "user.exported", ada.user_id, again.headers["x-request-id"], "done")]


async def test_nobody_fills_the_audit_log_with_exports(ada: Caller, database_urls: Mapping[str, str]) -> None:
    """Its entries stay for thirty days, whatever is set, and nobody may delete them."""
    statuses = [(await ada.get(f"/api/{ada.user_id}/export")).status_code for _ in range(30)]

    assert statuses == [200] * 10 + [429] * 20
    assert len(await _entries(database_urls["owner"], ada.user_id)) == 10


async def test_an_export_breaks_off_once_its_user_is_shut_out(
    gateway: FastAPI, ada: Caller, database_urls: Mapping[str, str]
) -> None:
    await fill_account(database_urls["owner"], ada.user_id)
    services = gateway.state.services
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)
        if len(sent) == 2:
            await services.denials.deny("operator", Kind.SUBJECT, ada.user_id, reason="")

    async def receive() -> Message:
        raise AssertionError

    answer = account._Export(services, User(ada.user_id, float("inf")), services.exports.take(ada.user_id))  # noqa: SLF001
    with pytest.raises(PermissionDeniedError):
        await answer({}, receive, send)

    assert sent[-1]["more_body"]
    services.exports.take(ada.user_id).close()  # its slot is free again


async def test_nobody_exports_another_user(ada: Caller, bob: Caller, stranger: Caller) -> None:
    assert (await ada.get(f"/api/{bob.user_id}/export")).status_code == 403
    assert (await stranger.get(f"/api/{bob.user_id}/export")).status_code == 401


async def test_an_operator_exports_a_user_into_a_file(
    ada: Caller, database_urls: Mapping[str, str], tmp_path: Path
) -> None:
    await fill_account(database_urls["owner"], ada.user_id)
    environment = os.environ | {
        "PARLEY_PROFILE": "local",
        "GATEWAY_DATABASE_URL": database_urls["parley_gateway"],
        "RABBITMQ_URL": NO_BROKER,
        "JWT_SECRET": JWT_SECRET,
    }
    output = tmp_path / "export.json"

    async def run() -> int:
        """In a process of its own, whose logging is nobody else's."""
        command = (sys.executable, "-m", "gateway.export", ada.user_id, "--output", str(output))
        process = await asyncio.create_subprocess_exec(*command, env=environment)
        return await process.wait()

    code, code_again = await run(), await run()

    assert (code, code_again) == (0, 1)
    assert json.loads(output.read_bytes())["user_id"] == ada.user_id
    assert words_in(output.read_text(), ada.user_id) == _places() - _NOT_TOLD
    assert [entry[:2] for entry in await _entries(database_urls["owner"], ada.user_id)] == [("ops", "user.exported")]


def _places() -> set[str]:
    """Where `fill_account` has the user say something."""
    return {
        *("title", "deleted title", "metadata of title", "metadata of deleted title", "instructions", "output"),
        *("failure", "key", "message", "deleted message", "parameters", "result", "item", "event 0", "event 1"),
        *("step", "summary", "approval", "task", "description", "filename", "endpoint", "reason", "shared title"),
    }


async def _say_more(owner_url: str, account: Account, count: int) -> None:
    owner = await asyncpg.connect(owner_url)
    try:
        async with owner.transaction():
            await owner.execute("select set_config('app.user_id', $1, true)", account.user_id)
            await owner.execute(
                """
                insert into messages (id, conversation_id, user_id, turn, ordinal, role, content, parts, status)
                select gen_random_uuid(), $1, $2, 2, n, 'user', 'message ' || n, '[]', 'completed'
                from generate_series(0, $3::integer - 1) n
                """,
                *(account.deleted_conversation_id, account.user_id, count),
            )
    finally:
        await owner.close()


async def _entries(owner_url: str, target: str) -> list[tuple[str | UUID, ...]]:
    owner = await asyncpg.connect(owner_url)
    try:
        rows = await owner.fetch(
            "select actor_kind, action, target, request_id, outcome from audit_log where target = $1 order by id",
            target,
        )
    finally:
        await owner.close()
    return [tuple(row) for row in rows]
