"""The running stack: one supervising process that owns Postgres, RabbitMQ and honcho, which runs the services.

The supervisor holds a lock for as long as it lives, so whether a stack runs is never guessed from pid files; these only
serve to end what a killed supervisor left behind.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Self

from deploy.local import containers, credentials, environment, locks, ports, process, setup, web
from deploy.local.places import Places
from deploy.local.servers import PORT_NAMES, Server, Wanted
from deploy.local.terminal import Failure, last_line, say

_READY_SECONDS = 120.0
_WATCH_SECONDS = 1.0
_STOP_SECONDS = 90.0
_HONCHO_STOP_SECONDS = 20.0
_PROCESS_PORTS = (*environment.SERVICES, environment.DEMO_MODEL)
_DEMO_USER = "demo"
_STARTED_LINE = re.compile(r"system\s+\| (?P<name>[\w-]+)(?:\.\d+)? started \(pid=(?P<pid>\d+)\)")
_STOPPED_LINE = re.compile(r"system\s+\| (?P<name>[\w-]+)(?:\.\d+)? stopped \(rc=(?P<code>-?\d+)\)")


class Stop(BaseException):
    """Somebody asked the supervisor to stop: Ctrl-C, `./dev down`, or the terminal went away."""


@dataclass(frozen=True)
class State:
    """What a running supervisor tells the other commands."""

    pid: int
    url: str
    phase: str  # "starting", "ready" or "stopping"
    ports: Mapping[str, int]
    processes: Sequence[str]
    servers: Mapping[str, str] = field(default_factory=dict)


def state(places: Places) -> State | None:
    """The running stack's state, or None when none runs."""
    if not locks.is_held(_lock(places)):
        return None
    try:
        return State(**json.loads(_state_file(places).read_text()))
    except (OSError, ValueError):
        return None  # it only just began


def running(places: Places) -> State:
    """The running stack's state. Raises Failure when none runs."""
    found = state(places)
    if found is None:
        raise Failure("the stack does not run: start it with ./dev up")
    return found


# --- Up


def up(places: Places, port: int | None, *, echo: bool) -> int:
    """Run the stack in this process until it is told to stop; `echo` shows the processes' logs here.

    Returns the exit code. Raises Failure when something does not start, or ends by itself.
    """
    with locks.held(_lock(places)) as ours:
        if not ours:
            return _already_up(places)
        with _signals_raise_stop():
            try:
                _run(places, port, echo=echo)
            except Stop:
                say("stack", "stopped")
            finally:
                _state_file(places).unlink(missing_ok=True)
    return 0


