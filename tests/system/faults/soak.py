"""`./dev soak`: random faults, one after the other, on a system that talks all the while; the checker after each round.

The seed decides which faults come, in which order and when; it is printed, and given again it plays them again. What
else happens at the same time is up to the machine, as in life.
"""

import argparse
import asyncio
import random
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from deploy.local.postgres import PrivatePostgres
from deploy.local.rabbitmq import PrivateRabbit, service_urls
from shared.faults import CrashPoint
from tests.support.backends import Backends, new_database
from tests.support.services import private_postgres, private_rabbit
from tests.support.stack import ServiceProcess, Stack, running_stack
from tests.support.tcp import Line, Way, proxied
from tests.system.faults.load import ALARMS, HALF_OPEN_SECONDS, QUICK_REPAIRS, Arena

_FAULTS_PER_ROUND = 6
_PAUSE_SECONDS_MAX = 2.0
_PATIENCE_SECONDS = 900.0  # readers must not give up while faults go on; the verdict waits for them so long as it says
_FROZEN_SECONDS = 6.0
_OUTAGE_SECONDS = 30.0
_ALARM_SECONDS = 8.0
_KINDS = ("gateway", "chat-worker", "persistence", "task-tools")
_ROLE_OF_KIND = {
    "gateway": "parley_gateway",
    "chat-worker": "parley_worker",
    "persistence": "parley_persistence",
}
_KIND_OF_POINT = {"gateway": "gateway", "dispatch": "gateway", "worker": "chat-worker", "persistence": "persistence"}


@dataclass
class Soak:
    """Deals out faults. Everything that is decided by chance is decided by `chance`."""

    stack: Stack
    backends: Backends
    postgres: PrivatePostgres
    rabbit: PrivateRabbit
    lines: Sequence[Line]
    chance: random.Random
    injected: Counter[str] = field(default_factory=Counter)

    async def round(self) -> list[str]:
        """Some faults under load, then peace, then the checker's verdict."""
        arena = Arena(self.stack, self.backends, patience_seconds=_PATIENCE_SECONDS)
        over = asyncio.Event()
        talking = asyncio.create_task(self._talk(arena, over))
        try:
            for _ in range(_FAULTS_PER_ROUND):
                await asyncio.sleep(self.chance.random() * _PAUSE_SECONDS_MAX)
                await self._inject()
            over.set()
            await talking
            await self.stack.heal()
            return await arena.verdict(seconds=60)
        finally:
            talking.cancel()
            await arena.close()

    async def _talk(self, arena: Arena, over: asyncio.Event) -> None:
        while not over.is_set():
            for said in await arena.talk():
                if secrets.randbelow(10) == 0:
                    await next(user for user in arena.users if user.user_id == said.user_id).cancel(said)
            await asyncio.sleep(0.5)

    async def _inject(self) -> None:
        faults: list[tuple[Callable[[], Awaitable[str]], int]] = [
            (self._kill, 5),
            (self._stop, 3),
            (self._crash, 5),
            (self._freeze, 2),
            (self._restart_broker, 1),
            (self._wipe_broker, 1),
            (self._block_publishers, 1),
            (self._restart_postgres, 2),
            (self._stop_postgres_for_long, 1),
            (self._break_line, 4),
        ]
        [inject] = self.chance.choices([fault for fault, _ in faults], [weight for _, weight in faults])
        name = await inject()
        self.injected[name] += 1
        _say(name)

    def _any(self, *kinds: str) -> ServiceProcess:
        return self.chance.choice([process for kind in kinds for process in self.stack.of_kind(kind)])

    async def _kill(self) -> str:
        process = self._any(*_KINDS)
        process.kill()
        await self.stack.heal()
        return f"kill {process.kind}"

    async def _stop(self) -> str:
        process = self._any(*_KINDS)
        await asyncio.to_thread(process.stop)
        await self.stack.heal()
        return f"stop {process.kind}"

    async def _crash(self) -> str:
        """At its place, if the process comes there; until the next fault otherwise."""
        point = self.chance.choice(get_args(CrashPoint))
        process = self._any(_KIND_OF_POINT[point.partition(".")[0]])
        visit = self.chance.randint(1, 5)
        await self.stack.restart_with({process.name: {"PARLEY_FAULT": f"{point}:{visit}"}})
        return f"crash at {point}"

    async def _freeze(self) -> str:
        process = self._any("chat-worker", "persistence")
        process.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(_FROZEN_SECONDS)
        finally:
            process.signal(signal.SIGCONT)
        return f"freeze {process.kind}"

    async def _restart_broker(self) -> str:
        await asyncio.to_thread(self.rabbit.kill)
        await asyncio.to_thread(self.rabbit.start)
        return "kill RabbitMQ"

    async def _wipe_broker(self) -> str:
        await asyncio.to_thread(self.rabbit.kill)
        self.rabbit.wipe()
        await asyncio.to_thread(self.rabbit.start)
        return "wipe RabbitMQ"

    async def _block_publishers(self) -> str:
        alarm = self.chance.choice(sorted(ALARMS))
        raised, cleared = ALARMS[alarm]
        await asyncio.to_thread(self.rabbit.control, *raised)
        try:
            await asyncio.sleep(_ALARM_SECONDS)
        finally:
            await asyncio.to_thread(self.rabbit.control, *cleared)
        return f"RabbitMQ out of {alarm}"

    async def _restart_postgres(self) -> str:
        await asyncio.to_thread(self.postgres.kill)
        await asyncio.to_thread(self.postgres.start)
        return "kill Postgres"

    async def _stop_postgres_for_long(self) -> str:
        await asyncio.to_thread(self.postgres.stop)
        await asyncio.sleep(_OUTAGE_SECONDS)
        await asyncio.to_thread(self.postgres.start)
        return "Postgres away"

    async def _break_line(self) -> str:
        """Of some processes to the broker, or to Postgres: cut, or frozen in one way or in both."""
        line = self.chance.choice(self.lines)
        ways = self.chance.choice([None, *Way, Way.BOTH])
        line.cut() if ways is None else line.freeze(ways)
        try:
            await asyncio.sleep(_FROZEN_SECONDS)
        finally:
            line.mend()
        return f"line {'cut' if ways is None else f'frozen {ways.name}'.lower()}"


