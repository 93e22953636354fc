"""Stands between attackers and a gateway, passes everything on, and looks for broken promises in what comes back."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import asyncpg
import httpx2
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

DOCUMENT = "/openapi.json"  # has ids in its examples

_ID = re.compile(r"\b(?!req_)[a-z]{2,8}_[0-9a-f]{32}\b")
_OF_ONE_HOP = {"host", "content-length", "transfer-encoding", "connection", "date"}
_TABLES = """
select c.table_name from information_schema.columns c join pg_tables t on t.tablename = c.table_name
where t.schemaname = 'public' and c.column_name = 'user_id'
  and has_any_column_privilege('parley_gateway', c.table_name, 'INSERT')
  and not has_any_column_privilege('parley_worker', c.table_name, 'INSERT')
  and not has_any_column_privilege('parley_persistence', c.table_name, 'INSERT')
"""
_TABLES_MIN = 5


@dataclass
class Judge:
    """An ASGI application in front of the gateway at `http`. `users` are those of the tokens that attackers send.

    Each id in an answer belongs to the user who saw it first and was not asking for it. What names one in its path is
    asked by a stranger as well, before it is passed on.
    """

    http: httpx2.AsyncClient
    pool: "asyncpg.Pool[asyncpg.Record]"
    users: Mapping[str, str]
    stranger: str
    stranger_token: str
    owners: dict[str, str] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    reached: set[str] = field(default_factory=set)
    findings: list[str] = field(default_factory=list)
    _counting: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        request = Request(scope, receive)
        body = await request.body()
        user = self.users.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if user and any(self.owners.get(each) == user for each in _ID.findall(request.url.path)):
            await self._ask_as_stranger(request, body, user)
        before = await self.rows_of(user) if user else {}
        answer = await self._passed_on(request, body)
        self._look(request, body, answer, user)
        if user and answer.is_client_error and (after := await self.rows_of(user)) != before:
            self.findings.append(f"{request.method} {request.url} was refused ({answer.status_code}): {before} {after}")
        kept = {name: value for name, value in answer.headers.items() if name not in _OF_ONE_HOP}
        await Response(answer.content, answer.status_code, kept)(scope, receive, send)

    async def _ask_as_stranger(self, request: Request, body: bytes, user: str) -> None:
        answer = await self._passed_on(request, body, instead_of=user)
        self.statuses["a stranger's"] += 1
        if not answer.is_client_error:
            self.findings.append(f"{request.method} {request.url} for a stranger: {answer.status_code}")
        self._look(request, body, answer, self.stranger)

    async def _passed_on(self, request: Request, body: bytes, *, instead_of: str | None = None) -> httpx2.Response:
        headers = [(name, value) for name, value in request.headers.raw if name.decode() not in _OF_ONE_HOP]
        target = request.scope["raw_path"] + b"?" + request.scope["query_string"]
        if instead_of is not None:
            headers = [(name, value) for name, value in headers if name != b"authorization"]
            headers.append((b"authorization", f"Bearer {self.stranger_token}".encode()))
            target = target.replace(instead_of.encode(), self.stranger.encode())
        url = self.http.base_url.copy_with(raw_path=target)
        return await self.http.request(request.method, url, content=body, headers=headers)

    def _look(self, request: Request, body: bytes, answer: httpx2.Response, user: str | None) -> None:
        where = f"{request.method} {request.url} ({user}): {answer.status_code}"
        self.statuses[str(answer.status_code)] += 1
        if answer.is_success:
            self.reached.add(_ID.sub("*", f"{request.method} {request.url.path}"))
        if answer.is_server_error and answer.status_code != httpx2.codes.SERVICE_UNAVAILABLE:
            self.findings.append(where)
        if request.url.path == DOCUMENT:
            return
        asked_for = {*_ID.findall(str(request.url)), *_ID.findall(body.decode(errors="replace"))}
        for each in {*_ID.findall(answer.text)} - asked_for:
            if user is None or self.owners.setdefault(each, user) != user:
                self.findings.append(f"{where}: {each} is {self.owners.get(each)}'s")
        for other in {*self.users.values(), self.stranger} - {user}:
            if other in answer.text and other not in str(request.url) + body.decode(errors="replace"):
                self.findings.append(f"{where}: the name of {other}")

    async def rows_of(self, user: str) -> dict[str, int]:
        """How many rows there are of `user`, by table, in those that the gateway alone adds rows to."""
        async with self.pool.acquire() as connection:
            if self._counting is None:
                self._counting = await _counting(connection)
            return {row[0]: row[1] for row in await connection.fetch(self._counting, user)}


async def _counting(connection: "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]") -> str:
    tables = await connection.fetch(_TABLES)
    assert len(tables) >= _TABLES_MIN, "the gateway adds rows to more tables than that"
    counts = (f"select '{name}', count(*) from {name} where user_id = $1" for (name,) in tables)  # noqa: S608
    return " union all ".join(counts)
