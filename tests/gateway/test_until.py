"""Work that ends when something else happens."""

import asyncio
from typing import Any

import pytest

from gateway.until import GONE_EXTENSION, Ending, Gone, Signal, Until


async def never(*_: object) -> Any:
    await asyncio.Event().wait()


async def test_work_ends_when_the_signal_comes() -> None:
    signal = Signal()
    asyncio.get_running_loop().call_soon(signal.set)

    async with Until(never_ending := Signal(), signal) as until:
        await never()

    assert until.has_broken_off
    assert not never_ending.is_set()


async def test_work_ends_after_its_time() -> None:
    async with Until(seconds=0.001) as until:
        await never()

    assert until.has_broken_off


async def test_work_does_not_wait_once_the_signal_was_given() -> None:
    signal = Signal()
    signal.set()

    async with Until(signal) as until:
        await never()

    assert until.has_broken_off


async def test_several_endings_at_once_are_one() -> None:
    signals = [Signal(), Signal()]
    for signal in signals:
        asyncio.get_running_loop().call_soon(signal.set)

    async with Until(*signals, seconds=0) as until:
        await never()

    assert until.has_broken_off


async def test_what_happens_when_the_work_is_done_breaks_off_nothing() -> None:
    signal = Signal()

    async with Until(signal) as until:
        pass
    signal.set()
    until.end()
    await asyncio.sleep(0)

    assert not until.has_broken_off


async def test_errors_of_the_work_are_its_own() -> None:
    with pytest.raises(TimeoutError):
        async with Until(Signal(), seconds=60):
            raise TimeoutError


async def test_who_cancels_the_task_cancels_it() -> None:
    async def work() -> None:
        async with Until(Signal(), seconds=60):
            await never()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("is_told", [True, False], ids=["our own server", "any server"])
async def test_a_client_that_goes_away_ends_the_work(is_told: bool) -> None:  # noqa: FBT001
    went = asyncio.Event()
    asyncio.get_running_loop().call_soon(went.set)

    def tell(gone: Any) -> None:
        asyncio.get_running_loop().call_soon(gone)

    async def receive() -> dict[str, str]:
        await went.wait()
        return {"type": "http.disconnect"}

    gone = Gone({"extensions": {GONE_EXTENSION: {"tell": tell}}}, never) if is_told else Gone({}, receive)
    ending: Ending = gone
    async with Until(ending) as until:
        await never()

    assert until.has_broken_off
    assert gone.has_happened
