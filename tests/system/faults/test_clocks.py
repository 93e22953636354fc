"""Clocks that are wrong by ten minutes, or jump in the middle of an answer: no promise hangs on the clock of a process.

Leases and whatever else ends at a time end by the clock of Postgres; order is that of numbers; waits are measured. Who
verifies a token needs a clock that is right to its leeway, and says so where it is not.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx2
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deploy.local.postgres import PrivatePostgres
from tests.support.asgi import served
from tests.support.backends import Backends, new_broker, new_database
from tests.support.clocks import CAN_BE_WRONG, Clock, compiled, seconds_ahead
from tests.support.services import private_postgres
from tests.support.stack import ServiceProcess, Stack, running_stack, token_of
from tests.support.waiting import wait_until
from tests.system.faults.history import Said, Talker
from tests.system.faults.load import QUICK_REPAIRS, Arena

pytestmark = pytest.mark.skipif(not CAN_BE_WRONG, reason="no C compiler (cc) here, which makes the clocks wrong")

_WRONG_SECONDS = 600
_SEEN_WITHIN_SECONDS = 120  # of how wrong a clock is: a machine under load takes its time to look
_KINDS = ("gateway", "chat-worker", "persistence")
_WEBHOOK_SECRET = "whsec_" + "c2VjcmV0" * 6
_LEEWAY_SECONDS = 30  # JWT_LEEWAY_SECONDS
_LIFETIME_SECONDS_MAX = 86_400  # JWT_LIFETIME_SECONDS_MAX


class Receiver:
    """Somebody's web server, whose clock is right and who believes what OpenAI's client believes."""

    def __init__(self) -> None:
        self.told: set[str] = set()
        self.refused: list[str] = []
        self._client = openai.OpenAI(api_key="none", webhook_secret=_WEBHOOK_SECRET)

    async def take(self, request: Request) -> Response:
        try:
            event: Any = self._client.webhooks.unwrap(await request.body(), request.headers)
        except (ValueError, openai.InvalidWebhookSignatureError) as error:
            self.refused.append(str(error))
            return Response(status_code=HTTPStatus.BAD_REQUEST)
        self.told.add(event.data.id)
        return Response()


@pytest.fixture(scope="module")
async def receiver() -> AsyncIterator[tuple[str, Receiver]]:
    receiver = Receiver()
    async with served(Starlette(routes=[Route("/", receiver.take, methods=["POST"])])) as url:
        yield url, receiver


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("wrong-clock"))


@pytest.fixture(scope="module")
def backends_by_clock(library: Path) -> Iterator[tuple[Backends, Clock]]:
    """A Postgres with a clock of its own, and a broker."""

    def prepare(server: PrivatePostgres) -> None:
        clock = Clock(server.keep(library.name, library.read_bytes()), server.keep("clock", b""))
        made.append(clock)
        server.variables = clock.variables

    made: list[Clock] = []
    with private_postgres(prepare) as server, new_database(server.url) as urls, new_broker() as rabbitmq_url:
        yield Backends(urls, rabbitmq_url), made[0]


@pytest.fixture(scope="module")
def own_backends(backends_by_clock: tuple[Backends, Clock]) -> Backends:
    return backends_by_clock[0]


@pytest.fixture
def postgres_clock(backends_by_clock: tuple[Backends, Clock]) -> Iterator[Clock]:
    """Right; so it is afterwards."""
    yield backends_by_clock[1]
    backends_by_clock[1].set(0)


@pytest.fixture(scope="module")
def all_clocks(library: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Clock]:
    """By process."""
    folder = tmp_path_factory.mktemp("clocks")
    return {name: Clock(library, folder / name) for kind in _KINDS for name in (f"{kind}-0", f"{kind}-1")}


@pytest.fixture
def clocks(all_clocks: dict[str, Clock]) -> Iterator[dict[str, Clock]]:
    """All of them right; so they are afterwards."""
    yield all_clocks
    for clock in all_clocks.values():
        clock.set(0)


@pytest.fixture(scope="module")
async def stack(
    own_backends: Backends,
    receiver: tuple[str, Receiver],
    all_clocks: dict[str, Clock],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("wrong-clocks")
    webhook = {
        "PERSISTENCE_WEBHOOK_URL": receiver[0],
        "PERSISTENCE_WEBHOOK_SECRET": _WEBHOOK_SECRET,
        "EGRESS_ALLOWED": '["127.0.0.1/32"]',
        "EGRESS_PORTS": f"[{urlsplit(receiver[0]).port}]",
        "EGRESS_ALLOWS_HTTP": "true",
    }
    variables = QUICK_REPAIRS | webhook
    variables_of = {name: clock.variables for name, clock in all_clocks.items()}
    counts = dict.fromkeys(_KINDS, 2)
    async with running_stack(
        own_backends, folder, counts=counts, variables=variables, variables_of=variables_of
    ) as running:
        yield running


async def test_workers_whose_clocks_are_wrong_keep_their_jobs(whole: Arena, clocks: dict[str, Clock]) -> None:
    """One is ahead and one behind, for longer than a lease lasts; their tools know them all the same."""
    await _set(whole, clocks, {"chat-worker-0": _WRONG_SECONDS, "chat-worker-1": -_WRONG_SECONDS})

    left_before = [await _left_count(worker) for worker in whole.stack.of_kind("chat-worker")]
    said, *long = await asyncio.gather(whole.talk(), *_long_answers(whole))

    assert await whole.verdict(attempts_max=1) == []
    assert [await _left_count(worker) for worker in whole.stack.of_kind("chat-worker")] == left_before
    _all_went_well([*said, *long])


async def test_gateways_whose_clocks_are_wrong_accept_and_stream(whole: Arena, clocks: dict[str, Clock]) -> None:
    """One is ahead and one behind; what is written by them is dated by Postgres."""
    await _set(whole, clocks, {"gateway-0": _WRONG_SECONDS, "gateway-1": -_WRONG_SECONDS})

    said = await whole.talk()
    dated = [await _dated(whole, gateway) for gateway in whole.stack.of_kind("gateway")]

    assert await whole.verdict(attempts_max=1) == []
    _all_went_well(said)
    for file_seconds, denial_seconds in dated:
        assert file_seconds == 3_600
        assert denial_seconds == pytest.approx(_LIFETIME_SECONDS_MAX + 2 * _LEEWAY_SECONDS, abs=1)


async def test_persistence_whose_clock_is_wrong_writes_repairs_and_signs(
    whole: Arena, clocks: dict[str, Clock], receiver: tuple[str, Receiver]
) -> None:
    await _set(whole, clocks, {"persistence-0": _WRONG_SECONDS, "persistence-1": -_WRONG_SECONDS})

    said = await whole.talk()

    assert await whole.verdict(attempts_max=1) == []
    _all_went_well(said)

    async def all_are_told() -> bool:
        return {spoken.response_id for spoken in said} <= receiver[1].told

    await wait_until(all_are_told, what="the webhook is told of all ends")
    assert receiver[1].refused == []


async def test_clocks_that_jump_while_answers_are_streamed_change_nothing(
    whole: Arena, clocks: dict[str, Clock]
) -> None:
    """All of them, twenty minutes back, then ahead again, then to where they should be."""
    await _set(whole, clocks, dict.fromkeys(clocks, _WRONG_SECONDS))
    jumps = {50: -_WRONG_SECONDS, 110: _WRONG_SECONDS, 170: 0}
    user = whole.users[0]
    said = await user.ask(tokens=250, delay_ms=20)

    async def jump(event: Mapping[str, Any]) -> None:
        if event["sequence_number"] in jumps:
            for clock in clocks.values():
                clock.set(jumps[event["sequence_number"]])

    talking = asyncio.create_task(whole.talk())
    await user.follow(said, on_event=jump)

    assert await whole.verdict(attempts_max=1) == []
    _all_went_well([said, *await talking])


async def test_the_clock_of_postgres_jumps_ahead_and_what_runs_is_run_again(
    whole: Arena, postgres_clock: Clock
) -> None:
    """Leases end at once, while their workers go on: what the fences are for.

    A worker may renew its leases before anybody looks, so the clock jumps until somebody was quicker.
    """
    minutes = itertools.count(1)

    async def is_taken_over() -> bool:
        postgres_clock.set(60 * next(minutes))
        return max((await whole.attempts()).values(), default=1) > 1

    talking = asyncio.gather(*_long_answers(whole))
    await wait_until(is_taken_over, what="another attempt has a job")
    said = await talking

    assert await whole.verdict() == []
    assert {spoken.finals[-1]["status"] for spoken in said} == {"completed"}


async def test_a_token_that_does_not_hold_by_a_wrong_clock_is_refused_and_its_message_not_lost(
    whole: Arena, clocks: dict[str, Clock]
) -> None:
    """It has ended where the clock is ahead, and has not begun where it is behind. Within the leeway both are taken."""
    ahead, behind = whole.stack.of_kind("gateway")
    user = whole.users[0]
    said = Said(user.user_id, user.canary(), "chat")
    body = {"model": said.model, "input": said.text, "background": True}
    headers = {"idempotency-key": said.text, "authorization": f"Bearer {token_of(user.user_id, lifetime_seconds=300)}"}
    await _set(whole, clocks, {ahead.name: _WRONG_SECONDS, behind.name: -_WRONG_SECONDS})
    async with httpx2.AsyncClient(timeout=20, headers=headers) as http:
        refusals = [await http.post(f"{gateway.url}/v1/responses", json=body) for gateway in (ahead, behind)]
        clocks[ahead.name].set(0)
        clocks[behind.name].set(-_LEEWAY_SECONDS + 5)
        accepted = [await http.post(f"{gateway.url}/v1/responses", json=body) for gateway in (behind, ahead)]

    whole.history.said.append(said)
    response = accepted[0].json()
    said.response_id, said.conversation_id, said.number = response["id"], response["conversation"]["id"], 1
    await whole.read(user, said)
    assert await whole.verdict(attempts_max=1) == []
    assert [(answer.status_code, answer.json()["error"]["message"]) for answer in refusals] == [
        (HTTPStatus.UNAUTHORIZED, "The access token has expired; get a new one."),
        (HTTPStatus.UNAUTHORIZED, "The access token is not valid."),
    ]
    assert await _metric(ahead, "parley_gateway_refused_tokens_total", reason="expired") == 1
    assert await _metric(behind, "parley_gateway_refused_tokens_total", reason="not_yet_valid") == 1
    assert [answer.status_code for answer in accepted] == [HTTPStatus.OK] * 2
    assert accepted[1].json()["id"] == said.response_id


async def test_without_the_clock_of_postgres_a_worker_whose_clock_is_behind_loses_its_jobs(
    arena: Arena, clocks: dict[str, Clock]
) -> None:
    """The attack of before, on leases that end by their worker's clock."""
    await arena.stack.restart_with({"chat-worker-0": {"PARLEY_SABOTAGE": "lease_clock"}})
    await _set(arena, clocks, {"chat-worker-0": -_WRONG_SECONDS})

    talking = asyncio.gather(*_long_answers(arena))

    async def is_taken_over() -> bool:
        return max((await arena.attempts()).values(), default=1) > 1

    await wait_until(is_taken_over, what="another attempt has a job of the worker's")
    clocks["chat-worker-0"].set(0)
    await talking
    assert any("attempts" in violation for violation in await arena.verdict(attempts_max=1))


