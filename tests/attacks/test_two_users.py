"""Two users at once, whose requests follow from each other's answers in any order; a third one tries all ids of theirs.

Nobody sees what is another's, nothing that is refused leaves a row, and nothing ends in an error of ours. With
`ATTACK_SECONDS` it goes on for longer.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx2
import pytest

from shared.ids import uuid7
from tests.attacks.effort import IS_LONG, SECONDS
from tests.attacks.judge import DOCUMENT, Judge
from tests.clients.environments import python_of
from tests.support.asgi import served
from tests.support.backends import Backends, new_backends
from tests.support.stack import Stack, running_stack, token_of

# By number in every run, so that a slow machine tries no less.
_EFFORT = ("--max-time", str(SECONDS)) if IS_LONG else ("--max-examples", "10")
_SETTINGS = Path(__file__).with_name("schemathesis.toml")
_UNHURRIED = {"GATEWAY_REQUESTS_BURST_MAX": "1000000", "CHAT_WORKER_MODEL_TIMEOUT_SECONDS": "20"}


@dataclass(frozen=True)
class Attacked:
    url: str
    judge: Judge
    stack: Stack

    def complaints(self) -> str:
        """What the gateway found wrong; it says no more than this to those who asked."""
        return "\n".join(line for line in self.stack.logs("gateway").splitlines() if '"level":"info"' not in line)


@pytest.fixture
def backends() -> Iterator[Backends]:
    with new_backends() as own:
        yield own


@pytest.fixture
async def attacked(backends: Backends, tmp_path: Path) -> AsyncIterator[Attacked]:
    names = [f"{name}-{uuid7().hex[-12:]}" for name in ("ada", "bob", "mallory")]
    tokens = {token_of(name): name for name in names[:2]}
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(running_stack(backends, tmp_path, variables=_UNHURRIED))
        pool = await stack.enter_async_context(
            asyncpg.create_pool(backends.database_urls["owner"], min_size=2, max_size=2)
        )
        http = await stack.enter_async_context(httpx2.AsyncClient(base_url=system.gateway().url, timeout=60))
        judge = Judge(http, pool, tokens, names[2], token_of(names[2]))
        yield Attacked(await stack.enter_async_context(served(judge)), judge, system)


async def _attack(url: str, token: str, user: str, seed: int) -> str:
    """What the attacker says; empty where it found nothing."""
    program = (await asyncio.to_thread(python_of, "openapi")).with_name("schemathesis")
    options = ("--no-color", "--config-file", _SETTINGS, "run", f"{url}{DOCUMENT}", "--phases", "examples,stateful")
    running = await asyncio.create_subprocess_exec(
        *(program, *options, "--seed", str(seed), *_EFFORT),
        env={"PATH": os.environ["PATH"], "TOKEN": token, "USER_ID": user},
        cwd=_SETTINGS.parent,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await running.communicate()
    return said.decode() if running.returncode else ""


async def test_two_users_at_once_get_what_is_theirs_and_what_is_refused_leaves_nothing(attacked: Attacked) -> None:
    judge = attacked.judge

    said = await asyncio.gather(
        *(_attack(attacked.url, token, user, seed) for seed, (token, user) in enumerate(judge.users.items()))
    )

    print(judge.statuses, sorted(judge.reached))  # noqa: T201 - how far they came
    assert said == ["", ""], "\n".join([*said, attacked.complaints()])
    assert judge.findings == []
    assert not any((await judge.rows_of(judge.stranger)).values())
    assert judge.statuses["a stranger's"] > 0
