"""The ledger of a job's steps: what is whole here is not done again by the next attempt.

A row is written only while its attempt owns the job, which the same statement checks and holds. Rows are never
changed; writing one again changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec

from chat_worker.agent.values import JsonObject, ModelRound, PastStep, ToolFinished, ToolResult, ToolStarted
from chat_worker.leases import Stopped, StopReason
from shared.db import Database
from shared.faults import sabotaged


class _Kind(StrEnum):
    MODEL = "model"
    INTENT = "tool_intent"
    RESULT = "tool_result"


@dataclass(frozen=True, slots=True)
class Row:
    step: int
    kind: str
    index: int
    data: JsonObject

    @classmethod
    def of(cls, happening: ModelRound | ToolStarted | ToolFinished) -> "Row":
        match happening:
            case ModelRound(step=step):
                return cls(step, _Kind.MODEL, 0, msgspec.to_builtins(happening))
            case ToolStarted(step=step, index=index, server_label=label):
                return cls(step, _Kind.INTENT, index, {"server_label": label})
            case ToolFinished(step=step, index=index):
                finished = FinishedCall(happening.server_label, happening.result)
                return cls(step, _Kind.RESULT, index, msgspec.to_builtins(finished))


@dataclass(frozen=True, slots=True)
class FinishedCall:
    server_label: str
    result: ToolResult


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A model round that asked for tools, and how far its calls came (by index)."""

    round: ModelRound
    started: Mapping[int, ToolStarted] = field(default_factory=dict)
    finished: Mapping[int, FinishedCall] = field(default_factory=dict)

    def to_past(self) -> PastStep:
        results = {index: call.result for index, call in self.finished.items()}
        return PastStep(self.round, frozenset(self.started), results)

    def unfinished(self) -> list[ToolStarted]:
        """Calls that were started and have no result, in order."""
        return [call for index, call in sorted(self.started.items()) if index not in self.finished]


async def record(database: Database, user_id: str, job_id: UUID, attempt: int, rows: Sequence[Row]) -> None:
    """Commit `rows` together. A row that is there already stays as it is.

    Raises Stopped (`lease_lost`) where the attempt does not own the job any more, DatabaseUnavailableError where it is
    unknown whether the rows are there: write them again.
    """
    async with database.transaction(user_id) as connection:
        is_owner = await connection.fetchval(
            """
            with owner as materialized (
                select id, user_id, attempt from jobs
                where id = $1 and user_id = $2 and attempt = $3 and status = 'in_progress' for share
            ), recorded as (
                insert into steps (job_id, step, kind, index, user_id, attempt, data)
                select owner.id, row.step, row.kind, row.index, owner.user_id, owner.attempt, row.data
                from owner, jsonb_to_recordset($4::jsonb) row (step integer, kind text, index integer, data jsonb)
                on conflict do nothing
            )
            select exists (select from owner)
            """,
            job_id,
            user_id,
            attempt,
            [msgspec.to_builtins(row) for row in rows],
        )
    if not is_owner and not sabotaged("claim_fence"):
        raise Stopped(StopReason.LEASE_LOST)


async def read(database: Database, user_id: str, job_id: UUID) -> list[RecordedStep]:
    """The steps that earlier attempts recorded, in order."""
    async with database.transaction(user_id) as connection:
        rows = await connection.fetch(
            "select step, kind, index, data from steps where job_id = $1 and user_id = $2 order by step, index",
            job_id,
            user_id,
        )
    by_step: dict[int, list[Any]] = {}
    for row in rows:
        by_step.setdefault(row["step"], []).append(row)
    return [_recorded(of_step) for of_step in by_step.values()]


def _recorded(rows: Sequence[Any]) -> RecordedStep:
    [round_] = [msgspec.convert(row["data"], ModelRound) for row in rows if row["kind"] == _Kind.MODEL]
    return RecordedStep(
        round=round_,
        started={row["index"]: _started(round_, row) for row in rows if row["kind"] == _Kind.INTENT},
        finished={
            row["index"]: msgspec.convert(row["data"], FinishedCall) for row in rows if row["kind"] == _Kind.RESULT
        },
    )


def _started(round_: ModelRound, row: Any) -> ToolStarted:
    return ToolStarted(round_.step, row["index"], round_.calls[row["index"]], row["data"]["server_label"])
