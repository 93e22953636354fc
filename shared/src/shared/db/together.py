"""What is asked for at the same time is asked for together: one statement, one transaction, one commit for all of it.

A single one goes at once. Those that come while a statement is under way wait for its answer, and are the next one: on
a disk that takes milliseconds for a commit, that is what lets a process do thousands of them a second.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Generic, TypeVar

from shared.db.errors import is_undone

_TOGETHER_MAX = 32
_PATIENCE_SECONDS = 0.02  # a statement that takes longer, as for a row that is locked, holds up no others

_Asked = TypeVar("_Asked")
_Told = TypeVar("_Told")


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting(Generic[_Asked, _Told]):
    asked: _Asked
    told: "asyncio.Future[_Told]"


class Together(Generic[_Asked, _Told]):
    """Asks by `carry_out`, which is one transaction and tells of each that it is given, in that order.

    `fits` says whether one may go along with others that were asked for before it. What fails for several is asked for
    one by one: one of them may have spoilt it for the others. Where nobody knows whether it was carried out, all are
    told of the failure.
    """

    def __init__(
        self,
        carry_out: Callable[[Sequence[_Asked]], Awaitable[Sequence[_Told]]],
        fits: Callable[[Sequence[_Asked], _Asked], bool],
    ) -> None:
        self._carry_out = carry_out
        self._fits = fits
        self._waiting: list[_Waiting[_Asked, _Told]] = []
        self._is_busy = False
        self._turn = 0
        self._under_way: dict[asyncio.Task[None], Sequence[_Waiting[_Asked, _Told]]] = {}

    async def ask(self, asked: _Asked) -> _Told:
        """What `carry_out` tells of it. Raises what that raises for it, were it alone.

        What nobody waits for any more is broken off: carried out late, it could undo what was done since.
        """
        if not self._is_busy:
            turn = self._begin_turn()
            try:
                [told] = await self._carry_out([asked])
            finally:
                self._end_turn(turn)
            return told
        waiting: _Waiting[_Asked, _Told] = _Waiting(asked, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            return await waiting.told
        except asyncio.CancelledError:
            self._break_off()
            raise

    def _begin_turn(self) -> int:
        """Those that come from now on wait: until the end of the turn, or for as long as they have patience."""
        self._is_busy = True
        self._turn += 1
        asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, self._end_turn, self._turn)
        return self._turn

    def _end_turn(self, turn: int) -> None:
        """The next one begins, where one is wanted. A turn that ended before stays so."""
        if turn != self._turn:
            return
        self._is_busy = False
        if together := self._take():
            # It is about all of them: what it logs names none.
            task = asyncio.create_task(self._tell_in_turn(together, self._begin_turn()), context=Context())
            self._under_way[task] = together
            task.add_done_callback(self._under_way.pop)

    def _take(self) -> list[_Waiting[_Asked, _Told]]:
        """Those that go together now; the others go on waiting."""
        together: list[_Waiting[_Asked, _Told]] = []
        asked: list[_Asked] = []
        later = []
        for waiting in self._waiting:
            if waiting.told.done():
                continue  # who asked is gone
            if len(together) < _TOGETHER_MAX and self._fits(asked, waiting.asked):
                together.append(waiting)
                asked.append(waiting.asked)
            else:
                later.append(waiting)
        self._waiting = later
        return together

    async def _tell_in_turn(self, together: Sequence[_Waiting[_Asked, _Told]], turn: int) -> None:
        try:
            await self._tell(together)
        finally:
            self._end_turn(turn)

    async def _tell(self, together: Sequence[_Waiting[_Asked, _Told]]) -> None:
        try:
            all_told = await self._carry_out([waiting.asked for waiting in together])
        except Exception as error:  # noqa: BLE001 - goes to who asked
            if len(together) > 1 and is_undone(error):
                await asyncio.gather(*(self._tell([waiting]) for waiting in together if not waiting.told.done()))
                return
            for waiting in together:
                if not waiting.told.done():
                    waiting.told.set_exception(error)
        else:
            for waiting, told in zip(together, all_told, strict=True):
                if not waiting.told.done():
                    waiting.told.set_result(told)

    def _break_off(self) -> None:
        for task, together in self._under_way.items():
            if all(waiting.told.done() for waiting in together):
                task.cancel()
