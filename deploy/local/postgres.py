"""A private PostgreSQL server: own data, own port, a password, loopback only."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local import process
from deploy.local.packages import Unpacked
from deploy.local.ports import LOOPBACK
from deploy.local.process import Account
from deploy.local.terminal import Failure, last_line, say, tail

OWNER = "parley"
DATABASE = "parley"
_OLDEST = 14  # the first that notices a client's death in the middle of a statement
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0

_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",  # a socket's path may have 107 characters; a checkout's path knows no such limit
    "max_connections": "200",
    "client_connection_check_interval": "1000",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",  # its libraries are not unpacked, and our statements are short
}
# A commit still reaches the system's cache, so that a killed server loses nothing; synchronous_commit=off would not do.
# Systems side by side, each with pools of its own, are more than one has connections for.
_THROWAWAY = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off", "max_connections": "500"}


@dataclass(frozen=True)
class PostgresPrograms:
    """The programs of one PostgreSQL version."""

    folder: Path
    major: int
    loader_path: str = ""

    def environment(self) -> dict[str, str]:
        """The caller's environment without its own Postgres settings, which would steer the programs elsewhere."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return kept | ({"LD_LIBRARY_PATH": self.loader_path} if self.loader_path else {})


def installed(major: int | None = None) -> PostgresPrograms | None:
    """The newest PostgreSQL on this system, or the one of version `major`; None where there is none."""
    folders = [Path(found).resolve().parent for found in [shutil.which("postgres")] if found]
    for pattern in ("usr/lib/postgresql/*/bin", "opt/homebrew/opt/postgresql@*/bin", "usr/local/opt/postgresql@*/bin"):
        folders += Path("/").glob(pattern)
    return _best(_programs(folders, ""), major)


def unpacked(packages: Unpacked, major: int | None = None) -> PostgresPrograms | None:
    """The PostgreSQL among the unpacked packages, if it is there."""
    return _best(_programs(packages.folder.glob("usr/lib/postgresql/*/bin"), packages.loader_path), major)


def _programs(folders: Iterator[Path] | list[Path], loader_path: str) -> Iterator[PostgresPrograms]:
    for folder in folders:
        if not all((folder / name).exists() for name in ("postgres", "initdb")):
            continue
        programs = PostgresPrograms(folder, 0, loader_path)
        version = process.run(
            [folder / "postgres", "--version"], environment=programs.environment(), directory=Path("/")
        )
        if match := re.search(r"\) (\d+)", version.stdout):
            yield PostgresPrograms(folder, int(match[1]), loader_path)


def _best(found: Iterator[PostgresPrograms], major: int | None) -> PostgresPrograms | None:
    fitting = [programs for programs in found if programs.major >= _OLDEST and major in {None, programs.major}]
    return max(fitting, key=lambda programs: programs.major, default=None)


def owner_url(port: int, password: str) -> str:
    """The connection of the owner to a server that we run."""
    return f"postgresql://{OWNER}:{password}@{LOOPBACK}:{port}/{DATABASE}"


