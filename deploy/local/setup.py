"""What `./dev up` and `./dev test` both need: Python packages and two running servers."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from deploy.local import process, servers, toolchain
from deploy.local.locks import waited_for
from deploy.local.places import Places
from deploy.local.servers import Server, Wanted


@contextmanager
def everything(wanted: Wanted) -> Iterator[tuple[Server, Server]]:
    """Install the Python packages and start Postgres and RabbitMQ, side by side; stop the servers after the block."""
    started: list[tuple[Server, Server]] = []

    def start_servers() -> None:
        started.append(servers.provide(wanted))
        servers.start(started[0])

    try:
        with waited_for(_lock(wanted.places), "setup"), ThreadPoolExecutor(max_workers=2) as pool:
            parts = [pool.submit(toolchain.sync, wanted.places), pool.submit(start_servers)]
            try:
                for part in parts:
                    part.result()
            except BaseException:  # whatever it is, an interrupt too: do not wait for what the other part still does
                process.interrupt_programs()
                _stop(started)
                raise
        yield started[0]
    finally:
        _stop(started)


def _stop(started: list[tuple[Server, Server]]) -> None:
    for server in (server for both in started for server in reversed(both)):
        server.stop()


def python_packages(places: Places) -> None:
    """Install the Python packages only."""
    with waited_for(_lock(places), "setup"):
        toolchain.sync(places)


def _lock(places: Places) -> Path:
    return places.local / "setup.lock"