async def _set(arena: Arena, clocks: Mapping[str, Clock], ahead_seconds: Mapping[str, int]) -> None:
    """Have the clocks jump, and see that they did: from outside, and as each process tells it by itself."""
    for name, seconds in ahead_seconds.items():
        clocks[name].set(seconds)
    for name, seconds in ahead_seconds.items():
        await _is_seen(arena.stack.processes[name], seconds)


async def _is_seen(process: ServiceProcess, seconds: int) -> None:
    async def is_seen() -> bool:
        async with httpx2.AsyncClient(timeout=5) as http:
            await http.get(f"{process.url}/health/ready")  # which looks at the clock of Postgres
        told = (await seconds_ahead(process), await _metric(process, "parley_clock_ahead_seconds"))
        return all(abs(ahead - seconds) < _SEEN_WITHIN_SECONDS for ahead in told)

    await wait_until(is_seen, what=f"the clock of {process.name} is {seconds} s ahead")


async def _left_count(worker: ServiceProcess) -> float:
    """Attempts that it left, as it had lost its lease."""
    return await _metric(worker, "parley_worker_attempts_total", outcome="left")


async def _metric(process: ServiceProcess, name: str, **labels: str) -> float:
    """The sum of what `process` tells by this name, with these labels."""
    async with httpx2.AsyncClient(timeout=5) as http:
        lines = (await http.get(f"{process.url}/metrics")).text.splitlines()
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    told = [line for line in lines if line.partition("{")[0].partition(" ")[0] == name]
    return sum(float(line.rpartition(" ")[2]) for line in told if all(word in line for word in wanted))


