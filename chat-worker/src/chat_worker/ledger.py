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

from chat_worker.agent.values import (
    HandedCall,
    HandedOver,
    JsonObject,
    ModelRound,
    PastStep,
    ToolFinished,
    ToolResult,
    ToolStarted,
)
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
    def all_of(cls, happening: ModelRound | ToolStarted | ToolFinished | HandedOver) -> "list[Row]":
        """The rows that record what happened."""
        match happening:
            case ModelRound(step=step):
                return [cls(step, _Kind.MODEL, 0, msgspec.to_builtins(happening))]
            case ToolStarted(step=step, index=index, server_label=label, approval_request_id=request_id):
                data = {"server_label": label, "approval_request_id": request_id}
                return [cls(step, _Kind.INTENT, index, data)]
            case ToolFinished(step=step, index=index, server_label=label, result=result):
                return [cls(step, _Kind.RESULT, index, {"server_label": label, "result": msgspec.to_builtins(result)})]
            case HandedOver(step=step, calls=calls):
                return [cls(step, _Kind.RESULT, call.index, {"server_label": call.server_label}) for call in calls]


class _Result(msgspec.Struct):
    """How a call came to its end: with a result, or by being the client's."""

    server_label: str | None
    result: ToolResult | None = None


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A model round that asked for tools, and how far its calls came (by index)."""

    round: ModelRound
    started: Mapping[int, ToolStarted] = field(default_factory=dict)
    results: Mapping[int, ToolResult] = field(default_factory=dict)
    handed: Mapping[int, HandedCall] = field(default_factory=dict)

    def to_past(self) -> PastStep:
        return PastStep(self.round, frozenset(self.started), self.results, frozenset(self.handed))

    def unfinished(self) -> list[ToolStarted]:
        """Calls that were started and have no result, in order."""
        return [call for index, call in sorted(self.started.items()) if index not in self.results]


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
    ends = {row["index"]: msgspec.convert(row["data"], _Result) for row in rows if row["kind"] == _Kind.RESULT}
    return RecordedStep(
        round=round_,
        started={row["index"]: _started(round_, row) for row in rows if row["kind"] == _Kind.INTENT},
        results={index: end.result for index, end in ends.items() if end.result is not None},
        handed={
            index: HandedCall(index, round_.calls[index], end.server_label)
            for index, end in ends.items()
            if end.result is None
        },
    )


def _started(round_: ModelRound, row: Any) -> ToolStarted:
    index, data = row["index"], row["data"]
    return ToolStarted(round_.step, index, round_.calls[index], data["server_label"], data.get("approval_request_id"))
