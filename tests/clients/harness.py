"""What the Python clients' scripts share: each of their scenarios runs once, and its end is a line of JSON on stdout.

A script runs under its client's own Python, which has nothing of ours: only the standard library may be imported here.
`{"name": …, "ok": true|false, "detail": …}`: the detail of a scenario that failed is its traceback.
"""

import asyncio
import json
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

Scenario = Callable[[], Awaitable[None]]
Error = TypeVar("Error", bound=Exception)

BASE_URL = os.environ["BASE_URL"]  # ends in /v1
TOKEN = os.environ["TOKEN"]
OTHER_TOKEN = os.environ["OTHER_TOKEN"]  # another user's

ADD_MILK = "add a task: buy milk"
SHOW_LIST = "what is on my list?"
LONG = "[[demo: tokens=5000 delay_ms=20]] go"  # an answer that lasts until it is cancelled
FAILING = "[[demo: fault=400]] go"
THINKING = "[[demo: reasoning=5 tokens=5]] go"  # five words of reasoning, then the answer
WEATHER = '[[demo: call=get_weather args={"city":"Oslo"}]] what is the weather in Oslo?'
WEATHER_PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER_RESULT = "14 degrees and drizzle"
RED_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)

_SECONDS_MAX = 45.0
_AT_ONCE = 4
_scenarios: list[Scenario] = []


def scenario(function: Scenario) -> Scenario:
    """Mark a function as one of the script's scenarios. It fails by raising."""
    _scenarios.append(function)
    return function


def run(seconds_max: float = _SECONDS_MAX) -> None:
    """Run all of the script's scenarios, or those that its arguments name; some at a time, each at most so long."""
    wanted = [each for each in _scenarios if len(sys.argv) == 1 or each.__name__ in sys.argv[1:]]
    asyncio.run(_run(wanted, seconds_max))


async def _run(wanted: list[Scenario], seconds_max: float) -> None:
    places = asyncio.Semaphore(_AT_ONCE)

    async def told(each: Scenario) -> None:
        async with places:
            detail = await _failure_of(each, seconds_max)
        print(json.dumps({"name": each.__name__, "ok": not detail, "detail": detail}), flush=True)  # noqa: T201

    await asyncio.gather(*(told(each) for each in wanted))


async def _failure_of(each: Scenario, seconds_max: float) -> str:
    try:
        async with asyncio.timeout(seconds_max):
            await each()
    except Exception:  # noqa: BLE001 - whatever a foreign client raises is this scenario's end
        return traceback.format_exc()
    return ""


def same(seen: object, expected: object) -> None:
    """Fails unless the two are equal, showing both: no test runner rewrites these scripts' assertions."""
    if seen != expected:
        raise AssertionError(f"got {seen!r}, expected {expected!r}")


def holds(part: str, whole: str | None) -> None:
    """Fails unless `part` is in `whole`, showing both."""
    if whole is None or part not in whole:
        raise AssertionError(f"{part!r} is not in {whole!r}")


async def raised(kind: type[Error], request: Awaitable[Any]) -> Error:
    """The error of this kind that `request` ends in; fails if it ends in none."""
    try:
        answer = await request
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}, but {answer!r}")
