"""Places where a test may have this process die, and protections that a test may have switched off.

A promise that no test attacks is a hope, and a test that cannot fail proves nothing. So the flow names the places where
a death hurts most (`reach`), and each protection asks whether it is off (`sabotaged`), for the tests that must go red
then. Both need settings that are refused outside the local profile; without them they cost one comparison.
"""

import os
import signal
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from shared.settings import ServiceSettings

CrashPoint: TypeAlias = Literal[
    "gateway.after_commit",  # a message is accepted; nobody is told, neither its sender nor a worker
    "dispatch.after_confirm",  # the broker has the job, and nothing notes it
    "worker.after_claim",
    "worker.mid_text",
    "worker.after_intent",  # the intent to call a tool is recorded, the call is not made
    "worker.after_tool",  # the tool has run, its result is not recorded
    "worker.after_flush",  # everything is confirmed, the job's delivery is not acknowledged
    "persistence.before_commit",
    "persistence.after_commit",  # nothing is acknowledged, fanned out or dispatched
    "persistence.before_fan_out",  # gateways and waiting workers are not told
    "persistence.before_dispatch",  # jobs that may run are not published
]
Protection: TypeAlias = Literal[
    "barrier",  # the next attempt closes what the dead one left open
    "broken_off",  # a connection to Postgres whose exchange was broken off is closed
    "claim_fence",  # an attempt that lost its job stops
    "confirm",  # what the broker did not confirm counts as not sent
    "idempotency",  # a tool call that comes again has no second effect
    "journal_fence",  # only the current attempt's events are stored
    "lease_clock",  # a lease ends by the clock of Postgres, whatever its worker's says
    "ledger",  # what an earlier attempt finished is not done again
    "outbox",  # an accepted job is published until a worker has it
    "user_predicates",  # every statement names the user whose rows it means
    "write_once",  # a job that ended takes no second end
]


@dataclass(slots=True)
class _Fault:
    point: str
    visits_left: int


_fault: _Fault | None = None
_switched_off: frozenset[str] = frozenset()


def configure_faults(settings: ServiceSettings) -> None:
    """Take over what the settings ask for; call once, at the start. Raises ValueError for names unknown here."""
    global _fault, _switched_off  # noqa: PLW0603 - of the process, like its death
    point, _, visit = (settings.fault or "").partition(":")
    switched_off = frozenset(filter(None, (settings.sabotage or "").split(",")))
    unknown = ({point} - {"", *get_args(CrashPoint)}) | (switched_off - {*get_args(Protection)})
    if unknown:
        raise ValueError(f"unknown in PARLEY_FAULT or PARLEY_SABOTAGE: {', '.join(sorted(unknown))}")
    _fault = _Fault(point, int(visit or 1)) if point else None
    _switched_off = switched_off


def reach(point: CrashPoint) -> None:
    """Die here, as by `kill -9`, if the settings name this point; at the n-th visit where they say `point:n`."""
    if _fault is None or _fault.point != point:
        return
    _fault.visits_left -= 1
    if _fault.visits_left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def sabotaged(protection: Protection) -> bool:
    """Whether the settings switch this protection off."""
    return protection in _switched_off
