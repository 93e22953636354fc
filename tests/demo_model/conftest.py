"""A demo model on a port of its own, and the unmodified OpenAI client in front of it."""

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import date

import httpx2
import pytest
import uvicorn
from openai import AsyncOpenAI

from demo_model.app import create_app
from demo_model.settings import Settings
from tests.demo_model.chats import TODAY

STOP_SECONDS_MAX = 10


def _served(settings: Settings) -> Iterator[str]:
    """Serve in a thread; the port listens before the thread starts, so nothing has to wait for it."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(settings, clock=lambda: date(TODAY.year, TODAY.month, TODAY.day))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(STOP_SECONDS_MAX)
    assert not thread.is_alive()
    listener.close()


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Base URL of a demo model without pauses, with directives on."""
    yield from _served(Settings(delay_ms=0, directives=True))


@pytest.fixture(scope="session")
def strict_address() -> Iterator[str]:
    """Base URL of a demo model with directives off, as outside of tests."""
    yield from _served(Settings(delay_ms=0))


@pytest.fixture(scope="session")
async def openai(address: str) -> AsyncIterator[AsyncOpenAI]:
    timeout = httpx2.Timeout(10)
    async with AsyncOpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0, timeout=timeout) as client:
        yield client


@pytest.fixture(scope="session")
async def http(address: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=address, timeout=10) as client:
        yield client
