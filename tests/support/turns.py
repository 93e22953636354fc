"""Turns as they lie in the database when they have been answered, made without broker and worker."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from gateway.items import Role, text_message
from gateway.turns import Acceptance, Accepted, AcceptLimits, Turn
from shared.db import Database
from shared.ids import uuid7
from tests.support.owner import value_as_owner


@dataclass(frozen=True)
class Call:
    """A tool call of an answer."""

    name: str = "add_task"
    parameters: str = '{"title":"buy milk"}'
    result: str | None = '{"title":"buy milk"}'
    error: dict[str, Any] | None = None
    duration_ms: int | None = 42


@dataclass(frozen=True)
class Turns:
    """Writes turns as the two services do that own them: `gateway` accepts, `persistence` stores the outcome."""

    gateway: Database
    persistence: Database
    owner_url: str

    async def ask(
        self,
        user_id: str,
        text: str,
        conversation_id: UUID | None = None,
        *,
        follows: UUID | None = None,
        **fields: Any,
    ) -> Accepted:
        """A message that was accepted; one that `follows` another job than the last is a branch."""
        turn = Turn(
            user_id,
            [text_message(Role.USER, text)],
            model="todo",
            options={},
            conversation_id=conversation_id,
            parent_job_id=follows,
            **fields,
        )
        return await Acceptance(self.gateway, AcceptLimits(open_jobs_max=1_000)).accept(turn)

    async def answer(self, accepted: Accepted, text: str | None, *calls: Call) -> None:
        """Its answer: the calls, then the text, if any."""
        async with self.persistence.transaction(None) as db:
            for ordinal, call in enumerate(calls, start=1):
                await self._insert_call(db, accepted, ordinal, call)
            if text is not None:
                await self._insert_text(db, accepted, len(calls) + 1, text)
            await db.execute("update conversations set active_job_id = null where id = $1", accepted.conversation_id)
            await db.execute("update jobs set status = 'completed' where id = $1", accepted.job_id)

    async def change(self, statement: str, *arguments: object) -> Any:
        """What `statement` gives as the owner, who may do what time or a fault would."""
        return await value_as_owner(self.owner_url, statement, *arguments)

    async def exchange(
        self,
        user_id: str,
        text: str,
        reply: str | None,
        *calls: Call,
        conversation_id: UUID | None = None,
        follows: UUID | None = None,
        **fields: Any,
    ) -> Accepted:
        """A message and its answer."""
        accepted = await self.ask(user_id, text, conversation_id, follows=follows, **fields)
        await self.answer(accepted, reply, *calls)
        return accepted

    async def _insert_call(self, db: Any, accepted: Accepted, ordinal: int, call: Call) -> None:
        await db.execute(
            """
            insert into tool_calls (id, conversation_id, job_id, user_id, turn, ordinal, call_id, server_label,
                                    tool_name, parameters, result, error, status, duration_ms)
            select $1, conversation_id, id, user_id, turn, $3, $4, 'tasks', $5, $6, $7, $8, $9, $10
            from jobs where id = $2
            """,
            uuid7(),
            accepted.job_id,
            ordinal,
            f"call_{ordinal}",
            call.name,
            call.parameters,
            call.result,
            call.error,
            "failed" if call.error else "completed",
            call.duration_ms,
        )

    async def _insert_text(self, db: Any, accepted: Accepted, ordinal: int, text: str) -> None:
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        await db.execute(
            """
            insert into messages (id, conversation_id, job_id, user_id, turn, ordinal, role, content, parts, status)
            select $1, conversation_id, id, user_id, turn, $3, 'assistant', $4, $5, 'completed'
            from jobs where id = $2
            """,
            uuid7(),
            accepted.job_id,
            ordinal,
            text,
            [part],
        )