def soak(minutes: float, seed: int) -> list[str]:
    """Rounds until the time is over, or until one found violations, which are returned."""
    _say(f"seed {seed}")
    folder = Path(tempfile.mkdtemp(prefix="parley-soak-"))
    with private_postgres() as postgres, private_rabbit() as rabbit, new_database(postgres.url) as urls:
        backends = Backends(urls, rabbit.url)
        violations = asyncio.run(_rounds(backends, postgres, rabbit, folder, 60 * minutes, seed))
    _say("\n".join(violations) or "no violation")
    _say(f"logs: {folder}; the same faults again: ./dev soak --minutes {minutes:g} --seed {seed}")
    return violations


async def _rounds(  # noqa: PLR0913, PLR0917 - all that a soak is made of
    backends: Backends, postgres: PrivatePostgres, rabbit: PrivateRabbit, folder: Path, seconds: float, seed: int
) -> list[str]:
    counts = {"gateway": 2, "chat-worker": 2, "persistence": 2}
    violations: list[str] = []
    async with AsyncExitStack() as opened:
        broker_url, broker_line = await opened.enter_async_context(proxied(backends.rabbitmq_url))
        lines, variables_of = [broker_line], {}
        for kind, role in _ROLE_OF_KIND.items():
            url, line = await opened.enter_async_context(proxied(backends.database_urls[role]))
            lines.append(line)
            prefix = kind.upper().replace("-", "_")
            variables_of[f"{kind}-1"] = {
                f"{prefix}_DATABASE_URL": url,
                **service_urls(f"{broker_url}?heartbeat={HALF_OPEN_SECONDS}"),
            }
        stack = await opened.enter_async_context(
            running_stack(backends, folder, counts=counts, variables=QUICK_REPAIRS, variables_of=variables_of)
        )
        dealer = Soak(stack, backends, postgres, rabbit, lines, random.Random(seed))  # noqa: S311 - no secret
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at and not violations:
            violations = await dealer.round()
        _say(f"{dealer.injected.total()} faults: {dict(dealer.injected.most_common())}")
    return violations


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)  # noqa: T201 - a program of the terminal


def main() -> None:
    parser = argparse.ArgumentParser(prog="./dev soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9))
    asked = parser.parse_args()
    sys.exit(1 if soak(asked.minutes, asked.seed) else 0)


if __name__ == "__main__":
    main()
