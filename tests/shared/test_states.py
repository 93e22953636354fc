import pytest

from shared.states import JobStatus, may_move

_ENDS = {JobStatus.COMPLETED, JobStatus.INCOMPLETE, JobStatus.FAILED, JobStatus.CANCELLED}


@pytest.mark.parametrize("end", sorted(_ENDS))
def test_nothing_leaves_a_terminal_state(end: JobStatus) -> None:
    assert end.is_terminal
    assert not any(may_move(end, other) for other in JobStatus)


@pytest.mark.parametrize("end", sorted(_ENDS))
@pytest.mark.parametrize("open_state", [JobStatus.QUEUED, JobStatus.IN_PROGRESS])
def test_an_open_job_may_end_in_any_way(open_state: JobStatus, end: JobStatus) -> None:
    assert may_move(open_state, end)


def test_a_running_job_may_be_tried_again() -> None:
    assert may_move(JobStatus.IN_PROGRESS, JobStatus.QUEUED)
    assert may_move(JobStatus.IN_PROGRESS, JobStatus.IN_PROGRESS)