def _long_answers(arena: Arena) -> list[Coroutine[Any, Any, Said]]:
    """Each takes longer than a lease lasts, so that its worker has to renew it."""

    async def ask(user: Talker) -> Said:
        said = await user.ask(tokens=250, delay_ms=20)
        await arena.read(user, said)
        return said

    return [ask(user) for user in (*arena.users, *arena.users)]


def _all_went_well(said: list[Said]) -> None:
    """Each was answered, and each tool that was called did what it should."""
    finals = [spoken.finals[-1] for spoken in said]
    calls = [item for final in finals for item in final["output"] if item["type"] == "mcp_call"]
    assert {final["status"] for final in finals} == {"completed"}
    assert calls
    assert {call["status"] for call in calls} == {"completed"}
    assert all(final["created_at"] <= final["completed_at"] for final in finals)


async def _dated(arena: Arena, gateway: ServiceProcess) -> tuple[float, float]:
    """For how long a file lives that shall live for an hour, and how long the denial of a token lasts."""
    user = arena.users[0]
    issued_at = int(time.time()) - 2 * _WRONG_SECONDS
    token = token_of(user.user_id, roles=["admin"], iat=issued_at)
    token_id = user.canary()
    async with httpx2.AsyncClient(base_url=gateway.url, headers={"authorization": f"Bearer {token}"}) as http:
        fields = {"purpose": "user_data", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
        file = (await http.post("/v1/files", data=fields, files={"file": ("a.txt", b"text", "text/plain")})).json()
        denied = await http.post("/api/admin/denials", json={"token_id": token_id})
    assert denied.status_code == HTTPStatus.CREATED, denied.text
    owner = await asyncpg.connect(arena.backends.database_urls["owner"])
    try:
        lasts = await owner.fetchval(
            "select extract(epoch from until - created_at)::float8 from denials where value = $1", token_id
        )
    finally:
        await owner.close()
    return file["expires_at"] - file["created_at"], lasts
