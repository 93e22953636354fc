"""Connections that break, or are only half there: nobody died, and nobody can hear the other."""

import asyncio

import pytest

from shared.ids import Prefix, from_wire
from tests.support.tcp import Line, Way
from tests.system.faults.load import Arena
from tests.system.faults.wire import row_when

_BROKEN = "chat-worker-1"  # behind the line


@pytest.mark.parametrize("ways", [Way.BOTH, Way.TO_SERVER], ids=["both ways", "one way"])
async def test_a_worker_that_the_broker_cannot_hear_goes_on_while_another_has_its_jobs(
    whole: Arena, broker_line: tuple[str, Line], ways: Way
) -> None:
    """A half-open partition with a live zombie: Postgres still hears it, so its leases stay alive."""
    _, line = broker_line
    user = whole.users[0]
    said = [await user.ask(tokens=150, delay_ms=40) for _ in range(4)]
    readers = [whole.read(user, spoken) for spoken in said]
    for spoken in said:
        job_id = from_wire(Prefix.RESPONSE, spoken.response_id)
        await row_when(whole.backends, job_id, "next_seq > 5")

    line.freeze(ways)
    try:
        await asyncio.gather(*readers)
    finally:
        line.mend()

    await whole.talk()
    assert await whole.verdict(attempts_max=2) == []
    assert 2 in (await whole.attempts()).values()  # so there was a zombie


async def test_a_gateway_that_cannot_reach_the_broker_accepts_and_streams_all_the_same(
    whole: Arena, broker_line: tuple[str, Line]
) -> None:
    _, line = broker_line
    line.cut()
    try:
        await whole.talk()
        assert await whole.verdict(attempts_max=2) == []
    finally:
        line.mend()


async def test_a_line_that_flaps_loses_nothing(whole: Arena, broker_line: tuple[str, Line]) -> None:
    """Nor does anybody hold more connections or tasks after many breaks than after one."""
    _, line = broker_line
    await _flap(whole, line)
    await whole.rest()

    for _ in range(4):
        await _flap(whole, line)

    assert await whole.verdict() == []


async def _flap(arena: Arena, line: Line) -> None:
    talking = asyncio.create_task(arena.talk())
    line.cut()
    await asyncio.wait({talking}, timeout=0.5)
    line.mend()
    await talking
