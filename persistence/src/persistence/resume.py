"""The barrier before an attempt ≥ 2: what the dead attempt sent is stored, nothing later of it will be.

The request stands in the job's partition queue behind all chunks of the former attempt that reached the broker in time.
"""

from persistence.drafts import Draft
from shared.contracts import ResumeReply, ResumeRequest
from shared.faults import sabotaged
from shared.observability import get_logger
from shared.states import JobStatus

log = get_logger()


def resume(draft: Draft, request: ResumeRequest) -> ResumeReply:
    """Move the fence to the asking attempt, close what the former one left open, and say where to go on.

    Asked again by the same attempt, it answers the same until that attempt's own events are stored. Not granted: the
    job ended, another attempt owns it or will, or events of the asking attempt were lost.
    """
    owns_it = request.attempt == draft.attempt and request.attempt >= draft.journal_attempt
    if draft.status is not JobStatus.IN_PROGRESS or not owns_it:
        log.warning("resume_refused", job_id=str(draft.job_id), attempt=draft.attempt, asked_by=request.attempt)
        return refusal(request)
    response = draft.rebuild()
    if request.attempt > draft.journal_attempt:
        draft.move_fence(request.attempt)
        if not sabotaged("barrier"):
            draft.append(response.abandon())
    log.info("attempt_resumed", job_id=str(draft.job_id), attempt=request.attempt, next_seq=response.next_seq)
    return ResumeReply(
        job_id=draft.job_id,
        attempt=request.attempt,
        granted=True,
        next_seq=response.next_seq,
        next_output_index=response.next_output_index,
        output=response.output,
    )


def refusal(request: ResumeRequest) -> ResumeReply:
    return ResumeReply(job_id=request.job_id, attempt=request.attempt, granted=False)
