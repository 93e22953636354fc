"""The whole of docker-compose.yml, as it comes: built, started, talked to, scaled, broken container by container.

Needs a Docker engine and is skipped where none answers. It makes a project of its own, on free ports, with its own
images and volumes, and leaves nothing behind.
"""

import asyncio
import json
import secrets
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from testcontainers.compose import DockerCompose

from deploy.local.ports import free_ports
from shared.tokens import mint_token
from tests.support.client import Client, JsonObject, is_terminal, text_of
from tests.support.waiting import wait_until

_ROOT = Path(__file__).parents[2]
_PORTS = ("GATEWAY_PUBLISHED_PORT", "GATEWAY_PUBLISHED_TLS_PORT", "RABBITMQ_MANAGEMENT_PUBLISHED_PORT")
_OURS = ("gateway", "chat-worker", "persistence", "task-tools", "demo-model")
_EVERYTHING = (*_OURS, "proxy", "postgres", "rabbitmq")
_START_SECONDS = 900
_LOOK_SECONDS = 1  # between two looks, each of which starts programs
_RECOVERY_SECONDS = 300
_SLOWLY = "[[demo: tokens=60 delay_ms=100]] go"
_H2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # and empty settings
_H2_SETTINGS = 4


_DOCKER = shutil.which("docker")


def _engine_answers() -> bool:
    if _DOCKER is None:
        return False
    return subprocess.run([_DOCKER, "compose", "ls"], capture_output=True, check=False, timeout=60).returncode == 0


pytestmark = pytest.mark.skipif(not _engine_answers(), reason="no Docker engine with Compose answers here")


@dataclass
class System:
    """A running project: what `docker compose` says of it, and how to reach it."""

    compose: DockerCompose
    ports: dict[str, int]
    jwt_secret: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['GATEWAY_PUBLISHED_PORT']}"

    def run(self, *words: str) -> str:
        command = [*self.compose.compose_command_property, *words]
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False, timeout=1_200)
        assert done.returncode == 0, f"docker compose {' '.join(words)}: {done.stderr[-2_000:]}"
        return done.stdout

    def up(self, *more: str) -> None:
        """Start what does not run; returns at once."""
        self.run("up", "--detach", *more)

    def states(self) -> list[dict[str, Any]]:
        """Every container of the project, also those that ended."""
        said = self.run("ps", "--all", "--format", "json")
        return [json.loads(line) for line in said.splitlines()]

    def of(self, service: str) -> list[dict[str, Any]]:
        return [state for state in self.states() if state["Service"] == service]

    def inspected(self, name: str) -> dict[str, Any]:
        return dict(json.loads(_docker("inspect", name))[0])

    def client(self, user_id: str) -> Client:
        client = Client(self.url, user_id)
        token = mint_token(self.jwt_secret, user_id, issuer="parley", audience="parley", lifetime_seconds=3_600)
        client.http.headers["authorization"] = f"Bearer {token}"
        return client

    async def ready(self) -> None:
        """Waits until everything that goes on is healthy, and the page is there."""

        async def unwell() -> str:
            states = self.states()
            missing = set(_EVERYTHING) - {state["Service"] for state in states}
            wrong = [state for state in states if state["Service"] in _EVERYTHING and state["Health"] != "healthy"]
            return " ".join(sorted({*missing, *(f"{state['Name']}: {state['Status']}" for state in wrong)}))

        async def is_well() -> bool:
            await asyncio.sleep(_LOOK_SECONDS)
            self.unwell = await unwell()
            return not self.unwell

        try:
            await wait_until(is_well, seconds=_START_SECONDS, what="all healthy")
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.unwell}; {self.run('logs', '--tail', '20')[-6_000:]}") from None

    unwell: str = ""


