"""Each limit of `docs/limits.md` that refuses a request: it is reached, answered as is written there, and counted."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import httpx2
import pytest
from starlette.types import Receive, Scope, Send

from gateway import metrics
from gateway.deps import Services
from shared.ids import Prefix, to_wire, uuid7
from tests.gateway.conftest import Serve, Served
from tests.gateway.test_auth_keys import AUDIENCE, ISSUER, OTHER_RSA_KEY, Provider, rsa_jwk
from tests.gateway.test_auth_keys import token as provider_token
from tests.support.asgi import served
from tests.support.pictures import png
from tests.support.stack import token_of
from tests.support.turns import Turns
from tests.support.waiting import wait_until

_PAGE = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()
# Each limit with the answer that it is said to get.
_TOLD = {
    name: (int(status), code)
    for name, status, code in re.findall(
        r"^\| .+ \| `([A-Z_]+)` \| [^|]+ \| [^|`]*?\b([45]\d\d) `([a-z_]+)`", _PAGE, re.MULTILINE
    )
}
_WAITING_STATUSES = {429, 503}
_SLOW = 0.001  # per second: what was spent does not come back within a test
_AT_ONCE = {"requests_burst_max": 1, "requests_per_second_max": _SLOW}
_AT_ONCE_ANONYMOUS = {"anonymous_requests_burst_max": 1, "anonymous_requests_per_second_max": _SLOW}
_HANGS = "http://hangs"
_TALKS = "http://talks"


@dataclass(frozen=True)
class Answer:
    status: int
    text: str
    headers: Mapping[str, str]

    @classmethod
    def of(cls, response: httpx2.Response) -> "Answer":
        return cls(response.status_code, response.text, response.headers)

    @classmethod
    def of_raw(cls, said: bytes) -> "Answer":
        head, _, body = said.decode().partition("\r\n\r\n")
        first, *lines = head.split("\r\n")
        return cls(int(first.split()[1]), body, {name.lower(): value for name, _, value in _pairs(lines)})


def _pairs(lines: list[str]) -> list[tuple[str, str, str]]:
    return [line.partition(": ") for line in lines]


@dataclass
class Limited:
    """A user at a gateway that has the limit, and what the user needs to reach it."""

    served: Served
    user_id: str
    turns: Turns
    owner_url: str
    provider: Provider
    http: httpx2.AsyncClient = field(init=False)
    stranger: httpx2.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        self.http = self.served.client(self.user_id)
        self.stranger = httpx2.AsyncClient(base_url=self.http.base_url, timeout=30)

    @property
    def services(self) -> Services:
        services: Services = self.served.server.config.app.state.services  # type: ignore[union-attr]
        return services

    async def close(self) -> None:
        await self.http.aclose()
        await self.stranger.aclose()

    async def sends(self, method: str, path: str, *, times: int = 1, **sent: Any) -> Answer:
        """What the last of so many requests is answered."""
        for _ in range(times):
            answer = await self.http.request(method, path.format(user=self.user_id), **sent)
        return Answer.of(answer)

    async def asks(self, text: str = "hi", *, times: int = 1, **fields: Any) -> Answer:
        body = {"model": "chat", "input": text, "background": True, **fields}
        return await self.sends("POST", "/v1/responses", times=times, json=body)

    async def completes(self, count: int = 1, **fields: Any) -> Answer:
        body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}] * count, **fields}
        return await self.sends("POST", "/v1/chat/completions", json=body)

    async def uploads(self, content: bytes, *, times: int = 1, purpose: str = "user_data") -> Answer:
        files = {"file": ("a.txt", content)}
        return await self.sends("POST", "/v1/files", times=times, files=files, data={"purpose": purpose})

    async def talked(self) -> tuple[str, str]:
        """The ids of a response of the user's and of its conversation."""
        accepted = await self.turns.exchange(self.user_id, "hello", "hello yourself")
        return accepted.response_id, to_wire(Prefix.CONVERSATION, accepted.conversation_id)

    async def shares(self, *, times: int = 1, **asked: Any) -> Answer:
        _, conversation_id = await self.talked()
        return await self.sends("POST", f"/v1/conversations/{conversation_id}/shares", times=times, json=asked)

    async def copies(self) -> Answer:
        _, conversation_id = await self.talked()
        made = await self.http.post(f"/v1/conversations/{conversation_id}/shares", json={})
        return await self.sends("POST", f"/v1/shares/{made.json()['token']}/copy")

    async def says(self, *parts: bytes) -> Answer:
        """What a bare connection is answered that sends `parts`, and then nothing."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.served.port)
        try:
            for part in parts:
                writer.write(part)
            await writer.drain()
            async with asyncio.timeout(10):
                return Answer.of_raw(await reader.read())
        finally:
            writer.close()

    def head(self, path: str, *lines: str) -> bytes:
        token = f"Bearer {token_of(self.user_id)}"
        return "\r\n".join([f"POST {path} HTTP/1.1", "host: x", f"authorization: {token}", *lines, "", ""]).encode()


Reach: TypeAlias = Callable[[Limited], Awaitable[Answer]]


@dataclass(frozen=True)
class Case:
    """How a limit is reached: with this value of it, `and_` these settings, by what `reach` does."""

    value: Any
    reach: Reach
    and_: Mapping[str, Any] = field(default_factory=dict)


async def _by_connections(of: Limited) -> Answer:
    _, other = await asyncio.open_connection("127.0.0.1", of.served.port)
    try:
        await wait_until(_has_connections(of, 1))
        return await of.sends("GET", "/health/live")
    finally:
        other.close()


def _has_connections(of: Limited, count: int) -> Callable[[], Awaitable[bool]]:
    async def has() -> bool:
        return of.served.connection_count >= count

    return has


async def _by_strangers(of: Limited) -> Answer:
    for _ in range(3):
        answer = await of.stranger.get("/v1/models")
    return Answer.of(answer)


async def _by_reading_shares(of: Limited) -> Answer:
    for _ in range(2):
        answer = await of.stranger.get(f"/v1/shares/{'A' * 43}")
    return Answer.of(answer)


async def _by_logging_in(of: Limited) -> Answer:
    for _ in range(2):
        answer = await of.stranger.post("/session/dev", json={"user_id": "ada"})
    return Answer.of(answer)


async def _by_logging_out(of: Limited) -> Answer:
    for _ in range(2):
        token = token_of(of.user_id, jti=uuid7().hex)
        answer = await of.stranger.delete("/session", headers={"authorization": f"Bearer {token}"})
    return Answer.of(answer)


def _dripping(path: str, length: int) -> Reach:
    async def drip(of: Limited) -> Answer:
        return await of.says(of.head(path, "content-type: application/json", f"content-length: {length}"), b"{")

    return drip


def _transferring(*, others: bool) -> Reach:
    async def transfer(of: Limited) -> Answer:
        with of.services.transfers.take("somebody" if others else of.user_id):
            return await of.asks(filler="x" * 300_000)

    return transfer


async def _by_a_statement_that_waits(of: Limited) -> Answer:
    owner = await asyncpg.connect(of.owner_url)
    try:
        async with owner.transaction():
            await owner.execute("lock table conversations in access exclusive mode")
            return await of.sends("GET", "/v1/conversations")
    finally:
        await owner.close()


async def _by_a_reason(of: Limited) -> Answer:
    response_id, _ = await of.talked()
    return await of.sends("PUT", f"/v1/responses/{response_id}/feedback", json={"rating": "negative", "reason": "no"})


async def _by_what_all_have_asked(of: Limited) -> Answer:
    await of.turns.ask("somebody", "hello")
    return await of.asks()


async def _by_spent_tokens(of: Limited) -> Answer:
    async with of.turns.persistence.transaction(None) as db:
        await db.execute(
            """
            insert into usage_by_day (user_id, day, response_count, input_tokens)
            values ($1, (clock_timestamp() at time zone 'utc')::date, 1, 7)
            """,
            of.user_id,
        )
    return await of.asks()


def _streaming(*, others: bool) -> Reach:
    async def stream(of: Limited) -> Answer:
        response_id, _ = await of.talked()
        with of.services.answers.stream_slot("somebody" if others else of.user_id):
            return await of.sends("GET", f"/v1/responses/{response_id}?stream=true")

    return stream


def _following(*, others: bool) -> Reach:
    async def follow(of: Limited) -> Answer:
        async with (
            of.served.client("somebody" if others else of.user_id) as client,
            client.stream("GET", "/v1/events") as feed,
        ):
            assert feed.status_code == httpx2.codes.OK
            return await of.sends("GET", "/v1/events")

    return follow


def _waiting(*, others: bool) -> Reach:
    async def wait(of: Limited) -> Answer:
        with of.services.answers.wait_slot("somebody" if others else of.user_id):
            return await of.asks(background=False)

    return wait


def _completing(*, others: bool) -> Reach:
    async def complete(of: Limited) -> Answer:
        with of.services.completions.slot("somebody" if others else of.user_id):
            return await of.completes()

    return complete


def _exporting(*, others: bool) -> Reach:
    async def export(of: Limited) -> Answer:
        with of.services.exports.take("somebody" if others else of.user_id):
            return await of.sends("GET", "/api/{user}/export")

    return export


async def _by_an_old_session(of: Limited) -> Answer:
    begun = await of.http.post("/session")
    assert begun.status_code == httpx2.codes.CREATED
    cookie = {"cookie": begun.headers["set-cookie"].partition(";")[0]}

    async def is_over() -> Answer | None:
        answer = await of.stranger.get("/session", headers=cookie)
        return None if answer.status_code == httpx2.codes.OK else Answer.of(answer)

    over = await wait_until(is_over)
    assert over is not None
    return over


async def _by_a_long_life(of: Limited) -> Answer:
    token = token_of(of.user_id, lifetime_seconds=3_600)
    return Answer.of(await of.stranger.get("/api/conversations", headers={"authorization": f"Bearer {token}"}))


def _known_by_the_provider(mood: str = "well", key: Any = None, kid: str = "rsa-1", *, late: bool = False) -> Reach:
    """By a token of the provider's, which is in this mood; `late`: after its keys were there for a while."""

    async def ask(of: Limited) -> Answer:
        of.provider.mood = mood
        token = provider_token(key, kid=kid) if key else provider_token()
        headers = {"authorization": f"Bearer {token}"}

        async def is_refused() -> Answer | None:
            answer = await of.stranger.get("/api/conversations", headers=headers)
            return None if late and answer.status_code == httpx2.codes.OK else Answer.of(answer)

        refused = await wait_until(is_refused)
        assert refused is not None
        return refused

    return ask


