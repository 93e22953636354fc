"""Postgres and RabbitMQ of a test's own, which it may stop, kill and start again without hurting other tests."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from deploy.local import credentials, ports, servers, testing
from deploy.local.places import Places
from deploy.local.postgres import PrivatePostgres
from deploy.local.rabbitmq import PrivateRabbit
from deploy.local.servers import PORT_NAMES, Server, Wanted

_ServerT = TypeVar("_ServerT", bound=Server)


@contextmanager
def private_postgres(prepare: Callable[[PrivatePostgres], None] | None = None) -> Iterator[PrivatePostgres]:
    """A running Postgres with an empty database: `url` is its owner's; `stop`, `kill`, then `start` keep the data.

    `prepare` is called before it starts.
    """
    with _servers() as (server, _):
        assert isinstance(server, PrivatePostgres), "needs the programs of PostgreSQL, not Docker"
        if prepare:
            prepare(server)
        yield from _running(server)


@contextmanager
def private_rabbit(prepare: Callable[[PrivateRabbit], None] | None = None) -> Iterator[PrivateRabbit]:
    """A running RabbitMQ without queues: `stop`, `kill`, then `start` keep durable queues; `wipe` forgets them.

    `prepare` is called before it starts.
    """
    with _servers() as (_, server):
        assert isinstance(server, PrivateRabbit), "needs the programs of RabbitMQ, not Docker"
        if prepare:
            prepare(server)
        yield from _running(server)


@contextmanager
def _servers() -> Iterator[tuple[Server, Server]]:
    """A pair that is not started, in a folder and on ports that nobody else has."""
    places = Places.of()
    with testing.own_folder(places) as folder:
        numbers = dict(zip(PORT_NAMES, ports.free_ports(len(PORT_NAMES)), strict=True))
        yield servers.provide(Wanted({}, places, folder, numbers, credentials.made(), durable=False))


def _running(server: _ServerT) -> Iterator[_ServerT]:
    server.start()
    try:
        yield server
    finally:
        server.stop()
