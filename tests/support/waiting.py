"""Waiting for a state with a deadline; never for a guessed time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

Found = TypeVar("Found")


async def wait_until(look: Callable[[], Awaitable[Found]], *, seconds: float = 30.0, what: str = "") -> Found:
    """What `look` sees as soon as it is true. Fails after `seconds`, saying what was awaited and last seen."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        seen = await look()
        if seen:
            return seen
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or look.__name__}; last seen: {seen!r}")
        await asyncio.sleep(0.02)
