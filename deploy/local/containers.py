"""Postgres and RabbitMQ in Docker containers, where nothing else provides them."""

import json
import os
import shutil
import subprocess
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local import process
from deploy.local.ports import LOOPBACK
from deploy.local.postgres import DATABASE, OWNER, owner_url
from deploy.local.rabbitmq import USER, VHOST, answers_amqp, definitions, server_url
from deploy.local.terminal import Failure, last_line, say

_MARKER = ".container"  # an empty file postgres.container tells that Postgres once ran in a container
_START_SECONDS = 300.0  # the image may have to be pulled first


def are_available() -> bool:
    """Whether there is a Docker engine that answers this user."""
    if not shutil.which("docker"):
        return False
    return _docker("version", "--format", "{{.Server.Version}}").returncode == 0


def end_leftovers(folder: Path) -> None:
    """Stop the containers that servers of `folder` may still run in; their data stay."""
    for marker in folder.glob(f"*{_MARKER}"):
        _docker("rm", "--force", _container_name(marker.stem, folder))


def remove(folder: Path) -> None:
    """Remove the containers of the servers of `folder`, with their data."""
    end_leftovers(folder)
    for marker in folder.glob(f"*{_MARKER}"):
        _docker("volume", "rm", "--force", _container_name(marker.stem, folder))


def server(name: str, folder: Path, ports: Mapping[str, int], password: str) -> "Container":
    """The server `name` in a container. Its data are in a volume named after `folder`."""
    if name == "postgres":
        return Container(
            name,
            owner_url(ports["postgres"], password),
            folder,
            image="postgres:17",
            published={ports["postgres"]: 5432},
            data="/var/lib/postgresql/data",
            environment={"POSTGRES_USER": OWNER, "POSTGRES_DB": DATABASE, "POSTGRES_PASSWORD": password},
        )
    url = server_url(ports["rabbitmq"], password)
    return Container(
        name,
        url,
        folder,
        image="rabbitmq:4-management",
        published={ports["rabbitmq"]: 5672, ports["rabbitmq-management"]: 15672},
        data="/var/lib/rabbitmq",
        environment={
            "RABBITMQ_DEFAULT_USER": USER,
            "RABBITMQ_DEFAULT_PASS": password,
            "RABBITMQ_DEFAULT_VHOST": VHOST,
            "RABBITMQ_NODENAME": "parley@localhost",
        },
        definitions=json.dumps(definitions(url, VHOST)),
    )


@dataclass(frozen=True)
class Container:
    """A server in a container of its own, published on loopback only. `definitions` are RabbitMQ's, in JSON."""

    name: str
    url: str
    folder: Path
    image: str
    published: Mapping[int, int]
    data: str
    environment: Mapping[str, str]
    definitions: str | None = None

    @property
    def description(self) -> str:
        ports = ", ".join(str(port) for port in self.published)
        return f"{self.image} in Docker on port {ports}"

    @property
    def is_running(self) -> bool:
        shown = _docker("inspect", "--format", "{{.State.Running}}", self._own_name)
        return shown.stdout.strip() == "true"

    def start(self) -> None:
        """Start the container (a leftover one is replaced); returns when the server takes connections."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{self.name}{_MARKER}").touch()
        _docker("rm", "--force", self._own_name)
        say(self.name, f"starting {self.image} in Docker (pulled at the first time)")
        options = [f"--publish={LOOPBACK}:{ours}:{theirs}" for ours, theirs in self.published.items()]
        options += [f"--env={name}" for name in self.environment]  # values by environment: not in the process list
        options += [f"--volume={self._own_name}:{self.data}", f"--name={self._own_name}"]
        started = _docker("run", "--detach", "--rm", *options, self.image, environment=self.environment)
        if started.returncode:
            raise Failure(f"docker could not start {self.image}: {last_line(started.stdout)}")
        self._wait_until_ready()
        if self.definitions:
            self._import(self.definitions)
        say(self.name, self.description)

    def stop(self) -> None:
        _docker("stop", "--time", "20", self._own_name)

    @property
    def _own_name(self) -> str:
        return _container_name(self.name, self.folder)

    def _import(self, definitions: str) -> None:
        done = _docker("exec", "--interactive", self._own_name, "rabbitmqctl", "import_definitions", text=definitions)
        if done.returncode:
            self.stop()
            raise Failure(f"{self.image} did not take its users: {last_line(done.stdout)}")

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if time.monotonic() > deadline or not self.is_running:
                reason = last_line(_docker("logs", self._own_name).stdout)
                self.stop()
                raise Failure(f"{self.image} in Docker did not become ready: {reason}")
            time.sleep(0.3)

    def _answers(self) -> bool:
        if self.name == "rabbitmq":
            return answers_amqp(LOOPBACK, next(iter(self.published)))
        # Over TCP, because the server that fills the new data folder listens on its socket only.
        asked = _docker("exec", self._own_name, "pg_isready", "--quiet", f"--host={LOOPBACK}", f"--username={OWNER}")
        return asked.returncode == 0


def _container_name(name: str, folder: Path) -> str:
    return f"parley-{zlib.crc32(str(folder).encode()):08x}-{name}"


def _docker(
    *arguments: str, environment: Mapping[str, str] | None = None, text: str | None = None
) -> "subprocess.CompletedProcess[str]":
    return process.run(
        ["docker", *arguments], environment=os.environ | (environment or {}), directory=Path("/"), text=text
    )
