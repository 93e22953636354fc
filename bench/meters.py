"""What a system spends: CPU of its processes and of both servers, memory, commits, messages, bytes."""

import asyncio
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx2

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SETTLED_SECONDS = 6.0  # the broker counts every five


@dataclass(frozen=True, slots=True)
class Servers:
    """Postgres and RabbitMQ that the benches run on; a server's pid is None where somebody else runs it."""

    owner_url: str = ""
    management_url: str = ""
    pids: Mapping[str, int] = field(default_factory=dict)


def cpu_seconds(pid: int) -> float:
    """Of a process and all below it, also of those that have ended since."""
    children, times = _processes()
    total, waiting = 0.0, [pid]
    while waiting:
        one = waiting.pop()
        total += times.get(one, 0.0)
        waiting += children.get(one, ())
    return total


def memory_bytes(pid: int) -> int:
    """Resident memory of one process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


def _processes() -> tuple[dict[int, list[int]], dict[int, float]]:
    """The children of each process, and what each has used, with its children that it has seen ending."""
    children: dict[int, list[int]] = {}
    times: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        children.setdefault(int(fields[1]), []).append(int(entry.name))
        times[int(entry.name)] = sum(map(int, fields[11:15])) / _TICKS
    return children, times


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters at a moment. `writes`: transactions that changed something; `messages`: published to the broker."""

    cpu: Mapping[str, float]
    writes: int = 0
    messages: int | None = None
    wal_bytes: int = 0


async def read(
    processes: Mapping[str, int], used: Collection[str], servers: Servers, *, counts_messages: bool = False
) -> Reading:
    """Of the named processes, and of those `servers` that the system uses.

    With `counts_messages` it waits until the broker's own count has settled, which takes some seconds.
    """
    named = {**processes, **{name: pid for name, pid in servers.pids.items() if name in used}}
    cpu = {name: cpu_seconds(pid) for name, pid in named.items()}
    if "postgres" not in used:
        return Reading(cpu)
    connection = await asyncpg.connect(servers.owner_url)
    try:
        row = await connection.fetchrow(
            "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as writes, "
            "pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint as wal_bytes"
        )
        assert row is not None
    finally:
        await connection.close()
    messages = await settled_messages(servers) if counts_messages and "rabbitmq" in used else None
    return Reading(cpu, row["writes"], messages, row["wal_bytes"])


async def settled_messages(servers: Servers) -> int:
    """How many messages the broker was given since it started, once that does not change any more."""
    async with httpx2.AsyncClient(timeout=10) as http:
        loop = asyncio.get_running_loop()
        last, since = -1, loop.time()
        while loop.time() - since < _SETTLED_SECONDS:
            overview: dict[str, Any] = (await http.get(f"{servers.management_url}/api/overview")).json()
            count = int(overview.get("message_stats", {}).get("publish", 0))
            if count != last:
                last, since = count, loop.time()
            await asyncio.sleep(0.5)
        return last


def spent(before: Reading, after: Reading, turns: int) -> dict[str, Any]:
    """Per turn."""
    cpu = {name: round((after.cpu[name] - used) / turns * 1000, 3) for name, used in before.cpu.items()}
    found = {
        "cpu_ms_per_turn": {**cpu, "all": round(sum(cpu.values()), 3)},
        "writes_per_turn": round((after.writes - before.writes) / turns, 3),
        "wal_bytes_per_turn": round((after.wal_bytes - before.wal_bytes) / turns),
    }
    if before.messages is not None and after.messages is not None:
        found["messages_per_turn"] = round((after.messages - before.messages) / turns, 3)
    return found
