"""Loopback ports: free ones, and the same ones at the next start."""

import json
import random
import socket
import zlib
from collections.abc import Iterable
from pathlib import Path

from deploy.local.terminal import Failure

LOOPBACK = "127.0.0.1"
GATEWAY_PORT = 8080
_FIRST, _LAST = 20_000, 29_999  # below the ports that systems hand out to outgoing connections


def is_free(port: int) -> bool:
    """Whether nothing listens on `port`: neither on loopback nor on every address."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        if probe.connect_ex((LOOPBACK, port)) == 0:
            return False
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a port just left counts as taken
        try:
            listener.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_ports(count: int, *, taken: Iterable[int] = ()) -> list[int]:
    """`count` different free ports, from a random place so that two runs at once hardly meet."""
    return _search(random.randint(_FIRST, _LAST), count, set(taken))  # noqa: S311 - no secret


def stable_ports(names: Iterable[str], record: Path, seed: str) -> dict[str, int]:
    """One free port per name, the same as last time as far as these are still free.

    `record` is the JSON file that remembers them. `seed` (the checkout's path) decides where a first search begins, so
    that several checkouts get different ports, and the same checkout the same ones even after a clean-up.
    """
    known: dict[str, int] = json.loads(record.read_text()) if record.exists() else {}
    ports = {name: known[name] for name in names if name in known and is_free(known[name])}
    missing = [name for name in names if name not in ports]
    start = _FIRST + zlib.crc32(seed.encode()) % ((_LAST - _FIRST) // 20) * 20
    ports |= dict(zip(missing, _search(start, len(missing), set(known.values())), strict=True))
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(known | ports, indent=2) + "\n")
    return ports


def gateway_port(asked: int | None) -> int:
    """The port that users reach: the one asked for, which must be free; otherwise 8080 or the next free one."""
    if asked is None:
        return next(port for port in range(GATEWAY_PORT, 65_536) if is_free(port))
    if not is_free(asked):
        raise Failure(f"port {asked} is in use: stop what listens there, or choose another with ./dev up --port N")
    return asked


def _search(start: int, count: int, taken: set[int]) -> list[int]:
    span = _LAST - _FIRST + 1
    found: list[int] = []
    for step in range(span):
        port = _FIRST + (start - _FIRST + step) % span
        if len(found) == count:
            break
        if port not in taken and is_free(port):
            found.append(port)
    return found
