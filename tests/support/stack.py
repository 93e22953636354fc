"""The system as real processes, for tests that tell a story: start it, talk to it, kill parts of it."""

import asyncio
import os
import resource
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from deploy.local.ports import LOOPBACK, free_ports
from deploy.local.rabbitmq import service_urls
from shared.tokens import mint_token
from tests.support.backends import Backends
from tests.support.waiting import wait_until

JWT_SECRET = secrets.token_hex(32)
_MODULES = {
    "gateway": "gateway",
    "chat-worker": "chat_worker",
    "persistence": "persistence",
    "task-tools": "task_tools",
    "demo-model": "demo_model",
}


@dataclass
class ServiceProcess:
    """One process of the system, by its kind and its number."""

    name: str
    kind: str
    port: int
    environment: Mapping[str, str]
    log: Path
    popen: "subprocess.Popen[bytes] | None" = None
    is_varied: bool = False

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def is_running(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    def start(self, variables: Mapping[str, str] | None = None) -> None:
        """Start it, with `variables` above its own for this one life."""
        assert not self.is_running
        self.is_varied = bool(variables)
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", _MODULES[self.kind]],
                env={**self.environment, **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL: it gets no chance to say anything."""
        self.signal(signal.SIGKILL)
        self._wait(10)

    def stop(self, seconds: float = 30.0) -> int:
        """SIGTERM, and its exit status."""
        self.signal(signal.SIGTERM)
        return self._wait(seconds)

    def resident_bytes(self) -> int:
        """Memory that it takes; Linux only."""
        assert self.popen is not None
        pages = int(Path(f"/proc/{self.popen.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def open_file_count(self) -> int:
        """Files and connections that it holds open; Linux only."""
        assert self.popen is not None
        return len(list(Path(f"/proc/{self.popen.pid}/fd").iterdir()))

    def is_process(self, worker_id: str) -> bool:
        """Whether it is the worker with this id, which holds its process id."""
        return self.popen is not None and worker_id.split(".")[-2] == str(self.popen.pid)

    def signal(self, number: int) -> None:
        assert self.popen is not None
        if self.popen.poll() is None:
            self.popen.send_signal(number)

    def _wait(self, seconds: float) -> int:
        assert self.popen is not None
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            raise AssertionError(f"{self.name} did not stop within {seconds} s:\n{self.last_lines()}") from None

    async def ready(self, seconds: float = 60.0) -> None:
        """Waits until it says that it is ready. Fails with its last words if it ends instead."""

        async with httpx2.AsyncClient(timeout=5, verify=False) as http:

            async def is_ready() -> bool:
                if not self.is_running:
                    raise AssertionError(f"{self.name} ended:\n{self.last_lines()}")
                try:
                    return (await http.get(f"{self.url}/health/ready")).status_code == httpx2.codes.OK
                except httpx2.TransportError:
                    return False

            await wait_until(is_ready, seconds=seconds, what=f"{self.name} ready")

    def last_lines(self, count: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])


@dataclass
class Stack:
    """A running system. `processes` by name: `gateway-0`, `chat-worker-1` …"""

    processes: dict[str, ServiceProcess] = field(default_factory=dict)

    def of_kind(self, kind: str) -> list[ServiceProcess]:
        return [process for process in self.processes.values() if process.kind == kind]

    def gateway(self, number: int = 0) -> ServiceProcess:
        return self.processes[f"gateway-{number}"]

    async def ready(self) -> None:
        await asyncio.gather(*(process.ready() for process in self.processes.values() if process.is_running))

    def stop(self) -> None:
        """Stops everything, in parallel; what does not end is killed."""
        running = [process for process in self.processes.values() if process.is_running]
        for process in running:
            process.signal(signal.SIGTERM)
        for process in running:
            process.stop()

    async def restart_with(self, variables_of: Mapping[str, Mapping[str, str]]) -> None:
        """Kill the named processes and start each with its variables for this one life; all others run as at first."""
        changed: dict[str, Mapping[str, str]] = {
            name: {} for name, process in self.processes.items() if process.is_varied or not process.is_running
        }
        wanted = {**changed, **variables_of}
        for name in wanted:
            if self.processes[name].is_running:
                self.processes[name].kill()
        for name, variables in wanted.items():
            self.processes[name].start(variables)
        await self.ready()

    async def heal(self) -> None:
        """Have everything run as it did at first, and wait until it is ready."""
        await self.restart_with({})

    def logs(self, kind: str) -> str:
        return "".join(process.log.read_text(errors="replace") for process in self.of_kind(kind))


@asynccontextmanager
async def running_stack(
    backends: Backends,
    folder: Path,
    *,
    counts: Mapping[str, int] | None = None,
    variables: Mapping[str, str] | None = None,
    variables_of: Mapping[str, Mapping[str, str]] | None = None,
) -> AsyncIterator[Stack]:
    """A stack of its own: `counts` says how many of each kind (one, where not named).

    `variables_of` a process, by its name, or of a kind are above the `variables` of all.
    """
    wanted = dict.fromkeys(_MODULES, 1) | dict(counts or {})
    ports = iter(free_ports(sum(wanted.values())))
    numbered = {f"{kind}-{number}": (kind, next(ports)) for kind, count in wanted.items() for number in range(count)}
    common = _environment(backends, dict(reversed(list(numbered.values()))), variables or {})
    stack = Stack()
    for name, (kind, port) in numbered.items():
        prefix = kind.replace("-", "_").upper()
        own = {**(variables_of or {}).get(kind, {}), **(variables_of or {}).get(name, {})}
        environment = {**common, f"{prefix}_HOST": LOOPBACK, f"{prefix}_PORT": str(port), **own}
        stack.processes[name] = ServiceProcess(name, kind, port, environment, folder / f"{name}.log")
    try:
        for process in stack.processes.values():
            process.start()
        await stack.ready()
        yield stack
    finally:
        stack.stop()


def _environment(backends: Backends, first_ports: Mapping[str, int], variables: Mapping[str, str]) -> dict[str, str]:
    urls = backends.database_urls
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "SSL_CERT_FILE") if name in os.environ}
    return {
        **kept,
        "PYTHONUNBUFFERED": "1",
        "PARLEY_PROFILE": "local",
        "LOG_FORMAT": "json",
        **service_urls(backends.rabbitmq_url),
        "GATEWAY_DATABASE_URL": urls["parley_gateway"],
        "CHAT_WORKER_DATABASE_URL": urls["parley_worker"],
        "PERSISTENCE_DATABASE_URL": urls["parley_persistence"],
        "TASK_TOOLS_DATABASE_URL": urls["parley_tools"],
        "JWT_SECRET": JWT_SECRET,
        "TOOL_TOKEN_SECRET": secrets.token_hex(32),
        "TASK_TOOLS_URL": f"http://{LOOPBACK}:{first_ports['task-tools']}/mcp",
        "OPENAI_BASE_URL": f"http://{LOOPBACK}:{first_ports.get('demo-model', 0)}/v1",
        "OPENAI_API_KEY": "demo",
        "MODEL": "demo",
        # Tests count what the model is asked, and what the broker carries.
        "CHAT_WORKER_TITLES_ENABLED": "false",
        "DEMO_MODEL_DIRECTIVES": "1",
        "DEMO_MODEL_DELAY_MS": "0",
        **variables,
    }


def token_of(user_id: str, *, lifetime_seconds: float = 3600, **claims: object) -> str:
    return mint_token(
        JWT_SECRET, user_id, issuer="parley", audience="parley", lifetime_seconds=lifetime_seconds, **claims
    )
