"""`./dev soak --cross-talk`: many tenants on a system that is disturbed all the while; nobody may see another's words.

The seed decides what each tenant does, where their readers leave and what is disturbed; it is printed, and given again
it plays the same again, as far as the machine lets it.
"""

import argparse
import asyncio
import json
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import asyncpg
import httpx2

from deploy.local.rabbitmq import service_urls
from shared.ids import uuid7
from tests.support import tool_server
from tests.support.accounts import user_tables
from tests.support.asgi import served
from tests.support.backends import Backends, new_database
from tests.support.services import private_postgres, private_rabbit
from tests.support.stack import Stack, running_stack
from tests.support.tcp import Line, proxied
from tests.system.crosstalk.disturbances import Disturbances
from tests.system.crosstalk.relays import Relay
from tests.system.crosstalk.tenants import Tenant
from tests.system.crosstalk.watch import Canaries, Watch
from tests.system.crosstalk.wire import STAYS, Leave, Proxy, Request, any_leave
from tests.system.faults.load import HALF_OPEN_SECONDS, QUICK_REPAIRS

_COUNTS = {"gateway": 2, "chat-worker": 2}
_HTTP_OK, _HTTP_ERROR = 200, 500
_REST_SECONDS = 40.0
_VARIABLES = {
    **QUICK_REPAIRS,
    "LOG_LEVEL": "DEBUG",
    # So few that they run out again and again.
    "GATEWAY_DATABASE_POOL_SIZE": "3",
    "CHAT_WORKER_DATABASE_POOL_SIZE": "3",
    "PERSISTENCE_DATABASE_POOL_SIZE": "3",
    "TASK_TOOLS_DATABASE_POOL_SIZE": "2",
    "GATEWAY_REQUESTS_BURST_MAX": "1000000",
    "GATEWAY_EXPORTS_PER_HOUR_MAX": "1000000",
    "CHAT_WORKER_TITLES_ENABLED": "true",
    "DEMO_MODEL_DELAY_MS": "3",
    "PERSISTENCE_WEBHOOK_ROUND_SECONDS": "0.2",
}


@dataclass
class Field:
    """A running system whose every mouth and ear is watched. Each run on it has tenants, and a watch, of its own."""

    stack: Stack
    backends: Backends
    line: Line
    hook_url: str
    watch: Watch

    async def run(self, *, users: int, seconds: float, seed: int) -> "Report":
        """So many tenants for so long; then peace, and each looks at all they have."""
        canaries = self.watch.canaries = Canaries(uuid7().hex[-8:])
        log_sizes = {name: process.log.stat().st_size for name, process in self.stack.processes.items()}
        chance = random.Random(seed)  # noqa: S311 - no secret
        gateways = [gateway.url for gateway in self.stack.of_kind("gateway")]
        proxy = Proxy(gateways, random.Random(chance.random()))  # noqa: S311
        tenants = [
            Tenant(number, canaries, random.Random(chance.random()), self.hook_url)  # noqa: S311
            for number in range(users)
        ]
        owner = await asyncpg.connect(self.backends.database_urls["owner"])
        disturbances = Disturbances(owner, self.line, random.Random(chance.random()))  # noqa: S311
        over = asyncio.Event()
        try:
            asyncio.get_running_loop().call_later(seconds, over.set)
            busy = [_Crowd(proxy, self.watch, tenants, tenant).go_on(over) for tenant in tenants]
            await asyncio.gather(*busy, disturbances.go_on(over), self._measure(over))
            unseen = await _look_at_everything(proxy, self.watch, tenants)
            await self._look_at_rows(owner, tenants)
            await self._measure(over)
            self._look_at_logs(log_sizes)
        finally:
            await proxy.close()
            await owner.close()
        found = list(dict.fromkeys(self.watch.found)) + unseen
        self.watch.found.clear()
        return Report(found, proxy.counts + disturbances.counts, Counter(self.watch.byte_counts), self.watch.own_count)

    async def _measure(self, over: asyncio.Event) -> None:
        """The metrics of all, again and again until it is over, and once more."""
        # A connection that was idle for as long as a server keeps it may be closed just as it is used again.
        unkept = httpx2.Limits(max_keepalive_connections=0)
        async with httpx2.AsyncClient(timeout=20, limits=unkept) as http:
            while True:
                is_last = over.is_set()
                for name, process in self.stack.processes.items():
                    if process.kind != "demo-model":
                        self.watch.measured(name, (await http.get(f"{process.url}/metrics")).content)
                if is_last:
                    return
                await asyncio.sleep(1)

    async def _look_at_rows(self, owner: asyncpg.Connection, tenants: Sequence[Tenant]) -> None:
        names = [tenant.user_id for tenant in tenants]
        for table in sorted(await user_tables(self.backends.database_urls["owner"])):
            rows = await owner.fetch(
                f"select user_id, t::text as row from {table} t where user_id = any($1::text[])",  # noqa: S608
                names,
            )
            for row in rows:
                self.watch.stored(row["user_id"], table, row["row"].encode())

    def _look_at_logs(self, log_sizes: Mapping[str, int]) -> None:
        for name, process in self.stack.processes.items():
            with process.log.open("rb") as log:
                log.seek(log_sizes[name])
                for line in log:
                    self.watch.logged(name, line)


