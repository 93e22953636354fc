"""The gateway as an application in the test's process, on a real Postgres; RabbitMQ is away unless a test brings it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import httpx2
import pytest
from fastapi import FastAPI

from gateway.app import create_app
from gateway.settings import GatewaySettings
from shared.db import Database
from shared.ids import uuid7
from shared.settings import Profile
from tests.support.stack import JWT_SECRET, token_of
from tests.support.turns import Turns

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
