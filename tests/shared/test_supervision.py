"""A part that should run for ever, and does not."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from shared.supervision import supervised


async def _returns() -> None:
    await asyncio.sleep(0)


async def _fails() -> None:
    raise OSError


async def _is_cancelled_from_below() -> None:
    lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    lost.cancel()
    await lost


@pytest.mark.parametrize("part", [_returns, _fails, _is_cancelled_from_below])
async def test_however_a_part_ends_it_is_noticed(part: Callable[[], Awaitable[None]]) -> None:
    noticed = asyncio.Event()

    async def run() -> None:
        await part()

    supervised(run(), "part", noticed.set)

    await asyncio.wait_for(noticed.wait(), 5)


@pytest.mark.parametrize("has_started", [False, True])
async def test_a_part_that_is_stopped_on_purpose_ends_silently(*, has_started: bool) -> None:
    noticed, started = asyncio.Event(), asyncio.Event()

    async def run() -> None:
        started.set()
        await asyncio.Event().wait()

    task = supervised(run(), "part", noticed.set)
    if has_started:
        await started.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0)  # its callbacks run with the next turn of the loop

    assert not noticed.is_set()
