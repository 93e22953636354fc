"""A private RabbitMQ server: own data, own ports, own epmd (Erlang's name server), own users, loopback only."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import urlsplit

from deploy.local import process
from deploy.local.credentials import role_password
from deploy.local.packages import Unpacked
from deploy.local.ports import LOOPBACK
from deploy.local.terminal import Failure, last_line, say, tail

USER = "parley"
VHOST = "parley"
# By the prefix of the variables of the service that is this user.
SERVICE_USERS = {
    "GATEWAY": "parley_gateway",
    "CHAT_WORKER": "parley_worker",
    "PERSISTENCE": "parley_persistence",
}
_FILES = Path(__file__).parents[1] / "rabbitmq"
_DEFINITIONS = ("definitions.json", "policies.json")
_OPERATOR = "parley_operator"
_START_SECONDS = 120.0
_STOP_SECONDS = 10.0  # asked to stop in the middle of its start, it may never do it
# At a stop the management plugin idles for five seconds, all being safely on disk: hence the shutdown time.
_ERLANG_OPTIONS = "-noinput +S 2:2 -shutdown_time 2000 -kernel inet_dist_use_interface {127,0,0,1}"
_HELLO = b"AMQP\0\0\x09\x01"


@dataclass(frozen=True)
class RabbitPrograms:
    """RabbitMQ's scripts and the Erlang that runs them."""

    scripts: Path
    erlang: Path
    loader_path: str = ""

    def environment(self) -> dict[str, str]:
        """The caller's environment without its own RabbitMQ settings, with Erlang on the path."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        path = f"{self.erlang}:{kept.get('PATH', os.defpath)}"
        return kept | {"PATH": path} | ({"LD_LIBRARY_PATH": self.loader_path} if self.loader_path else {})


def installed() -> RabbitPrograms | None:
    """The RabbitMQ of this system, or None.

    Debian's /usr/sbin/rabbitmq-server is passed over: it changes user and folder. The script behind it does not.
    """
    erl = shutil.which("erl")
    folders = [
        Path("/usr/lib/rabbitmq/bin"),
        Path("/opt/homebrew/opt/rabbitmq/sbin"),
        Path("/usr/local/opt/rabbitmq/sbin"),
    ]
    if (found := shutil.which("rabbitmq-server")) and Path(found).parent != Path("/usr/sbin"):
        folders.append(Path(found).resolve().parent)
    for folder in folders:
        if erl and (folder / "rabbitmq-server").exists():
            return RabbitPrograms(folder, Path(erl).parent)
    return None


def unpacked(packages: Unpacked) -> RabbitPrograms | None:
    """The RabbitMQ among the unpacked packages; Erlang is theirs, or the system's where that was there before."""
    scripts, erlang = packages.folder / "usr/lib/rabbitmq/bin", packages.folder / "usr/lib/erlang/bin"
    if not (scripts / "rabbitmq-server").exists():
        return None
    if not (erlang / "erl").exists():
        erlang = Path("/usr/lib/erlang/bin")
    return RabbitPrograms(scripts, erlang, packages.loader_path)


def server_url(port: int, password: str) -> str:
    """The administrator's connection to a server that we run."""
    return f"amqp://{USER}:{password}@{LOOPBACK}:{port}/{VHOST}"


def service_variables() -> list[str]:
    """The variables in which services find the connections of their own users."""
    return [f"{prefix}_RABBITMQ_URL" for prefix in SERVICE_USERS]


def service_urls(url: str) -> dict[str, str]:
    """The connections of the services to a server of which `url` is the administrator's, by their variables."""
    return {f"{prefix}_RABBITMQ_URL": _as_user(url, user) for prefix, user in SERVICE_USERS.items()}


def _as_user(url: str, user: str) -> str:
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{user}:{user_password(user, url)}@{place}").geturl()


def user_password(user: str, url: str) -> str:
    """The password of a service's user on a given server: who knows the administrator's URL knows it."""
    return role_password(user, urlsplit(url).password or "")


def definitions(url: str, vhost: str) -> dict[str, Any]:
    """The virtual host, users, permissions and policies of services, in RabbitMQ's form for `load_definitions`.

    `url` is the administrator's, who may do everything.
    """
    passwords = {f"{prefix}_RABBITMQ_PASSWORD": user_password(user, url) for prefix, user in SERVICE_USERS.items()}
    values = passwords | {"RABBITMQ_PASSWORD": user_password(_OPERATOR, url), "VHOST": vhost}
    # Not `substitute`: a `$` that ends a pattern stays.
    texts = (Template((_FILES / name).read_text()).safe_substitute(values) for name in _DEFINITIONS)
    return {key: value for text in texts for key, value in json.loads(text).items()}


@dataclass(frozen=True)
class RabbitPorts:
    amqp: int
    management: int
    distribution: int
    epmd: int


