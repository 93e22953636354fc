"""Work that ends when something else happens: a stop, a client that goes away, a user who is shut out.

Nobody waits for such a thing in a task of its own, of which ten thousand streams would need thirty thousand.
"""

import asyncio
from types import TracebackType
from typing import Protocol, Self

from starlette.types import Receive, Scope

# Of our own server: `tell` calls back once the client of the request has gone away, and what is left of the request's
# body is dropped from then on.
GONE_EXTENSION = "parley.gone"


class Ending(Protocol):
    """Something that may happen while work is done, which is to end then."""

    def watch(self, until: "Until") -> None:
        """Call `until.end` when it happens; at once, if it has happened."""
        ...

    def forget(self, until: "Until") -> None: ...


class Until:
    """Breaks off what its task does inside after `seconds`, or as soon as one of `endings` happens.

    Nothing is raised for that: the body just ends.
    """

    __slots__ = ("_endings", "_is_inside", "_window", "has_broken_off")

    def __init__(self, *endings: Ending, seconds: float | None = None) -> None:
        self._endings = endings
        self._window = asyncio.timeout(seconds)
        self._is_inside = False
        self.has_broken_off = False

    def end(self) -> None:
        """To be called from anywhere on the event loop, as often as one likes."""
        if self._is_inside and not self._window.expired():
            self._window.reschedule(asyncio.get_running_loop().time())

    async def __aenter__(self) -> Self:
        await self._window.__aenter__()
        self._is_inside = True
        for ending in self._endings:
            ending.watch(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._is_inside = False
        for ending in self._endings:
            ending.forget(self)
        try:
            await self._window.__aexit__(kind, error, traceback)
        except TimeoutError:
            self.has_broken_off = True
        return self.has_broken_off


class Signal(asyncio.Event):
    """An event that work can end with."""

    def __init__(self) -> None:
        super().__init__()
        self._watchers: set[Until] = set()

    def set(self) -> None:
        super().set()
        for until in self._watchers:
            until.end()

    def watch(self, until: Until) -> None:
        self._watchers.add(until)
        if self.is_set():
            until.end()

    def forget(self, until: Until) -> None:
        self._watchers.discard(until)


class Gone:
    """The client of the request has gone away. Once it is watched, what is left of the request's body is dropped."""

    __slots__ = ("_looking", "_receive", "_tell", "_until", "has_happened")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._tell = scope.get("extensions", {}).get(GONE_EXTENSION, {}).get("tell")
        self._receive = receive
        self._until: Until | None = None
        self._looking: asyncio.Task[None] | None = None
        self.has_happened = False

    def watch(self, until: Until) -> None:
        self._until = until
        if self._tell is not None:
            self._tell(self._happen)
        else:
            self._looking = asyncio.create_task(self._look())

    def forget(self, _until: Until) -> None:
        self._until = None
        if self._looking is not None:
            self._looking.cancel()

    async def _look(self) -> None:
        """As any server allows it."""
        await disconnected(self._receive)
        self._happen()

    def _happen(self) -> None:
        self.has_happened = True
        if self._until is not None:
            self._until.end()


async def disconnected(receive: Receive) -> None:
    """Returns when the client has gone away. What is left of the request's body is dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass
