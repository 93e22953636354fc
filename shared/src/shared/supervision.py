"""Parts of a process that run for as long as it does.

A process that has lost one of its parts looks alive and is of no use: it holds its leases, its connections, its share
of a queue. So it stops, loudly, and whoever runs it starts a new one. Nothing is lost by that (promise G7).
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from shared.observability import get_logger

log = get_logger()


def stop_process() -> None:
    """Ask this process to stop in order, as its supervisor would."""
    signal.raise_signal(signal.SIGTERM)


def supervised(
    coroutine: Coroutine[Any, Any, None], name: str, on_end: Callable[[], None] = stop_process
) -> asyncio.Task[None]:
    """Run `coroutine`, which should never end, as a task called `name`; `on_end` is called if it does.

    However it ends: by an error, by returning, or by a cancellation that nobody asked this task for (client libraries
    cancel what waits for a connection that they lost). Only `task.cancel()` ends it silently, so stop it by that and
    `await asyncio.gather(task, return_exceptions=True)`.
    """
    task = asyncio.create_task(coroutine, name=name)
    task.add_done_callback(partial(_notice, on_end=on_end))
    return task


def _notice(task: asyncio.Task[None], on_end: Callable[[], None]) -> None:
    error = None if task.cancelled() else task.exception()
    if task.cancelling():
        return
    log.error("part_ended", part=task.get_name(), cause=_cause(task, error), exc_info=error)
    on_end()


def _cause(task: asyncio.Task[None], error: BaseException | None) -> str:
    if task.cancelled():
        return "cancelled from below"
    return type(error).__name__ if error else "returned"