class PrivatePostgres:
    """A server with its files in `folder`; starting it again finds the same data.

    `durable=False` trades safety against a crash of the *machine* for speed; data still survive `kill`.
    """

    name = "postgres"

    def __init__(  # noqa: PLR0913 - each is one property of the server
        self,
        programs: PostgresPrograms,
        folder: Path,
        port: int,
        password: str,
        *,
        account: Account | None = None,
        durable: bool = True,
    ) -> None:
        self.folder = folder
        self.port = port
        self.log = folder / "postgres.log"
        # Of postgresql.conf, above ours; for the next start.
        self.settings: Mapping[str, str] = {}
        # Of its environment, above ours; likewise.
        self.variables: Mapping[str, str] = {}
        self._programs = programs
        self._password = password
        self._account = account
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The owner's connection; it may create roles."""
        return owner_url(self.port, self._password)

    @property
    def description(self) -> str:
        return f"PostgreSQL {self._programs.major} on port {self.port}"

    def client_environment(self) -> dict[str, str]:
        """In which psql, pg_dump and the like are found, and work on our database as its owner."""
        environment = self._programs.environment()
        return environment | {
            "PATH": f"{self._programs.folder}:{environment.get('PATH', os.defpath)}",
            "PGHOST": LOOPBACK,
            "PGPORT": str(self.port),
            "PGUSER": OWNER,
            "PGPASSWORD": self._password,
            "PGDATABASE": DATABASE,
        }

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process, "not started"
        return self._process.pid

    def start(self) -> None:
        """Start the server, making the database at the first time; returns when it takes connections.

        A server that a former run left behind is ended first. Raises Failure with the reason from the log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._account:
            self._account.own(self.folder)
        process.end_recorded(self._record, signal.SIGINT)
        if not self._data.exists():
            self._create()
        settings = _SETTINGS | ({} if self._durable else _THROWAWAY) | {"port": str(self.port)} | dict(self.settings)
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._process = process.start(
            [self._programs.folder / "postgres", "-D", self._data, *options],
            environment=self._programs.environment() | dict(self.variables),
            directory=self.folder,
            log=self.log,
            account=self._account,
        )
        process.record(self._process.pid, self._record)
        self._wait_until_ready()
        say(self.name, self.description)

    def keep(self, name: str, content: bytes) -> Path:
        """A file that only the server reads, as it wants its keys to be."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / name
        file.touch(mode=0o600)
        file.write_bytes(content)
        if self._account:
            self._account.own(file)
        return file

    def stop(self) -> None:
        """Stop the server in order, ending its sessions; nothing happens when it does not run."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server as a crash would: nothing is written any more."""
        self._end(signal.SIGQUIT)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _record(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.pid")  # beside: the folder may belong to another account

    def _end(self, how: signal.Signals) -> None:
        if self._process:
            process.end(self._process.pid, how, _STOP_SECONDS)
            self._process.wait()
            self._process = None
        self._record.unlink(missing_ok=True)

    def _create(self) -> None:
        """Make the data folder: built beside its place and then moved, so that it is whole or not there."""
        building, password_file = self.folder / "data.new", self.folder / "password"
        shutil.rmtree(building, ignore_errors=True)
        password_file.touch(mode=0o600)
        password_file.write_text(self._password)
        if self._account:
            self._account.own(password_file)
        options = ["-U", OWNER, "-A", "scram-sha-256", f"--pwfile={password_file}", "-E", "UTF8", "--no-locale"]
        self._run("initdb", "-D", building, *options, *([] if self._durable else ["--no-sync"]))
        password_file.unlink()
        create = f"CREATE DATABASE {DATABASE}\n"
        self._run("postgres", "--single", "-D", building, "-c", "fsync=off", "template1", text=create)
        building.rename(self._data)

    def _run(self, program: str, *arguments: str | Path, text: str | None = None) -> None:
        done = process.run(
            [self._programs.folder / program, *arguments],
            environment=self._programs.environment() | {"LC_ALL": "C"},
            directory=self.folder,
            account=self._account,
            text=text,
        )
        if done.returncode:
            raise Failure(f"{program} could not make the database in {self.folder}: {last_line(done.stdout)}")

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._says_ready():
            if not self.is_running:
                raise Failure(f"Postgres ended at start: {last_line(tail(self.log, 5))} (the whole log: {self.log})")
            if time.monotonic() > deadline:
                self.stop()
                raise Failure(f"Postgres was not ready after {_START_SECONDS:.0f} s: see {self.log}")
            time.sleep(0.02)

    def _says_ready(self) -> bool:
        """Read the state that the server keeps in its lock file: the first line is its pid, the eighth its state."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        state_line = 8
        return len(lines) >= state_line and lines[0] == str(self.pid) and lines[state_line - 1].strip() == "ready"
