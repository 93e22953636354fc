"""The gateway as an application in the test's process, on a real Postgres; RabbitMQ is away unless a test brings it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from gateway.app import create_app
from gateway.http_server import Server, listening_socket, server_of
from gateway.settings import GatewaySettings
from shared.db import Database
from shared.ids import uuid7
from shared.settings import Profile
from tests.support.stack import JWT_SECRET, token_of
from tests.support.turns import Turns
from tests.support.waiting import wait_until

NO_BROKER = "amqp://guest:guest@127.0.0.1:1/"


@pytest.fixture(scope="session")
def gateway_settings(database_urls: dict[str, str]) -> GatewaySettings:
    return GatewaySettings(
        profile=Profile.LOCAL,
        database_url=database_urls["parley_gateway"],
        rabbitmq_url=NO_BROKER,
        jwt_secret=JWT_SECRET,
        tasks_per_user_max=150,
    )


@pytest.fixture(scope="session")
async def gateway(gateway_settings: GatewaySettings) -> AsyncIterator[FastAPI]:
    app = create_app(gateway_settings)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture(scope="session")
async def turns(database_urls: dict[str, str]) -> AsyncIterator[Turns]:
    async with AsyncExitStack() as stack:
        databases = []
        for role in ("parley_gateway", "parley_persistence"):
            database = await Database.connect(database_urls[role], application_name="test", pool_size=2)
            stack.push_async_callback(database.close)
            databases.append(database)
        yield Turns(*databases)


class Caller(httpx2.AsyncClient):
    """A user who talks to the gateway."""

    def __init__(self, app: FastAPI, user_id: str, token: str | None) -> None:
        self.user_id = user_id
        super().__init__(
            transport=httpx2.ASGITransport(app),
            base_url="http://gateway",
            headers={"authorization": f"Bearer {token}"} if token else {},
        )


@pytest.fixture
def caller(gateway: FastAPI) -> Callable[[], Caller]:
    """Makes callers, each a user of its own."""

    def make() -> Caller:
        user_id = f"user-{uuid7().hex}"
        return Caller(gateway, user_id, token_of(user_id))

    return make


@pytest.fixture
def ada(caller: Callable[[], Caller]) -> Caller:
    return caller()


@pytest.fixture
def bob(caller: Callable[[], Caller]) -> Caller:
    return caller()


@pytest.fixture
def stranger(gateway: FastAPI) -> Caller:
    """Somebody without a token."""
    return Caller(gateway, "nobody", None)


@dataclass(frozen=True)
class Served:
    """A gateway on a real socket, by its own server."""

    port: int
    server: Server

    def client(self, user_id: str) -> httpx2.AsyncClient:
        headers = {"authorization": f"Bearer {token_of(user_id)}"}
        return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=30)

    @property
    def connection_count(self) -> int:
        return len(self.server.server_state.connections)


Serve = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serve(gateway_settings: GatewaySettings, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """`async with serve(send_timeout_seconds=1) as served`: a gateway with settings of its own."""
    monkeypatch.setattr(Server, "capture_signals", _leave_signals_alone)

    @asynccontextmanager
    async def serve(**changed: Any) -> AsyncIterator[Served]:
        settings = gateway_settings.model_copy(update={"port": 0, **changed})
        stopping = asyncio.Event()
        server = server_of(create_app(settings, stopping), settings, stopping)
        listener = listening_socket(server.config, settings.send_timeout_seconds)
        running = asyncio.create_task(server.serve([listener]))

        async def has_started() -> bool:
            assert not running.done(), "the gateway did not start"
            return server.started

        try:
            await wait_until(has_started)
            yield Served(listener.getsockname()[1], server)
        finally:
            stopping.set()
            server.should_exit = True
            await running

    return serve


@contextmanager
def _leave_signals_alone(_server: Server) -> Iterator[None]:
    yield
