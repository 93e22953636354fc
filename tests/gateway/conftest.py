"""The gateway as an application in the test's process, on a real Postgres; RabbitMQ is away unless a test brings it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from gateway.app import create_app, create_internal_app
from gateway.http_server import Server, listening_socket, server_of
from gateway.settings import GatewaySettings
from gateway.until import Signal
from shared.db import Database
from shared.ids import uuid7
from shared.settings import Profile
from tests.support.stack import JWT_SECRET, token_of
from tests.support.turns import Turns
from tests.support.waiting import wait_until

NO_BROKER = "amqp://nobody:7d1f0c@127.0.0.1:1/"


@pytest.fixture(scope="module")
def gateway_settings(database_urls: dict[str, str]) -> GatewaySettings:
    return GatewaySettings(
        profile=Profile.LOCAL,
        database_url=database_urls["parley_gateway"],
        rabbitmq_url=NO_BROKER,
        jwt_secret=JWT_SECRET,
        tasks_per_user_max=150,
        # A test asks as fast as it can, and all are at one address.
        requests_burst_max=1_000_000,
        anonymous_requests_burst_max=1_000_000,
    )


@pytest.fixture(scope="module")
async def gateway(gateway_settings: GatewaySettings) -> AsyncIterator[FastAPI]:
    app = create_app(gateway_settings)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture(scope="module")
async def turns(database_urls: dict[str, str]) -> AsyncIterator[Turns]:
    async with AsyncExitStack() as stack:
        databases = []
        for role in ("parley_gateway", "parley_persistence"):
            database = await Database.connect(database_urls[role], application_name="test", pool_size=2)
            stack.push_async_callback(database.close)
            databases.append(database)
        as_gateway, as_persistence = databases
        yield Turns(as_gateway, as_persistence, database_urls["owner"])


GatewayWith = Callable[[GatewaySettings], FastAPI]


@pytest.fixture
def gateway_with(gateway: FastAPI) -> GatewayWith:
    """Makes applications with settings of their own, on the gateway's services."""

    def gateway_with(settings: GatewaySettings) -> FastAPI:
        app = create_app(settings)
        app.state.services = replace(gateway.state.services, settings=settings)
        return app

    return gateway_with


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
def operator(gateway: FastAPI) -> Caller:
    """A user with the role `admin`."""
    user_id = f"operator-{uuid7().hex}"
    return Caller(gateway, user_id, token_of(user_id, roles=["admin"]))


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
    def internal_port(self) -> int:
        assert self.server.companion is not None
        port: int = self.server.companion.servers[0].sockets[0].getsockname()[1]
        return port

    @property
    def connection_count(self) -> int:
        return len(self.server.server_state.connections)


Serve = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serve(gateway_settings: GatewaySettings) -> Serve:
    """`async with serve(send_timeout_seconds=1) as served`: a gateway with settings of its own."""

    def serve(**changed: Any) -> AbstractAsyncContextManager[Served]:
        return serving(gateway_settings.model_copy(update=changed))

    return serve


@asynccontextmanager
async def serving(settings: GatewaySettings) -> AsyncIterator[Served]:
    """A gateway with these settings, on a free port."""
    settings = settings.model_copy(update={"port": 0})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Server, "capture_signals", _leave_signals_alone)
        stopping = Signal()
        app = create_app(settings, stopping)
        server = server_of(app, settings, stopping, internal_app=create_internal_app(app))
        listener = listening_socket(server.config, settings.send_timeout_seconds)
        running = asyncio.create_task(server.serve([listener]))

        async def has_started() -> bool:
            assert not running.done(), "the gateway did not start"
            return server.started and (server.companion is None or server.companion.started)

        try:
            await wait_until(has_started)
            yield Served(listener.getsockname()[1], server)
        finally:
            stopping.set()
            server.should_exit = True
            await running


@contextmanager
def _leave_signals_alone(_server: Server) -> Iterator[None]:
    yield
