"""Databases and virtual hosts of a test's own, on the servers that the environment names."""

import asyncio
import atexit
import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import aio_pika
import asyncpg
import httpx2

from deploy.local import rabbitmq
from deploy.local.credentials import role_password
from shared.db.migrate import ROLES, migrate
from shared.ids import uuid7
from shared.messaging import declare_topology
from tests.support.services import private_rabbit

PARTITION_COUNT = 4  # as the services' default


@dataclass(frozen=True)
class Backends:
    """What a stack runs on: a migrated database (URLs by role, and `owner`), and a broker without queues.

    `rabbitmq_url` is the administrator's.
    """

    database_urls: Mapping[str, str]
    rabbitmq_url: str


@contextmanager
def new_database(server: str | None = None) -> Iterator[dict[str, str]]:
    """A freshly migrated database: URLs for `owner` and for each service's role. Dropped afterwards.

    `server` is the owner's URL of a server other than the tests' common one.
    """
    template = "template1"
    if server is None:
        server = _required("DATABASE_URL")
        template = _template(server)
    name = _new_name()
    asyncio.run(execute(server, f'create database "{name}" template "{template}"'))
    try:
        yield _migrated(server, name)
    finally:
        asyncio.run(execute(server, f'drop database "{name}" with (force)'))


@functools.cache
def _template(server: str) -> str:
    """The name of a migrated database, to be copied: that takes a tenth of the time of all migrations."""
    name = _new_name()
    asyncio.run(execute(server, f'create database "{name}"'))
    atexit.register(lambda: asyncio.run(execute(server, f'drop database "{name}" with (force)')))
    _migrated(server, name)
    return name


def _new_name() -> str:
    return f"parley_test_{uuid7().hex}"


def _migrated(server: str, name: str) -> dict[str, str]:
    urls = {"owner": at(server, name), **{role: at(server, name, role) for role in ROLES}}
    asyncio.run(migrate(urls["owner"], [urls[role] for role in ROLES]))
    return urls


@contextmanager
def new_broker() -> Iterator[str]:
    """The administrator's URL of a virtual host of its own, with the services' users and rights, policies and topology.

    It is on a RabbitMQ of its own where there is no management API to make one.
    """
    management = os.environ.get("RABBITMQ_MANAGEMENT_URL")
    if management is None:
        with private_rabbit() as rabbit:
            asyncio.run(_declare_topology(rabbit.url))
            yield rabbit.url
        return
    url, name = _required("RABBITMQ_URL"), f"test-{uuid7().hex}"
    user = quote(urlsplit(url).username or "guest")
    with httpx2.Client(base_url=f"{management}/api", timeout=30) as api:
        api.put(f"/vhosts/{name}").raise_for_status()
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        api.put(f"/permissions/{name}/{user}", json=everything).raise_for_status()
        own_url = urlsplit(url)._replace(path=f"/{name}").geturl()
        _grant(api, rabbitmq.definitions(own_url, name))
        try:
            asyncio.run(_declare_topology(own_url))
            yield own_url
        finally:
            api.delete(f"/vhosts/{name}").raise_for_status()


def _grant(api: httpx2.Client, definitions: Mapping[str, Any]) -> None:
    """Make the users, and say what they may do in the definitions' virtual host, and which policies hold there."""
    for user in definitions["users"]:
        api.put(f"/users/{user['name']}", json=user).raise_for_status()
    for permission in definitions["permissions"]:
        api.put(f"/permissions/{permission['vhost']}/{permission['user']}", json=permission).raise_for_status()
    for policy in definitions["policies"]:
        api.put(f"/policies/{policy['vhost']}/{policy['name']}", json=policy).raise_for_status()


async def _declare_topology(url: str) -> None:
    """As persistence does, for tests that start no persistence."""
    connection = await aio_pika.connect(url)
    async with connection:
        await declare_topology(await connection.channel(), PARTITION_COUNT)


@contextmanager
def new_backends() -> Iterator[Backends]:
    with new_database() as database_urls, new_broker() as rabbitmq_url:
        yield Backends(database_urls, rabbitmq_url)


def _required(variable: str) -> str:
    value = os.environ.get(variable)
    assert value, f"{variable} is not set: run the tests with ./dev test"
    return value


def at(url: str, database: str, role: str | None = None) -> str:
    parts = urlsplit(url)
    credentials, at, host = parts.netloc.rpartition("@")
    if role is not None:
        credentials, at = f"{role}:{role_password(role, url)}", "@"
    return parts._replace(scheme="postgresql", netloc=f"{credentials}{at}{host}", path=f"/{database}").geturl()


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