@dataclass(frozen=True)
class Report:
    """What was found, and how much was done and searched."""

    found: list[str]
    counts: Counter[str]
    byte_counts: Counter[str]
    own_count: int

    def __str__(self) -> str:
        lines = [f"{count:>12,}  {what}" for what, count in sorted(self.counts.items()) if count]
        lines += [f"{count:>12,}  bytes {what}" for what, count in sorted(self.byte_counts.items())]
        lines.append(f"{self.own_count:>12,}  times somebody's own words, where they belong")
        return "\n".join([*lines, *(f"FOUND: {one}" for one in self.found)])


@dataclass
class _Crowd:
    """What one tenant does, now and then together with others on one connection."""

    proxy: Proxy
    watch: Watch
    tenants: Sequence[Tenant]
    tenant: Tenant

    async def go_on(self, over: asyncio.Event) -> None:
        chance = self.tenant.chance
        while not over.is_set():
            leave = any_leave(chance) if chance.random() < 0.4 else STAYS
            also = chance.sample(self.tenants, chance.randrange(1, 4)) if chance.random() < 0.2 else []
            await self._send([self.tenant, *also], leave)

    async def _send(self, senders: Sequence[Tenant], leave: Leave) -> None:
        requests = [sender.anything() for sender in senders]
        for sender, request, reply in zip(senders, requests, await self.proxy.carry(requests, leave), strict=True):
            self.watch.shown(sender.number, request.what, reply.head + reply.body)
            if reply.status == _HTTP_ERROR:
                self.watch.found.append(f"{request.what} was answered 500")
            if request.names_sender and reply.is_whole and reply.status == _HTTP_OK:
                self.watch.named(sender.number, request.what, bytes(reply.body))
            sender.learn(reply)


async def _look_at_everything(proxy: Proxy, watch: Watch, tenants: Sequence[Tenant]) -> list[str]:
    """Who is not shown all they have, once it is quiet again."""
    deadline = time.monotonic() + _REST_SECONDS
    turns = asyncio.Semaphore(8)

    async def look(tenant: Tenant, request: Request) -> str | None:
        while True:
            async with turns:
                [reply] = await proxy.carry([request])
            watch.shown(tenant.number, request.what, reply.head + reply.body)
            if reply.is_whole and reply.status == _HTTP_OK:
                return None
            if time.monotonic() > deadline:
                return f"{tenant.user_id} is still answered {reply.status} to {request.what}"
            await asyncio.sleep(0.2)

    asked = chain.from_iterable((look(tenant, request) for request in tenant.everything()) for tenant in tenants)
    return [unseen for unseen in await asyncio.gather(*asked) if unseen]


@asynccontextmanager
async def watched_field(
    backends: Backends, folder: Path, variables: Mapping[str, str] | None = None
) -> AsyncIterator[Field]:
    """A system with small pools, whose model, tool server and webhooks are reached by recorders."""
    watch = Watch(Canaries(uuid7().hex[-8:]))

    def hear_model(_path: str, _headers: dict[str, str], asked: bytes, answered: bytes) -> None:
        watch.asked(asked + answered)

    def hear_tool(_path: str, headers: dict[str, str], asked: bytes, answered: bytes) -> None:
        if "authorization" in headers:
            watch.called(tool_server.Request(headers, asked).claims["sub"], asked + answered)

    def hear_hook(path: str, headers: dict[str, str], told: bytes, _answered: bytes) -> None:
        watch.byte_counts["told to webhooks"] += len(told)
        watch.shown(watch.canaries.named(path.rpartition("/")[2]), "a webhook", json.dumps(headers).encode() + told)

    relays = [Relay(hear_model), Relay(hear_tool), Relay(hear_hook, answer=200)]
    async with AsyncExitStack() as opened:
        for relay in relays:
            opened.push_async_callback(relay.close)
        model_url, tool_url, hook_url = [await opened.enter_async_context(served(relay)) for relay in relays]
        broker_url, line = await opened.enter_async_context(proxied(backends.rabbitmq_url))
        around = {
            **service_urls(f"{broker_url}?heartbeat={HALF_OPEN_SECONDS}"),
            "OPENAI_BASE_URL": f"{model_url}/v1",
            "TASK_TOOLS_URL": f"{tool_url}/mcp",
            "EGRESS_ALLOWED": '["127.0.0.1"]',
            "EGRESS_PORTS": json.dumps([httpx2.URL(hook_url).port]),
            "EGRESS_ALLOWS_HTTP": "true",
        }
        every = {**_VARIABLES, **around, **(variables or {})}
        stack = await opened.enter_async_context(running_stack(backends, folder, counts=_COUNTS, variables=every))
        for relay, kind in zip(relays, ("demo-model", "task-tools"), strict=False):
            relay.target = stack.of_kind(kind)[0].url
        yield Field(stack, backends, line, hook_url, watch)


def soak(users: int, seconds: float, seed: int) -> Report:
    """On servers of its own."""
    _say(f"{users} users, {seconds:g} seconds, seed {seed}")
    folder = Path(tempfile.mkdtemp(prefix="parley-cross-talk-"))

    async def run(backends: Backends) -> Report:
        async with watched_field(backends, folder) as field:
            return await field.run(users=users, seconds=seconds, seed=seed)

    with private_postgres() as postgres, private_rabbit() as rabbit, new_database(postgres.url) as urls:
        report = asyncio.run(run(Backends(urls, rabbit.url)))
    _say(f"{report}\nlogs: {folder}")
    return report


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)  # noqa: T201 - a program of the terminal


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="./dev soak", description=__doc__)
    parser.add_argument("--cross-talk", action="store_true", required=True, help="this soak, not that of all faults")
    parser.add_argument("--users", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9))
    asked = parser.parse_args(arguments)
    sys.exit(1 if soak(asked.users, asked.seconds, asked.seed).found else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
