"""What is refused, and how it is said."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from gateway.app import create_app
from gateway.application import Application
from gateway.problems import AnswerFailedError, install_problems
from gateway.routes import health
from gateway.settings import GatewaySettings
from shared import errors
from shared.db import Database
from shared.ids import uuid7
from shared.settings import Profile
from tests.gateway.conftest import NO_BROKER, Caller
from tests.support.stack import JWT_SECRET, token_of
from tests.support.tcp import proxied
from tests.support.waiting import wait_until

CONVERSATION = f"conv_{uuid7().hex}"
JSON = {"content-type": "application/json"}


async def test_the_simple_contract_has_one_form_of_error(ada: Caller) -> None:
    answer = await ada.get(f"/api/conversations/{CONVERSATION}")

    assert answer.status_code == 404
    assert answer.json() == {
        "status": "error",
        "data": None,
        "error": {
            "error_code": "not_found",
            "error_message": "No such conversation.",
            "status_code": 404,
            "details": None,
            "request_id": answer.headers["x-request-id"],
        },
    }


async def test_openais_clients_get_the_error_they_know(ada: Caller) -> None:
    answer = await ada.get(f"/v1/conversations/{CONVERSATION}")

    assert answer.status_code == 404
    assert answer.json() == {
        "error": {
            "message": "No such conversation.",
            "type": "invalid_request_error",
            "param": None,
            "code": "not_found",
        }
    }


@pytest.mark.parametrize("path", ["/v1/conversations", "/api/conversations", "/nowhere", "/health/live"])
async def test_every_answer_has_a_request_id_of_its_own(ada: Caller, path: str) -> None:
    ids = {(await ada.get(path)).headers["x-request-id"] for _ in range(2)}

    assert len(ids) == 2


BAD_MESSAGES = {
    "empty": {"message": ""},
    "blank": {"message": " \n"},
    "too long": {"message": "a" * 5001},
    "a number": {"message": 5},
    "a list": {"message": ["hello"]},
    "null": {"message": None},
    "missing": {},
    "NUL": {"message": "a\0b"},
}


@pytest.mark.parametrize("fault", BAD_MESSAGES)
async def test_a_bad_message_is_refused_by_name_and_nothing_is_stored(ada: Caller, fault: str) -> None:
    answer = await ada.post("/api/chat", json=BAD_MESSAGES[fault])

    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["details"]["field"] == "message"
    assert "message" in error["error_message"] or "Text" in error["error_message"]
    assert (await ada.get("/api/conversations")).json()["total"] == 0


BAD_BODIES = {
    "no JSON": b"{not json",
    "nothing": b"",
    "only half": b'{"message": "a',
    "a text": b'"message"',
    "a list": b"[]",
    "bad UTF-8": b'{"message": "\xff"}',
    "half a surrogate pair": b'{"message": "\\ud800"}',
    "NUL in a key": b'{"a\\u0000": 1}',
    "a number beyond all": b'{"message": 1e400}',
    "not a number": b'{"message": NaN}',
    "a huge number": b'{"message": "x", "n": 92233720368547758080}',
    "100,000 brackets": b"[" * 100_000,
    "deep objects": b'{"a":' * 500 + b"1" + b"}" * 500,
    "two values": b"{} {}",
}


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        (path, fault)
        for path in ("/api/chat", "/v1/responses", "/v1/conversations")
        for fault in BAD_BODIES
        if (path, fault) != ("/v1/conversations", "nothing")  # it needs no body
    ],
)
async def test_a_body_that_is_no_proper_json_is_refused(ada: Caller, fault: str, path: str) -> None:
    answer = await ada.post(path, content=BAD_BODIES[fault], headers=JSON)

    assert answer.status_code == 400, answer.text
    assert (await ada.get("/api/conversations")).json()["total"] == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {},
        {**JSON, "content-encoding": "gzip"},
    ],
)
async def test_a_body_in_another_form_is_not_guessed_at(ada: Caller, headers: dict[str, str]) -> None:
    answer = await ada.post("/api/chat", content=b'{"message": "hello"}', headers=headers)

    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]["error_message"]


async def test_the_media_type_may_carry_its_charset(ada: Caller) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}

    answer = await ada.post("/v1/conversations", content=b"{}", headers=headers)

    assert answer.status_code == 200


async def test_fields_that_nobody_knows_are_ignored(ada: Caller) -> None:
    body = {"user_id": "bob", "created_at": 1, "from_the_future": {"a": [1]}}

    answer = await ada.post("/v1/conversations", json=body)

    assert answer.status_code == 200
    assert (await ada.get("/api/conversations")).json()["total"] == 1


async def test_every_fault_of_a_body_is_listed(ada: Caller) -> None:
    answer = await ada.post(f"/api/{ada.user_id}/tasks", json={"title": 5, "priority": "urgent", "due": 3})

    fields = [fault["field"] for fault in answer.json()["error"]["details"]["fields"]]
    assert sorted(fields) == ["due", "priority", "title"]
    assert "5" not in answer.json()["error"]["error_message"]


async def test_a_client_may_name_its_request(ada: Caller) -> None:
    answer = await ada.get("/api/nowhere", headers={"x-request-id": "my-request:1/2"})

    assert answer.headers.get_list("x-request-id") == ["my-request:1/2"]
    assert answer.json()["error"]["request_id"] == "my-request:1/2"


@pytest.mark.parametrize("name", ["", "x" * 129, "a b", "a\tb", "<script>", "a,b"])
async def test_a_name_that_is_long_or_strange_is_not_taken(ada: Caller, name: str) -> None:
    answer = await ada.get("/api/nowhere", headers={"x-request-id": name})

    assert answer.headers["x-request-id"].startswith("req_")


async def test_no_address_leads_elsewhere(ada: Caller) -> None:
    """What looks like another host in a path stays a path."""
    for path in ("/v1/models/", "//evil.example", "/docs/", "/%2f%2fevil.example", "/api//evil.example"):
        answer = await ada.get(f"http://gateway{path}")
        assert answer.status_code == 404, path
        assert "location" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/no/such/thing", 404, "not_found"),
        ("PUT", "/v1/conversations", 405, "method_not_allowed"),
    ],
)
async def test_the_routers_refusals_have_our_form(ada: Caller, method: str, path: str, status: int, code: str) -> None:
    openai, simple = [await ada.request(method, address) for address in (path, path.replace("/v1/", "/api/v1/"))]

    assert (openai.status_code, simple.status_code) == (status, status)
    assert openai.json()["error"]["code"] == simple.json()["error"]["error_code"] == code


async def test_nul_in_an_address_is_refused(ada: Caller) -> None:
    for address in ("/v1/conversations?after=conv_%00", "/api/conversations/%00", "/v1/models/a%00"):
        assert (await ada.get(address)).status_code == 400, address


STATUSES = [
    (errors.InvalidInputError("slug", "text"), 400, "invalid_request_error"),
    (errors.NotAuthenticatedError("slug", "text"), 401, "authentication_error"),
    (errors.PermissionDeniedError("slug", "text"), 403, "permission_error"),
    (errors.NotFoundError("slug", "text"), 404, "invalid_request_error"),
    (errors.ConflictError("slug", "text"), 409, "invalid_request_error"),
    (errors.TooLargeError("slug", "text"), 413, "invalid_request_error"),
    (errors.KeyReusedError("slug", "text"), 422, "invalid_request_error"),
    (errors.LimitExceededError("slug", "text", retry_after_seconds=2.5), 429, "rate_limit_error"),
    (errors.DatabaseUnavailableError(), 503, "server_error"),
    (errors.BrokerUnavailableError("slug", "text"), 503, "server_error"),
    (AnswerFailedError("slug", "text"), 502, "server_error"),
    (errors.AttemptError("slug", "text"), 500, "server_error"),
    (ZeroDivisionError("secret of the house"), 500, "server_error"),
]


def raising(error: Exception) -> FastAPI:
    app = Application()
    install_problems(app)

    @app.get("/v1/raise")
    @app.get("/api/raise")
    async def fail() -> None:
        raise error

    return app


@pytest.mark.parametrize(("error", "status", "kind"), STATUSES)
async def test_each_kind_of_error_has_its_status_in_both_forms(error: Exception, status: int, kind: str) -> None:
    client = Caller(raising(error), "", None)

    with capture_logs():
        openai, simple = await client.get("/v1/raise"), await client.get("/api/raise")

    assert (openai.status_code, simple.status_code) == (status, status)
    assert openai.json()["error"]["type"] == kind
    assert simple.json()["error"]["status_code"] == status
    assert simple.json()["error"]["request_id"] == simple.headers["x-request-id"]
    assert "house" not in openai.text + simple.text


@pytest.mark.parametrize(
    ("error", "header", "value"),
    [
        (errors.LimitExceededError("slug", "text", retry_after_seconds=2.5), "retry-after", "3"),
        (errors.DatabaseUnavailableError(), "retry-after", "2"),
        (errors.BrokerUnavailableError("slug", "text"), "retry-after", "2"),
        (errors.ConflictError("slug", "text"), "x-should-retry", "false"),
        (AnswerFailedError("slug", "text"), "x-should-retry", "false"),
        (errors.DatabaseUnavailableError(), "x-should-retry", None),
    ],
)
async def test_clients_are_told_when_to_come_again_and_when_not_to(
    error: Exception, header: str, value: str | None
) -> None:
    answer = await Caller(raising(error), "", None).get("/v1/raise")

    assert answer.headers.get(header) == value


async def test_an_error_of_ours_is_logged_once_with_the_id_that_its_victim_was_given() -> None:
    # The ids are bound by a processor that `capture_logs` leaves out, so it is put back in.
    with capture_logs(processors=[merge_contextvars]) as logs:
        answer = await Caller(raising(ZeroDivisionError()), "", None).get("/v1/raise")

    failures = [entry for entry in logs if entry["event"] == "request_failed"]
    assert [entry["request_id"] for entry in failures] == [answer.headers["x-request-id"]]
    assert failures[0]["exc_info"]


@pytest.mark.parametrize("path", ["/v1/conversations/canary", "/api/canary/export", "/assets/canary", "/canary"])
async def test_what_a_client_writes_into_an_address_is_in_no_log(ada: Caller, path: str) -> None:
    with capture_logs() as logs:
        await ada.get(f"{path}?canary=canary")

    assert "request" in [entry["event"] for entry in logs]
    assert "canary" not in str(logs)


async def test_an_answer_that_breaks_in_the_middle_is_not_ended_as_if_it_were_whole() -> None:
    app = Application()
    install_problems(app)

    @app.get("/broken")
    async def broken() -> AsyncIterator[dict[str, int]]:
        yield {"a": 1}
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), capture_logs():
        await Caller(app, "", None).get("/broken")


async def test_probes_at_the_same_time_share_one_connection(database_urls: dict[str, str]) -> None:
    database = await Database.connect(database_urls["parley_gateway"], application_name="probed", pool_size=5)
    try:
        assert all(await asyncio.gather(*(health._answers(database) for _ in range(50))))  # noqa: SLF001
        async with database.connection() as connection:
            count = await connection.fetchval("select count(*) from pg_stat_activity where application_name = 'probed'")
    finally:
        await database.close()

    assert count == 1


async def test_without_postgres_the_answer_is_503_and_all_is_well_when_it_is_back(
    database_urls: dict[str, str],
) -> None:
    async with proxied(database_urls["parley_gateway"]) as (url, line):
        app = create_app(
            GatewaySettings(profile=Profile.LOCAL, database_url=url, rabbitmq_url=NO_BROKER, jwt_secret=JWT_SECRET)
        )
        async with app.router.lifespan_context(app):
            user = Caller(app, "ada", token_of("ada"))

            line.cut()
            refused = [await user.get(path) for path in ("/v1/conversations", "/api/ada/tasks")]
            refused.append(await user.post("/api/chat", json={"message": "hello"}))
            ready = await user.get("/health/ready")
            line.mend()

            assert {answer.status_code for answer in refused} == {503}
            assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
            assert (ready.status_code, ready.json()["dependencies"]["postgres"]) == (503, "down")

            async def works() -> bool:
                return (await user.get("/v1/conversations")).status_code == 200

            await wait_until(works, seconds=10)


async def test_without_rabbitmq_the_gateway_is_ready_but_says_so(ada: Caller) -> None:
    answer = await ada.get("/health/ready")

    assert answer.status_code == 200
    assert answer.json() == {"status": "degraded", "dependencies": {"postgres": "up", "rabbitmq": "down"}}
    assert (await ada.get("/health/live")).json() == {"status": "ok"}


async def test_the_openapi_document_describes_our_errors_and_not_fastapis(ada: Caller) -> None:
    document = (await ada.get("/openapi.json")).json()

    operations = [(path, operation) for path, methods in document["paths"].items() for operation in methods.values()]
    assert len(operations) > 20
    assert "HTTPValidationError" not in json.dumps(document)
    for path, operation in operations:
        assert operation["summary"]
        assert operation["tags"]
        if not path.startswith(("/health", "/v1/shares/{token}")) or operation.get("security"):
            assert "401" in operation["responses"], path
            assert {"HTTPBearer": []} in operation["security"], path


async def test_documents_are_shown_in_the_local_profile_only() -> None:
    settings: dict[str, Any] = {"database_url": "postgresql://x", "jwt_secret": JWT_SECRET}
    production = GatewaySettings(profile=Profile.PRODUCTION, **settings)
    opted_in = GatewaySettings(profile=Profile.PRODUCTION, docs_enabled=True, **settings)

    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(create_app(production)), base_url="http://gateway"
    ) as client:
        statuses = [(await client.get(path)).status_code for path in ("/docs", "/openapi.json", "/redoc")]

    assert statuses == [404, 404, 404]
    assert opted_in.shows_docs
