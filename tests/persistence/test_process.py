"""`python -m persistence` as a process."""

import asyncio
import json
import signal
import socket
import sys
import urllib.error
import urllib.request
from typing import Any

from tests.support.waiting import wait_until


async def test_the_process_becomes_ready_and_stops_in_order(database_urls: dict[str, str], rabbitmq_url: str) -> None:
    port = _free_port()
    environment = {
        "PERSISTENCE_DATABASE_URL": database_urls["parley_persistence"],
        "PERSISTENCE_PORT": str(port),
        "RABBITMQ_URL": rabbitmq_url,
    }

    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "persistence", env=environment)
    try:
        await wait_until(lambda: _answers(port, "/health/ready", 200), seconds=30)
        assert await asyncio.to_thread(_get, port, "/health/live") == (200, {"status": "ok"})
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15) in {0, -signal.SIGTERM}
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_without_a_broker_the_process_lives_but_is_not_ready(database_urls: dict[str, str]) -> None:
    port = _free_port()
    environment = {
        "PERSISTENCE_DATABASE_URL": database_urls["parley_persistence"],
        "PERSISTENCE_PORT": str(port),
        "RABBITMQ_URL": f"amqp://nobody:7d1f0c@127.0.0.1:{_free_port()}/",
    }

    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "persistence", env=environment)
    try:
        await wait_until(lambda: _answers(port, "/health/live", 200), seconds=30)
        status, body = await asyncio.to_thread(_get, port, "/health/ready")
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 15)

    assert (status, body["dependencies"]) == (503, {"postgres": "up", "rabbitmq": "down"})


async def _answers(port: int, path: str, status: int) -> bool:
    try:
        return (await asyncio.to_thread(_get, port, path))[0] == status
    except OSError:
        return False


def _get(port: int, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