def up_detached(places: Places, port: int | None) -> int:
    """Start the stack in the background; returns 0 when it is ready. Raises Failure with the reason otherwise."""
    if locks.is_held(_lock(places)):
        return _already_up(places)
    _make_folders(places)
    progress, reason = places.logs / "up.log", places.run / "failure"
    command = [sys.executable, "-m", "deploy.local", "up", "--quiet", *(["--port", str(port)] if port else [])]
    with progress.open("wb") as out, reason.open("wb") as err:
        supervisor = subprocess.Popen(
            command, cwd=places.root, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
    try:
        with progress.open() as written:
            while supervisor.poll() is None and not _is_ready(places):
                _show(written.read())
                time.sleep(0.1)
            _show(written.read())
    except KeyboardInterrupt:
        supervisor.terminate()
        supervisor.wait()
        raise
    if _is_ready(places):
        return 0
    if supervisor.returncode == 0:
        raise Failure("the stack was stopped while it was starting")
    raise Failure(last_line(reason.read_text()).removeprefix("dev: "))


def _is_ready(places: Places) -> bool:
    found = state(places)
    return found is not None and found.phase == "ready"


def _show(text: str) -> None:
    if text:
        print(text, end="", flush=True)


def _already_up(places: Places) -> int:
    """Wait until the other supervisor's stack is ready and name its address."""
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and locks.is_held(_lock(places)):
        found = state(places)
        if found is not None and found.phase == "stopping":
            raise Failure("the stack is just being stopped: try again in a moment")
        if found is not None and found.phase == "ready":
            say("stack", f"is already up at {found.url} (./dev down stops it)")
            return 0
        time.sleep(0.2)
    raise Failure("another ./dev up of this checkout is starting and did not become ready: see ./dev logs")


def _run(places: Places, port: int | None, *, echo: bool) -> None:
    _make_room(places)
    user = environment.of_user(places.root)
    chosen = ports.stable_ports([*PORT_NAMES, *_PROCESS_PORTS[1:]], places.local / "ports.json", str(places.root))
    chosen["gateway"] = ports.gateway_port(port)
    url = f"http://{ports.LOOPBACK}:{chosen['gateway']}"
    secrets = credentials.kept(places.local / "secrets.json")
    now = State(os.getpid(), url, "starting", chosen, environment.processes(user))
    _write(places, now)
    with setup.everything(Wanted(user, places, places.servers, chosen, secrets)) as both:
        database, broker = both
        variables = environment.composed(
            user, secrets, chosen, database_url=database.url, rabbitmq_url=broker.url, venv=places.venv
        )
        _migrate(places, variables)
        _build_page(places)
        with _Processes(places, variables, now.processes) as processes:
            processes.wait_until_ready(chosen)
            _greet(url, variables, user)  # first: who started this in the background reads on until it is ready
            _write(places, replace(now, phase="ready", servers={each.name: each.description for each in both}))
            try:
                processes.watch(both, echo=echo)
            finally:
                _write(places, replace(now, phase="stopping"))


def _make_room(places: Places) -> None:
    """Make the folders, and end what a killed supervisor left running; its ports are free afterwards."""
    _make_folders(places)
    for record in sorted(places.run.glob("*.pid")):
        process.end_recorded(record)
    process.end_recorded(places.servers / "postgres.pid", signal.SIGINT)
    process.end_recorded(places.servers / "rabbitmq/rabbitmq.pid")
    process.end_recorded(places.servers / "rabbitmq/epmd.pid")
    containers.end_leftovers(places.servers)


def _make_folders(places: Places) -> None:
    for folder in (places.logs, places.run):
        folder.mkdir(parents=True, exist_ok=True)


def _migrate(places: Places, variables: Mapping[str, str]) -> None:
    done = process.run([places.python, "-m", "shared.db.migrate"], environment=variables, directory=places.root)
    (places.logs / "migrate.log").write_text(done.stdout)
    if done.returncode:
        raise Failure(f"the database migration failed: {last_line(done.stdout)} (all of it: ./dev logs migrate)")
    say("migrate", "the database is up to date")


def _build_page(places: Places) -> None:
    """The page is worth a word, not the stack: without it the gateway says in its place how to build it."""
    try:
        web.build(places)
        say("web", "the page is built")
    except Failure as failure:
        say("web", f"goes without the page: {failure}")


def _greet(url: str, variables: Mapping[str, str], user: Mapping[str, str]) -> None:
    """Print the address and how to try it."""
    token = credentials.user_token(_DEMO_USER, variables)
    body = json.dumps({"message": "add a task: buy milk"})
    curl = ["curl", "-sS", f"{url}/api/{_DEMO_USER}/chat"]
    curl += ["-H", f"Authorization: Bearer {token}", "-H", "Content-Type: application/json", "-d", body]
    if environment.brings_a_model(user):
        model = f"{variables['OPENAI_BASE_URL']} ({variables['MODEL']})"
    else:
        model = "the built-in demo model (set OPENAI_API_KEY, OPENAI_BASE_URL, MODEL for a real one)"
    say("stack", f"is ready at {url}; answers come from {model}")
    print(f"\nTry it (the token is user {_DEMO_USER}'s, for a day):\n\n  {shlex.join(curl)}\n")
    print(f"The page for people: {url}/\n")
    stop = "Ctrl-C or ./dev down" if sys.stdout.isatty() else "./dev down"  # in the background no key is heard
    print(f"More: ./dev status, logs, psql, token --user NAME. Stop with {stop}.\n", flush=True)


# --- The processes under honcho


class _Processes:
    """The services under honcho, their output in one log; a context that stops them at its end."""

    def __init__(self, places: Places, variables: Mapping[str, str], names: Sequence[str]) -> None:
        self._places = places
        self._names = names
        self._stopped: dict[str, int] = {}
        self._echo = threading.Event()
        command: list[str | Path] = [places.python, "-m", "honcho", "--env", os.devnull, "--app-root", places.root]
        command += ["--procfile", places.root / "deploy/local/Procfile", "start", *names]
        self._honcho = subprocess.Popen(
            command,
            cwd=places.root,
            env=environment.of_services(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        process.record(self._honcho.pid, places.run / "honcho.pid")
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._honcho.poll() is None:
            say("stack", "stopping")
        process.end(self._honcho.pid, signal.SIGTERM, _HONCHO_STOP_SECONDS)
        self._reader.join(timeout=_HONCHO_STOP_SECONDS)
        for record in self._places.run.glob("*.pid"):
            process.end_recorded(record)  # only after honcho was killed is there anything left

    def wait_until_ready(self, chosen: Mapping[str, int]) -> None:
        """Wait for every process's readiness. Raises Failure when one ends, or takes too long."""
        deadline = time.monotonic() + _READY_SECONDS
        for name in self._names:
            while (answer := readiness(chosen[name])) != "ready":
                if self._honcho.poll() is not None:
                    raise self._failure()
                if time.monotonic() > deadline:
                    raise Failure(
                        f"{name} was not ready after {_READY_SECONDS:.0f} s ({answer}): see ./dev logs {name}"
                    )
                time.sleep(0.1)
            say(name, f"is ready on port {chosen[name]}")

    def watch(self, both: tuple[Server, Server], *, echo: bool) -> None:
        """Stay until a process ends, which is a Failure; start a server that ended anew."""
        if echo:
            self._echo.set()
        while not self._ends_within(_WATCH_SECONDS):
            for server in both:
                if not server.is_running:
                    say(server.name, "ended; starting it again")
                    server.start()
        raise self._failure()

    def _ends_within(self, seconds: float) -> bool:
        try:
            self._honcho.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _read(self) -> None:
        assert self._honcho.stdout
        with (self._places.logs / "processes.log").open("w", buffering=1) as log:
            for line in self._honcho.stdout:
                log.write(line)
                self._note(line)
                if self._echo.is_set():
                    print(line, end="", flush=True)

    def _note(self, line: str) -> None:
        if match := _STARTED_LINE.search(line):
            process.record(int(match["pid"]), self._places.run / f"{match['name']}.pid")
        elif match := _STOPPED_LINE.search(line):
            self._stopped[match["name"]] = int(match["code"])

    def _failure(self) -> Failure:
        """The process that ended first took the others with it; its last words are the reason."""
        self._honcho.wait()
        self._reader.join(timeout=_HONCHO_STOP_SECONDS)
        name, code = next(iter(self._stopped.items()), ("honcho", self._honcho.returncode))
        lines = [text for text in log_lines(self._places, name) if text]
        print("\n".join(lines[-20:]), flush=True)
        reason = lines[-1].partition("| ")[2] if lines else "it said nothing"
        return Failure(f"{name} ended with code {code}: {reason} (all of it: ./dev logs {name})")


def readiness(port: int) -> str:
    """What the process on `port` says of itself: "ready", or why not."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            f"http://{ports.LOOPBACK}:{port}/health/ready", timeout=5
        ):
            return "ready"
    except urllib.error.HTTPError as error:
        return f"not ready: {error.read(500).decode(errors='replace')}"
    except OSError:
        return "does not answer"


# --- Down, status, logs


def down(places: Places) -> int:
    """Stop the stack if it runs; end what a killed one left. Holds afterwards: nothing of it runs."""
    found = state(places)
    if found is None and not locks.is_held(_lock(places)):
        _make_room(places)
        say("stack", "does not run")
        return 0
    deadline = time.monotonic() + _STOP_SECONDS
    told: int | None = None
    while locks.is_held(_lock(places)):
        if told is None and (found := state(places)):
            told = found.pid
            os.kill(told, signal.SIGTERM)
        if time.monotonic() > deadline:
            raise Failure(f"the stack (process {told}) did not stop within {_STOP_SECONDS:.0f} s: see ./dev logs")
        time.sleep(0.1)
    say("stack", "stopped")
    return 0


def status(places: Places) -> int:
    """Print what runs, where, and whether it is ready. Returns 0 when all of it is."""
    found = state(places)
    if found is None:
        print("the stack does not run")
        return 1
    print(f"{found.url} ({found.phase})")
    for name, description in found.servers.items():
        print(f"  {name:<12} {description}")
    all_ready = found.phase == "ready"
    for name in found.processes:
        answer = readiness(found.ports[name])
        all_ready = all_ready and answer == "ready"
        print(f"  {name:<12} {answer}, port {found.ports[name]}")
    return 0 if all_ready else 1


def log_lines(places: Places, name: str | None) -> list[str]:
    """The stack's log: of all processes, of one of them, or of postgres, rabbitmq, migrate, uv, web, up."""
    files = {
        "postgres": places.servers / "postgres/postgres.log",
        "rabbitmq": places.servers / "rabbitmq/server.log",
        **{other: places.logs / f"{other}.log" for other in ("migrate", "uv", "web", "up")},
    }
    if name in files:
        return files[name].read_text(errors="replace").splitlines() if files[name].exists() else []
    known = (*_PROCESS_PORTS, "honcho", None)
    if name not in known:
        raise Failure(f"no process {name}: there are {', '.join([*_PROCESS_PORTS, *files])}")
    log = places.logs / "processes.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return [
        line
        for line in lines
        if name in {None, "honcho"} or re.match(rf"\S+ {re.escape(str(name))}(\.\d+)?\s*\|", line)
    ]


def follow_log(places: Places, name: str | None) -> None:
    """Print the log and what is added to it, until interrupted."""
    shown = 0
    while True:
        lines = log_lines(places, name)
        if len(lines) < shown:
            shown = 0  # a new start began a new log
        for line in lines[shown:]:
            print(line, flush=True)
        shown = len(lines)
        time.sleep(0.3)


# --- Files and signals


def _lock(places: Places) -> Path:
    return places.run / "lock"


def _state_file(places: Places) -> Path:
    return places.run / "state.json"


def _write(places: Places, now: State) -> None:
    """Replace the state file as a whole, so that a reader never sees half of it."""
    draft = _state_file(places).with_suffix(".new")
    draft.write_text(json.dumps(asdict(now)))
    draft.replace(_state_file(places))


@contextmanager
def _signals_raise_stop() -> Iterator[None]:
    """Turn the first of these signals into Stop; later ones are ignored, so that stopping is not interrupted."""
    asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(_number: int, _frame: FrameType | None) -> None:
        for each in asked:
            signal.signal(each, signal.SIG_IGN)
        raise Stop

    for each in asked:
        signal.signal(each, stop)
    yield
