"""Where Postgres and RabbitMQ come from: a given URL, programs of this system, unpacked packages, or Docker."""

import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from deploy.local import containers, packages, postgres, rabbitmq
from deploy.local.places import Places
from deploy.local.terminal import Failure, say

PORT_NAMES = ("postgres", "rabbitmq", "rabbitmq-management", "rabbitmq-distribution", "rabbitmq-epmd")
_HOW_TO_INSTALL = {
    "postgres": "install PostgreSQL 14 or newer, or Docker, or set DATABASE_URL",
    "rabbitmq": "install RabbitMQ 3.10 or newer, or Docker, or set RABBITMQ_URL",
}


class Server(Protocol):
    """A server that the stack needs, whoever runs it."""

    @property
    def name(self) -> str: ...

    @property
    def url(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def is_running(self) -> bool: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


@dataclass(frozen=True)
class GivenServer:
    """A server that somebody else runs: never started or stopped by us."""

    name: str
    url: str
    variable: str
    default_port: int

    @property
    def description(self) -> str:
        return f"given by {self.variable}"

    @property
    def is_running(self) -> bool:
        return True  # not ours to watch

    def start(self) -> None:
        """See that something answers at its address."""
        parts = urlsplit(self.url)
        if not parts.hostname:
            return  # a socket in the file system, named by the query
        try:
            socket.create_connection((parts.hostname, parts.port or self.default_port), timeout=5).close()
        except OSError as error:
            place = f"{parts.hostname}:{parts.port or self.default_port}"
            raise Failure(
                f"{self.variable} names {place}, which does not answer ({error}): start it or correct it"
            ) from error
        say(self.name, self.description)

    def stop(self) -> None:
        """Leave it alone."""


@dataclass(frozen=True)
class Wanted:
    """One pair of servers: the user's settings, and where and how to run what these do not give."""

    user: Mapping[str, str]
    places: Places
    folder: Path
    ports: Mapping[str, int]
    secrets: Mapping[str, str]
    durable: bool = True

    @property
    def unpacked(self) -> packages.Unpacked:
        return packages.Unpacked(self.places.servers / "packages")


def provide(wanted: Wanted) -> tuple[Server, Server]:
    """Postgres and RabbitMQ, not yet started. Fetches packages where nothing else gives them.

    Raises Failure that says what to install when there is no way.
    """
    found = {"postgres": _postgres(wanted), "rabbitmq": _rabbitmq(wanted)}
    package_of = {"postgres": "postgresql", "rabbitmq": "rabbitmq-server"}
    missing = [package_of[name] for name, server in found.items() if server is None]
    if missing and packages.are_available():
        _fetch(wanted, missing)
        found = {"postgres": _postgres(wanted), "rabbitmq": _rabbitmq(wanted)}
    return (
        found["postgres"] or _in_container("postgres", wanted),
        found["rabbitmq"] or _in_container("rabbitmq", wanted),
    )


def start(both: tuple[Server, Server]) -> None:
    """Start both at the same time; returns when both are ready. Raises the first one's Failure."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(lambda server: server.start(), both))


def _fetch(wanted: Wanted, names: list[str]) -> None:
    try:
        wanted.unpacked.add(names)
    except Failure as failure:
        if not containers.are_available():
            raise
        say("packages", f"{failure}; using Docker instead")


def _postgres(wanted: Wanted) -> Server | None:
    if url := wanted.user.get("DATABASE_URL"):
        return GivenServer("postgres", url, "DATABASE_URL", 5432)
    folder = wanted.folder / "postgres"
    major = _data_version(folder)
    programs = postgres.installed(major) or postgres.unpacked(wanted.unpacked, major)
    if programs is None:
        return None
    return postgres.PrivatePostgres(
        programs,
        folder,
        wanted.ports["postgres"],
        wanted.secrets["postgres"],
        account=wanted.places.account,
        durable=wanted.durable,
    )


def _data_version(folder: Path) -> int | None:
    """The version that made the data in `folder`: no other can read them."""
    record = folder / "data" / "PG_VERSION"
    return int(record.read_text()) if record.exists() else None


def _rabbitmq(wanted: Wanted) -> Server | None:
    if url := wanted.user.get("RABBITMQ_URL"):
        return GivenServer("rabbitmq", url, "RABBITMQ_URL", 5672)
    programs = rabbitmq.installed() or rabbitmq.unpacked(wanted.unpacked)
    if programs is None:
        return None
    ports = rabbitmq.RabbitPorts(*(wanted.ports[name] for name in PORT_NAMES[1:]))
    return rabbitmq.PrivateRabbit(programs, wanted.folder / "rabbitmq", ports, wanted.secrets["rabbitmq"])


def _in_container(name: str, wanted: Wanted) -> Server:
    if not containers.are_available():
        stale = _data_version(wanted.folder / "postgres") if name == "postgres" else None
        reason = f" {stale}, which made the data of this checkout," if stale else ""
        raise Failure(f"found no {name}{reason} and no way to get it: {_HOW_TO_INSTALL[name]}")
    return containers.server(name, wanted.folder, wanted.ports, wanted.secrets[name])
