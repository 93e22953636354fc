"""The states of a job and its legal moves.

            accept                claim                    outcome
    (new) ─────────▶ queued ─────────────▶ in_progress ───────────────▶ completed
                       │  ▲                  │   │  ▲                   incomplete
                       │  └──────────────────┘   └──┘                   failed
                       │    release: retry later,   claim by the        cancelled
                       │    or the lease ran out    next attempt            ▲
                       └────────────────────────────────────────────────────┘
                             cancel while queued, attempts spent, or the late
                             end of an attempt whose lease ran out meanwhile

A terminal state is final: nothing leaves it (promise G2).
"""

from enum import StrEnum


class JobStatus(StrEnum):
    """The words of the wire's `response.status`."""

    QUEUED = "queued"  # accepted by the gateway; or released by persistence to be tried again
    IN_PROGRESS = "in_progress"  # claimed by a chat worker, which holds the lease
    COMPLETED = "completed"  # the model answered
    INCOMPLETE = "incomplete"  # the model's answer was cut: its output limit, or a content filter
    FAILED = "failed"  # it cannot be answered; `error` says why
    CANCELLED = "cancelled"  # the user stopped it

    @property
    def is_terminal(self) -> bool:
        return not _MOVES[self]


_ENDS = frozenset({JobStatus.COMPLETED, JobStatus.INCOMPLETE, JobStatus.FAILED, JobStatus.CANCELLED})
_MOVES: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.IN_PROGRESS}) | _ENDS,
    JobStatus.IN_PROGRESS: frozenset({JobStatus.IN_PROGRESS, JobStatus.QUEUED}) | _ENDS,
    JobStatus.COMPLETED: frozenset(),
    JobStatus.INCOMPLETE: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}


def may_move(current: JobStatus, new: JobStatus) -> bool:
    return new in _MOVES[current]