class PrivateRabbit:
    """A server with its files in `folder`; starting it again finds the same queues."""

    name = "rabbitmq"

    def __init__(self, programs: RabbitPrograms, folder: Path, ports: RabbitPorts, password: str) -> None:
        self.folder = folder
        self.ports = ports
        self.log = folder / "rabbitmq.log"
        # Of rabbitmq.conf, beside ours; for the next start.
        self.settings: Mapping[str, str] = {}
        self._programs = programs
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The administrator's connection; `service_urls` makes those of the services of it."""
        return server_url(self.ports.amqp, self._password)

    @property
    def management_url(self) -> str:
        """The management UI and API, with the credentials in it."""
        return f"http://{USER}:{self._password}@{LOOPBACK}:{self.ports.management}"

    @property
    def description(self) -> str:
        return f"RabbitMQ on port {self.ports.amqp}, management on http://{LOOPBACK}:{self.ports.management}"

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process, "not started"
        return self._process.pid

    def start(self) -> None:
        """Start the server; returns when it takes connections.

        A server that a former run left behind is ended first. Raises Failure with the reason from the log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._end_leftovers()
        self._write_configuration()
        environment = self._environment()
        if self._epmd is None or self._epmd.poll() is not None:
            # In the foreground and ours: Erlang would otherwise leave a daemon behind, shared with other checkouts.
            epmd = shutil.which("epmd", path=environment["PATH"]) or "epmd"
            self._epmd = process.start(
                [epmd], environment=environment, directory=self.folder, log=self.folder / "epmd.log"
            )
            process.record(self._epmd.pid, self.folder / "epmd.pid")
        self._process = process.start(
            [self._programs.scripts / "rabbitmq-server"], environment=environment, directory=self.folder, log=self.log
        )
        process.record(self._process.pid, self.folder / "rabbitmq.pid")
        self._wait_until_ready()
        say(self.name, self.description)

    def stop(self) -> None:
        """Stop the server in order; nothing happens when it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a crash would."""
        self._end(signal.SIGKILL)

    def wipe(self) -> None:
        """Forget every queue, message and user of the stopped server: it begins anew at the next start."""
        assert not self.is_running, "stop it first"
        shutil.rmtree(self.folder / "mnesia", ignore_errors=True)

    def control(self, *arguments: str) -> str:
        """Run rabbitmqctl against the running server and return what it prints."""
        command: list[str | Path] = [self._programs.scripts / "rabbitmqctl", "--quiet", *arguments]
        done = process.run(command, environment=self._environment(), directory=self.folder)
        if done.returncode:
            raise Failure(f"rabbitmqctl {arguments[0]} failed: {last_line(done.stdout)}")
        return done.stdout

    def _end(self, how: signal.Signals) -> None:
        for running, first in ((self._process, how), (self._epmd, signal.SIGTERM)):
            if running:
                process.end(running.pid, first, _STOP_SECONDS)
                running.wait()
        self._process = self._epmd = None
        for name in ("rabbitmq.pid", "epmd.pid"):
            (self.folder / name).unlink(missing_ok=True)

    def _end_leftovers(self) -> None:
        process.end_recorded(self.folder / "rabbitmq.pid", grace_seconds=_STOP_SECONDS)
        if self._epmd is None:
            process.end_recorded(self.folder / "epmd.pid")

    def _write_configuration(self) -> None:
        (self.folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        configuration = self.folder / "rabbitmq.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            f"listeners.tcp.1 = {LOOPBACK}:{self.ports.amqp}\n"
            f"management.tcp.ip = {LOOPBACK}\n"
            f"management.tcp.port = {self.ports.management}\n"
            f"load_definitions = {self._write_definitions()}\n"
            f"{_shared_configuration()}"
            "log.console = false\n" + "".join(f"{name} = {value}\n" for name, value in self.settings.items())
        )

    def _write_definitions(self) -> Path:
        found = definitions(self.url, VHOST)
        found["users"].append({"name": USER, "password": self._password, "tags": "administrator"})
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        found["permissions"].append({"user": USER, "vhost": VHOST, **everything})
        file = self.folder / "definitions.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(found))
        return file

    def _environment(self) -> dict[str, str]:
        folder = self.folder
        return self._programs.environment() | {
            "HOME": str(folder),  # holds this server's own .erlang.cookie
            "RABBITMQ_NODENAME": "parley@localhost",
            "RABBITMQ_NODE_PORT": str(self.ports.amqp),
            "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
            "RABBITMQ_DIST_PORT": str(self.ports.distribution),
            "RABBITMQ_BASE": str(folder),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_LOGS": str(folder / "server.log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(folder / "feature_flags"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ALLOW_INPUT": "1",  # the script becomes the server: no shell in between
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERLANG_OPTIONS,
            "ERL_EPMD_PORT": str(self.ports.epmd),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_CRASH_DUMP_SECONDS": "0",
        }

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not answers_amqp(LOOPBACK, self.ports.amqp):
            if not self.is_running:
                raise Failure(f"RabbitMQ ended at start: {last_line(tail(self.log, 20))} (the whole log: {self.log})")
            if time.monotonic() > deadline:
                self.stop()
                raise Failure(f"RabbitMQ was not ready after {_START_SECONDS:.0f} s: see {self.folder / 'server.log'}")
            time.sleep(0.1)


def _shared_configuration() -> str:
    """What any RabbitMQ of this system is told, without where the image has its definitions."""
    lines = (_FILES / "rabbitmq.conf").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(("#", "load_definitions")))


def answers_amqp(host: str, port: int) -> bool:
    """Whether a broker answers AMQP's greeting there with a method frame."""
    try:
        with socket.create_connection((host, port), timeout=2) as connection:
            connection.sendall(_HELLO)
            return connection.recv(1) == b"\x01"
    except OSError:
        return False