def _posting(path: str, body: Any, *, times: int = 1) -> Reach:
    async def post(of: Limited) -> Answer:
        return await of.sends("POST", path, json=body, times=times)

    return post


_MESSAGE = {"role": "user", "content": "hi"}
_TWO_PARTS = {"role": "user", "content": [{"type": "input_text", "text": "hi"}] * 2}
_TOOLS = [{"type": "function", "name": name} for name in ("one", "two")]
_DEEP = {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": 1}}}}}}}}}
_ENDPOINT = {"name": "x", "url": "https://example.com/hook", "event_types": ["response.failed"]}

_CASES: Mapping[str, Case] = {
    "GATEWAY_CONNECTIONS_MAX": Case(1, _by_connections),
    "GATEWAY_HEAD_BYTES_MAX": Case(1_024, lambda of: of.says(b"GET / HTTP/1.1\r\nx: ", b"x" * 2_000)),
    "GATEWAY_HEAD_SECONDS_MAX": Case(0.2, lambda of: of.says(b"GET / HTT")),
    "GATEWAY_REQUESTS_BURST_MAX": Case(1, lambda of: of.asks(times=2), _AT_ONCE),
    "GATEWAY_REQUESTS_PER_SECOND_MAX": Case(_SLOW, lambda of: of.asks(times=2), _AT_ONCE),
    "GATEWAY_ANONYMOUS_REQUESTS_BURST_MAX": Case(1, _by_strangers, {**_AT_ONCE_ANONYMOUS, "read_request_cost": 1.0}),
    "GATEWAY_ANONYMOUS_REQUESTS_PER_SECOND_MAX": Case(
        _SLOW, _by_strangers, {**_AT_ONCE_ANONYMOUS, "read_request_cost": 1.0}
    ),
    "GATEWAY_SHARE_READS_PER_MINUTE_MAX": Case(1, _by_reading_shares),
    "GATEWAY_LOGINS_PER_MINUTE_MAX": Case(1, _by_logging_in),
    "GATEWAY_BODY_BYTES_MAX": Case(1_024, _posting("/api/chat", {"message": "x" * 1_024})),
    "GATEWAY_BODY_SECONDS_MAX": Case(0.2, _dripping("/api/chat", 100)),
    "GATEWAY_LARGE_BODY_BYTES_MAX": Case(1_024, lambda of: of.asks(filler="x" * 1_024)),
    "GATEWAY_LARGE_BODY_SECONDS_MAX": Case(0.2, _dripping("/v1/responses", 300_000)),
    "GATEWAY_JSON_DEPTH_MAX": Case(8, _posting("/v1/conversations", {"filler": _DEEP})),
    "GATEWAY_JSON_VALUES_MAX": Case(1_000, _posting("/v1/conversations", {"filler": [0] * 1_000})),
    "GATEWAY_TRANSFERS_PER_USER_MAX": Case(1, _transferring(others=False)),
    "GATEWAY_TRANSFERS_MAX": Case(1, _transferring(others=True)),
    "GATEWAY_DATABASE_SECONDS_MAX": Case(0.3, _by_a_statement_that_waits),
    "GATEWAY_MESSAGE_CHARS_MAX": Case(5, _posting("/api/chat", {"message": "hello!"})),
    "GATEWAY_INPUT_CHARS_MAX": Case(5, lambda of: of.asks("hello!")),
    "GATEWAY_INPUT_ITEMS_MAX": Case(1, lambda of: of.asks(input=[_MESSAGE, _MESSAGE])),
    "GATEWAY_INPUT_PARTS_MAX": Case(1, lambda of: of.asks(input=[_TWO_PARTS])),
    "GATEWAY_TOOLS_MAX": Case(1, lambda of: of.asks(tools=_TOOLS)),
    "GATEWAY_OPTIONS_BYTES_MAX": Case(1_024, lambda of: of.asks(instructions="x" * 2_000)),
    "GATEWAY_COMPLETION_MESSAGES_MAX": Case(1, lambda of: of.completes(2)),
    "GATEWAY_FEEDBACK_CHARS_MAX": Case(1, _by_a_reason),
    "GATEWAY_SHARE_COPY_ITEMS_MAX": Case(1, Limited.copies),
    "GATEWAY_SHARE_COPY_CHARS_MAX": Case(1, Limited.copies),
    "GATEWAY_FILE_BYTES_MAX": Case(10, lambda of: of.uploads(b"hello world")),
    "GATEWAY_IMAGE_PIXELS_MAX": Case(5, lambda of: of.uploads(png(2, 3), purpose="vision")),
    "GATEWAY_OPEN_JOBS_PER_USER_MAX": Case(1, lambda of: of.asks(times=2)),
    "GATEWAY_OPEN_JOBS_MAX": Case(1, _by_what_all_have_asked),
    "GATEWAY_TOKENS_PER_DAY_MAX": Case(7, _by_spent_tokens),
    "GATEWAY_FILE_BYTES_PER_USER_MAX": Case(10, lambda of: of.uploads(b"hello world")),
    "GATEWAY_FILES_PER_USER_MAX": Case(1, lambda of: of.uploads(b"hello", times=2)),
    "GATEWAY_TASKS_PER_USER_MAX": Case(1, _posting("/api/{user}/tasks", {"title": "milk"}, times=2)),
    "GATEWAY_WEBHOOK_ENDPOINTS_PER_USER_MAX": Case(1, _posting("/v1/webhook_endpoints", _ENDPOINT, times=2)),
    "GATEWAY_SHARES_PER_USER_MAX": Case(1, lambda of: of.shares(times=2)),
    "GATEWAY_SHARE_SECONDS_MAX": Case(60.0, lambda of: of.shares(expires_in_seconds=61)),
    "GATEWAY_STREAMS_PER_USER_MAX": Case(1, _streaming(others=False)),
    "GATEWAY_STREAMS_MAX": Case(1, _streaming(others=True)),
    "GATEWAY_FEEDS_PER_USER_MAX": Case(1, _following(others=False)),
    "GATEWAY_FEEDS_MAX": Case(1, _following(others=True)),
    "GATEWAY_WAITS_PER_USER_MAX": Case(1, _waiting(others=False)),
    "GATEWAY_WAITS_MAX": Case(1, _waiting(others=True)),
    "GATEWAY_COMPLETIONS_PER_USER_MAX": Case(1, _completing(others=False)),
    "GATEWAY_COMPLETIONS_MAX": Case(1, _completing(others=True)),
    "GATEWAY_COMPLETION_SECONDS_MAX": Case(0.3, lambda of: of.completes(), {"openai_base_url": _HANGS}),
    "GATEWAY_COMPLETION_SILENCE_SECONDS_MAX": Case(
        0.3, lambda of: of.completes(stream=True), {"openai_base_url": _HANGS}
    ),
    "GATEWAY_COMPLETION_BYTES_MAX": Case(1_024, lambda of: of.completes(), {"openai_base_url": _TALKS}),
    "GATEWAY_EXPORTS_PER_USER_MAX": Case(1, _exporting(others=False)),
    "GATEWAY_EXPORTS_MAX": Case(1, _exporting(others=True)),
    "GATEWAY_EXPORTS_PER_HOUR_MAX": Case(1, lambda of: of.sends("GET", "/api/{user}/export", times=2)),
    "GATEWAY_LOGOUTS_PER_USER_MAX": Case(1, _by_logging_out),
    "GATEWAY_SESSION_SECONDS_MAX": Case(1.0, _by_an_old_session, {"jwt_leeway_seconds": 0.0}),
    "JWT_LIFETIME_SECONDS_MAX": Case(60.0, _by_a_long_life),
    "JWT_JWKS_BYTES_MAX": Case(1_024, _known_by_the_provider("says too much")),
    "JWT_JWKS_KEYS_MAX": Case(1, _known_by_the_provider(key=OTHER_RSA_KEY, kid="rsa-2")),
    "JWT_JWKS_SECONDS_MAX": Case(0.2, _known_by_the_provider("hangs")),
    "JWT_JWKS_STALE_SECONDS_MAX": Case(0.2, _known_by_the_provider(late=True)),
}


def test_every_limit_with_a_code_is_reached_here() -> None:
    assert _TOLD.keys() == _CASES.keys()


@pytest.mark.parametrize("name", _CASES)
async def test_whoever_reaches_a_limit_is_answered_as_is_written_and_counted(
    name: str, serve: Serve, turns: Turns, database_urls: dict[str, str]
) -> None:
    case, (status, code) = _CASES[name], _TOLD[name]
    setting = name.removeprefix("GATEWAY_").lower()

    async with _limited(serve, turns, database_urls["owner"], {**case.and_, setting: case.value}) as limited:
        before = _count(code)
        answer = await case.reach(limited)

    assert answer.status == status, answer.text
    assert f'"{code}"' in answer.text
    assert ("retry-after" in answer.headers) is (status in _WAITING_STATUSES)
    assert _count(code) > before


@asynccontextmanager
async def _limited(serve: Serve, turns: Turns, owner_url: str, changes: dict[str, Any]) -> AsyncIterator[Limited]:
    provider = Provider(keys=[rsa_jwk("rsa-1"), rsa_jwk("rsa-2", OTHER_RSA_KEY)])
    async with AsyncExitStack() as stack:
        if "openai_base_url" in changes:
            endpoint = _hang if changes["openai_base_url"] == _HANGS else _talk
            changes["openai_base_url"] = f"{await stack.enter_async_context(served(endpoint))}/v1"
        if any(setting.startswith("jwt_jwks") for setting in changes):
            provider.url = await stack.enter_async_context(served(provider))
            changes |= {
                "jwt_jwks_url": f"{provider.url}/jwks",
                "jwt_jwks_issuer": ISSUER,
                "jwt_jwks_audience": AUDIENCE,
            }
        limited = Limited(
            await stack.enter_async_context(serve(**changes)), f"user-{uuid7().hex}", turns, owner_url, provider
        )
        stack.push_async_callback(limited.close)
        yield limited


def _count(code: str) -> float:
    return metrics.REFUSED.labels(code).read()


async def _hang(scope: Scope, receive: Receive, _send: Send) -> None:
    assert scope["type"] == "http"
    while (await receive())["type"] != "http.disconnect":
        pass


async def _talk(scope: Scope, _receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b'{"choices": [' + b" " * 4_096 + b"]}"})