def _docker(*words: str) -> str:
    assert _DOCKER
    return subprocess.run([_DOCKER, *words], capture_output=True, text=True, check=True, timeout=600).stdout


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    # In place of the user's own `.env`.
    settings = tmp_path_factory.mktemp("compose") / "env"
    given = {**ports, "DEMO_MODEL_DIRECTIVES": 1, "PARLEY_VERSION": "0.0.1-test", "PARLEY_REVISION": "abc"}
    settings.write_text("".join(f"{name}={value}\n" for name, value in given.items()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPOSE_PROJECT_NAME", f"parley-test-{secrets.token_hex(4)}")
        for name in given:
            patch.delenv(name, raising=False)
        compose = DockerCompose(_ROOT, "docker-compose.yml", build=True, wait=False, env_file=str(settings))
        found = System(compose, ports)
        try:
            compose.start()
            await found.ready()
            found.jwt_secret = found.run("exec", "-T", "gateway", "cat", "/run/secrets/JWT_SECRET")
            yield found
        finally:
            found.run("down", "--volumes", "--rmi", "local", "--timeout", "5")


@asynccontextmanager
async def _user(system: System, user_id: str) -> AsyncIterator[Client]:
    client = system.client(user_id)
    try:
        yield client
    finally:
        await client.close()


async def test_a_person_signs_in_and_the_assistant_keeps_a_task(system: System) -> None:
    """As the page does it: one address, any name, a session, and a turn with a tool."""
    async with httpx2.AsyncClient(base_url=system.url, timeout=60, headers={"origin": system.url}) as browser:
        page = await browser.get("/")
        assert page.status_code == httpx2.codes.OK
        assert page.headers["content-type"].startswith("text/html")
        session = (await browser.post("/session/dev", json={"user_id": "ada"})).raise_for_status().json()
        csrf = {"x-csrf-token": session["csrf_token"]}

        said = await browser.post("/api/ada/chat", json={"message": "add a task: buy milk"}, headers=csrf)

        answer = said.raise_for_status().json()
        assert [call["name"] for call in answer["tool_calls"]] == ["add_task"]
        tasks = (await browser.get("/api/ada/tasks")).raise_for_status().json()
        assert "buy milk" in json.dumps(tasks)
    told = system.run("logs", "--no-log-prefix", "proxy")
    assert f"open http://localhost:{system.ports['GATEWAY_PUBLISHED_PORT']}" in told


async def test_an_answer_is_seen_while_it_is_made(system: System) -> None:
    async with _user(system, "streaming") as client:
        created = await client.create(_SLOWLY, background=True)
        async with client.stream(created["id"]) as events:
            async for event in events:
                if event["type"] == "response.output_text.delta":
                    break

            assert (await client.response(created["id"]))["status"] == "in_progress"


def test_browsers_speak_http_2_over_tls_and_programs_without(system: System) -> None:
    trusted = system.run("exec", "-T", "proxy", "cat", "/run/secrets/tls.crt")
    context = ssl.create_default_context(cadata=trusted)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", system.ports["GATEWAY_PUBLISHED_TLS_PORT"]), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        assert secure.selected_alpn_protocol() == "h2"

    with socket.create_connection(("127.0.0.1", system.ports["GATEWAY_PUBLISHED_PORT"]), timeout=30) as connection:
        connection.sendall(_H2_GREETING)
        head = connection.makefile("rb").read(9)
        assert head[3] == _H2_SETTINGS


async def test_a_client_is_known_by_the_address_that_the_proxy_saw(system: System) -> None:
    """What it says of itself counts for nothing, so that nobody's requests count as another's."""
    async with httpx2.AsyncClient(base_url=system.url, timeout=60) as http:
        answers = [
            (await http.get("/v1/models", headers={"x-forwarded-for": f"203.0.113.{number}"})).status_code
            for number in range(3)
        ]

    assert answers == [httpx2.codes.UNAUTHORIZED] * 3
    logged = system.run("logs", "--no-log-prefix", "gateway")
    assert "203.0.113." not in logged


@pytest.mark.parametrize("service", _OURS)
def test_an_image_holds_no_tools_and_nothing_in_it_can_be_changed(system: System, service: str) -> None:
    name = system.of(service)[0]["Name"]
    found = system.inspected(name)
    image = system.inspected(found["Image"])

    assert image["Config"]["User"] == "10001:10001"
    assert image["Config"]["StopSignal"] == "SIGTERM"
    labels = image["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == "0.0.1-test"
    assert labels["org.opencontainers.image.revision"] == "abc"
    assert not [line for line in found["Config"]["Env"] if "PASSWORD" in line or "JWT_SECRET" in line]

    def fails(script: str) -> bool:
        command = [str(_DOCKER), "exec", name, "sh", "-c", script]
        return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode != 0

    assert not fails("python -c 'import ssl'")
    for program in ("gcc", "cc", "g++", "make", "uv", "git", "curl", "wget", "node"):
        assert fails(f"command -v {program}"), program
    for place in ("/app", "/app/code", "/usr/local", "/etc", "/run/secrets"):
        assert fails(f"touch {place}/x"), place


async def test_more_workers_are_one_word(system: System) -> None:
    system.up("--scale", "chat-worker=5", "--no-recreate")
    await system.ready()

    workers = system.of("chat-worker")
    assert len([worker for worker in workers if worker["Health"] == "healthy"]) == 5
    async with _user(system, "scaled") as client:
        answers = [await client.chat(f"add a task: number {number}") for number in range(10)]
        assert all(answer["tool_calls"] for answer in answers)
    system.up("--scale", "chat-worker=2", "--no-recreate")
    await system.ready()
    assert len(system.of("chat-worker")) == 2


@pytest.mark.parametrize("service", _EVERYTHING)
async def test_a_killed_container_comes_back_and_loses_nothing(system: System, service: str) -> None:
    """Its first process is killed as the kernel would; the engine starts it again, as its policy says."""
    async with _user(system, f"killed-{service}") as client:
        task = await client.chat("add a task: survive")
        created = await client.create(_SLOWLY, background=True)
        victim = system.of(service)[0]["Name"]
        began = int(system.inspected(victim)["RestartCount"])

        _kill(system.inspected(victim)["State"]["Pid"])

        async def is_back() -> bool:
            await asyncio.sleep(_LOOK_SECONDS)
            return int(system.inspected(victim)["RestartCount"]) > began

        await wait_until(is_back, seconds=_RECOVERY_SECONDS, what=f"{victim} to be started again")
        await system.ready()
        ended = await _ended(client, created["id"])
        assert ended["status"] == "completed"
        events = await client.events(created["id"])
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert [event for event in events if is_terminal(event)] == events[-1:]
        assert text_of(ended)
        again = await client.chat("what is on my list?", task["conversation_id"])
        assert "survive" in again["response"]


async def test_what_was_said_is_there_after_down_and_up(system: System) -> None:
    async with _user(system, "kept") as client:
        first = await client.chat("add a task: water the plants")

        system.run("down")
        assert system.states() == []
        system.up()
        await system.ready()

        tokens_still_hold = await client.http.get(f"/api/conversations/{first['conversation_id']}/messages")
        assert "water the plants" in tokens_still_hold.raise_for_status().text
        again = await client.chat("what is on my list?", first["conversation_id"])
        assert "water the plants" in again["response"]


def test_a_stop_is_in_order(system: System) -> None:
    """Every process of ours hears that it is to stop, and ends by itself, long before it would be killed."""
    names = [state["Name"] for service in _OURS for state in system.of(service)]
    system.run("stop", *_OURS)

    codes = {name: system.inspected(name)["State"]["ExitCode"] for name in names}

    killed = [name for name, code in codes.items() if code not in {0, 128 + 15}]
    assert not killed, "".join(f"{name}:\n{_docker('logs', '--timestamps', '--tail', '20', name)}" for name in killed)


def _kill(pid: int) -> None:
    """SIGKILL to a process of the engine's machine; `docker kill` would be a stop that somebody asked for."""
    image = ("--entrypoint", "sh", "postgres:17")
    options = ("--rm", "--pid", "host", "--user", "0", "--network", "none")
    _docker("run", *options, *image, "-c", f"kill -KILL {pid}")


async def _ended(client: Client, response_id: str) -> JsonObject:
    """The response, once it has ended; the proxy may say meanwhile that no gateway answers."""

    async def look() -> JsonObject | None:
        try:
            answer = await client.http.get(f"/v1/responses/{response_id}")
        except httpx2.TransportError:
            return None
        if answer.status_code != httpx2.codes.OK:
            return None
        found: JsonObject = answer.json()
        return found if found["status"] not in {"queued", "in_progress"} else None

    return await wait_until(look, seconds=_RECOVERY_SECONDS, what=f"{response_id} ended") or {}
