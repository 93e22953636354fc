"""Every statement that writes back what attempts produced: one transaction per batch, few statements whatever its size.

Most batches are pieces of answers, and their ends, which one statement can store without a look at the jobs before.
Rows are locked conversations first, then jobs, each in the order of their ids, as everywhere in the system: batches of
several processes then wait for each other instead of dying of a deadlock.
"""

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import assert_never
from uuid import UUID

import asyncpg
import msgspec
from msgspec import to_builtins
from msgspec.structs import replace

from persistence import byproducts, drafts, webhooks
from persistence.byproducts import Byproduct
from persistence.drafts import AttemptsSpent, Draft, GivenUp, LostChunk, Place, Undelivered
from persistence.outcomes import Outcome
from persistence.resume import refusal, resume
from shared.contracts import (
    CancelRequested,
    JobReady,
    JobReleased,
    JournalChunk,
    JournalChunks,
    LiveEvents,
    ResumeReply,
    ResumeRequest,
    TitleSuggested,
    ToPersistence,
    Touched,
    raw_events,
)
from shared.db import Database
from shared.errors import InvalidInputError
from shared.events import JsonObject, Usage
from shared.faults import reach
from shared.observability import get_logger
from shared.states import JobStatus

log = get_logger()

_ENDED = "conversation.response.ended"

_FromUs = AttemptsSpent | GivenUp | Undelivered | LostChunk
_AboutOneJob = JournalChunk | ResumeRequest | JobReleased | CancelRequested | _FromUs


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message to write back, and the queue that waits for its answer.

    `needs_a_look`: the short way did not take it, so it is no use to try that again.
    """

    message: ToPersistence | _FromUs
    reply_to: str | None = None
    needs_a_look: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    queue: str
    message: ResumeReply


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that this batch ended; the fields of its line in the log."""

    job_id: UUID
    conversation_id: UUID
    status: JobStatus
    attempt: int
    event_count: int
    message_count: int
    tool_call_count: int


@dataclass(slots=True)
class Written:
    """What there is to tell once the transaction is committed."""

    live: list[LiveEvents] = field(default_factory=list)
    ready: list[JobReady] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    touched: list[Touched] = field(default_factory=list)
    has_delayed_job: bool = False
    has_webhooks: bool = False
    places: Counter[str] = field(default_factory=Counter)  # of chunks
    retries: Counter[str] = field(default_factory=Counter)  # of jobs, by why
    resumes: Counter[str] = field(default_factory=Counter)  # granted, or refused


@dataclass(frozen=True, slots=True)
class _Plain:
    """A sound chunk, and how its job ends with it, if it does."""

    chunk: JournalChunk
    outcome: Outcome | None


async def write(database: Database, batch: Sequence[Incoming]) -> tuple[Written, Sequence[Incoming]]:
    """Commit as much of `batch` as goes into one transaction; returns what was written, and what is left, in order.

    A repeat changes nothing. Raises asyncpg's errors and DatabaseUnavailableError.
    """
    if plain := _plain_of(batch):
        store = _finish if any(each.outcome for each in plain) else _append
        async with database.connection() as connection:
            reach("persistence.before_commit")
            written, left = await store(connection, plain)
        if written.live:
            return written, left
    async with database.transaction(None) as connection:
        written = await write_batch(connection, batch)
        reach("persistence.before_commit")
    return written, ()


async def write_batch(connection: asyncpg.Connection, batch: Sequence[Incoming]) -> Written:
    """Store what `batch` says, in its order, in the caller's transaction. A repeat of the same batch changes nothing.

    What a message claims about a job is believed only as far as the job's row agrees. Raises asyncpg's errors.
    """
    written = Written()
    messages = list(_by_job(batch))
    made = [incoming.message for incoming in batch if isinstance(incoming.message, Byproduct)]
    active_jobs = await _lock_conversations(
        connection, {m.job_id for m, _ in messages if _may_end_a_job(m)}, byproducts.conversations_of(made)
    )
    jobs = await _lock_jobs(connection, {m.job_id for m, _ in messages})
    await _read_journals(connection, jobs, _jobs_to_rebuild(jobs, [message for message, _ in messages]))
    for message, reply_to in messages:
        reply = _apply(jobs.get(message.job_id), message, written)
        if reply and reply_to:
            written.replies.append(Reply(reply_to, reply))
    await byproducts.store_summaries(connection, made)
    titles = await byproducts.set_titles(connection, made)
    written.touched += [byproducts.touched(title) for title in titles]
    await _store(connection, list(jobs.values()), active_jobs, titles, written)
    return written


def _plain_of(batch: Sequence[Incoming]) -> Sequence[_Plain]:
    """The chunks of `batch`, one for each job, if it holds nothing else and each is sound; or none."""
    by_job: dict[UUID, _Plain] = {}
    for incoming in batch:
        if incoming.needs_a_look or not isinstance(incoming.message, JournalChunks):
            return ()
        for chunk in incoming.message.chunks:
            before = by_job.get(chunk.job_id)
            try:
                outcome = drafts.outcome_of_sound(chunk)
            except InvalidInputError:
                return ()
            if before is None:
                by_job[chunk.job_id] = _Plain(chunk, outcome)
            elif before.outcome is None and _follows(before.chunk, chunk):
                events = before.chunk.events + chunk.events
                by_job[chunk.job_id] = _Plain(replace(chunk, first_seq=before.chunk.first_seq, events=events), outcome)
            else:
                return ()
    return list(by_job.values())


def _follows(before: JournalChunk, chunk: JournalChunk) -> bool:
    is_of_the_same = chunk.attempt == before.attempt and chunk.conversation_id == before.conversation_id
    return is_of_the_same and chunk.first_seq == before.next_seq


async def _append(connection: asyncpg.Connection, plain: Sequence[_Plain]) -> tuple[Written, Sequence[Incoming]]:
    """Append those chunks that hold their job's next number, as `drafts.place_of` sees it.

    The statement is a transaction of its own. Returns what was written, and the chunks that have another place.
    """
    rows = await connection.fetch(
        """
        with mine as materialized (
            select j.id, j.user_id, v.first_seq, v.next_seq, v.frames
            from unnest($1::uuid[], $2::uuid[], $3::integer[], $4::integer[], $5::integer[], $6::text[])
                 v(id, conversation_id, attempt, first_seq, next_seq, frames)
            join jobs j on j.id = v.id and j.conversation_id = v.conversation_id
            where j.journal_attempt = v.attempt and j.attempt >= v.attempt and j.next_seq = v.first_seq
              and j.status in ('queued', 'in_progress')
            order by j.id for no key update of j
        ), moved as (
            update jobs j set next_seq = mine.next_seq from mine where j.id = mine.id
        )
        insert into journal (job_id, first_seq, last_seq, user_id, frames)
        select id, first_seq, next_seq - 1, user_id, frames from mine
        returning job_id
        """,
        *_columns_of(plain),
    )
    return _written_of(plain, {row["job_id"] for row in rows})


async def _finish(connection: asyncpg.Connection, plain: Sequence[_Plain]) -> tuple[Written, Sequence[Incoming]]:
    """As `_append`, and store the ends among them: of jobs whose conversation has no later turn that could go on."""
    rows = await connection.fetch(
        _FINISH,
        *_output_of([(each.chunk.job_id, each.outcome) for each in plain if each.outcome], titles=()),
        *_columns_of(plain),
        [each.outcome and each.outcome.status for each in plain],
        [each.outcome and msgspec.json.encode(each.outcome.response).decode() for each in plain],
    )
    stored = {row["id"]: row for row in rows}
    written, left = _written_of(plain, stored.keys())
    for each in plain:
        row = stored.get(each.chunk.job_id)
        if row is not None and each.outcome is not None:
            conversation_id = each.chunk.conversation_id
            written.ended.append(_ended(each.chunk, row["attempt"], each.chunk.next_seq, each.outcome))
            written.touched.append(Touched(conversation_id=conversation_id, user_id=row["user_id"], what=_ENDED))
            written.has_webhooks = row["has_webhooks"]
    return written, left


def _columns_of(plain: Sequence[_Plain]) -> Iterable[Sequence[object]]:
    return (
        [each.chunk.job_id for each in plain],
        [each.chunk.conversation_id for each in plain],
        [each.chunk.attempt for each in plain],
        [each.chunk.first_seq for each in plain],
        [each.chunk.next_seq for each in plain],
        [b"\n".join(map(bytes, each.chunk.events)).decode() for each in plain],
    )


def _written_of(plain: Sequence[_Plain], job_ids: Container[UUID]) -> tuple[Written, Sequence[Incoming]]:
    """What the chunks of those jobs give to tell, and the others."""
    stored = [each.chunk for each in plain if each.chunk.job_id in job_ids]
    left = [each.chunk for each in plain if each.chunk.job_id not in job_ids]
    live = [LiveEvents(job_id=chunk.job_id, first_seq=chunk.first_seq, events=chunk.events) for chunk in stored]
    written = Written(live=live, places=Counter({Place.NEXT.value: len(stored)}))
    return written, [Incoming(JournalChunks(chunks=left), needs_a_look=True)] if left else []


def _by_job(batch: Iterable[Incoming]) -> Iterable[tuple[_AboutOneJob, str | None]]:
    for incoming in batch:
        if isinstance(incoming.message, JournalChunks):
            for chunk in incoming.message.chunks:
                yield chunk, None
        elif not isinstance(incoming.message, Byproduct):
            yield incoming.message, incoming.reply_to


def _may_end_a_job(message: _AboutOneJob) -> bool:
    match message:
        case JournalChunk():
            return message.ended_as is not None
        case ResumeRequest() | Undelivered() | LostChunk():
            return False
        case JobReleased() | CancelRequested() | AttemptsSpent() | GivenUp():
            return True


def _jobs_to_rebuild(jobs: dict[UUID, Draft], messages: Sequence[_AboutOneJob]) -> set[UUID]:
    """The jobs whose response a message may need as far as it goes; that takes reading all of their events."""
    counts = Counter(message.job_id for message in messages)
    return {m.job_id for m in messages if m.job_id in jobs and _may_rebuild(jobs[m.job_id], m, counts[m.job_id] > 1)}


def _may_rebuild(job: Draft, message: _AboutOneJob, is_one_of_several: bool) -> bool:  # noqa: FBT001
    """Whether applying `message` may end or resume `job`; one of several of a batch may meet it in another state."""
    match message:
        case JournalChunk() | Undelivered() | LostChunk():
            return False
        case ResumeRequest():
            return message.attempt == job.attempt
        case JobReleased():
            return job.is_cancel_requested
        case CancelRequested():
            return job.is_cancel_requested and (is_one_of_several or job.status is JobStatus.QUEUED)
        case AttemptsSpent():
            return is_one_of_several or job.status is JobStatus.QUEUED
        case GivenUp():
            return True


def _apply(job: Draft | None, message: _AboutOneJob, written: Written) -> ResumeReply | None:
    if job is None or job.conversation_id != message.conversation_id:
        log.warning("message_disagrees_with_row", job_id=str(message.job_id), message=type(message).__name__)
        return refusal(message) if isinstance(message, ResumeRequest) else None
    match message:
        case JournalChunk():
            written.places[drafts.take_chunk(job, message)] += 1
        case ResumeRequest():
            reply = resume(job, message)
            written.resumes["granted" if reply.granted else "refused"] += 1
            return reply
        case JobReleased():
            drafts.release(job, message)
        case CancelRequested():
            drafts.cancel(job, message)
        case AttemptsSpent():
            drafts.give_up(job, message)
        case GivenUp():
            drafts.end_by_operator(job, message)
        case Undelivered():
            drafts.deliver_again(job, message)
        case LostChunk():
            drafts.lose_chunk(job, message)
        case _ as unreachable:
            assert_never(unreachable)
    return None


async def _lock_conversations(
    connection: asyncpg.Connection, job_ids: set[UUID], conversation_ids: set[UUID]
) -> dict[UUID, UUID | None]:
    """Lock the conversations of the jobs that may end, and `conversation_ids`; maps each to its active job."""
    if not job_ids and not conversation_ids:
        return {}
    rows = await connection.fetch(
        """
        select id, active_job_id from conversations
        where id in (select conversation_id from jobs where id = any($1::uuid[]) union all select unnest($2::uuid[]))
        order by id for no key update
        """,
        job_ids,
        conversation_ids,
    )
    return {row["id"]: row["active_job_id"] for row in rows}


async def _lock_jobs(connection: asyncpg.Connection, job_ids: set[UUID]) -> dict[UUID, Draft]:
    rows = await connection.fetch(
        """
        select id, conversation_id, user_id, turn, status, attempt, journal_attempt, next_seq, input_item_count,
               cancel_requested_at is not null as is_cancel_requested
        from jobs where id = any($1::uuid[])
        order by id for no key update
        """,
        job_ids,
    )
    return {
        row["id"]: Draft(
            job_id=row["id"],
            conversation_id=row["conversation_id"],
            user_id=row["user_id"],
            turn=row["turn"],
            status=JobStatus(row["status"]),
            attempt=row["attempt"],
            journal_attempt=row["journal_attempt"],
            next_seq=row["next_seq"],
            input_item_count=row["input_item_count"],
            is_cancel_requested=row["is_cancel_requested"],
        )
        for row in rows
    }


async def _read_journals(connection: asyncpg.Connection, jobs: dict[UUID, Draft], job_ids: set[UUID]) -> None:
    wanted = [job_id for job_id in job_ids if job_id in jobs and not jobs[job_id].status.is_terminal]
    if not wanted:
        return
    rows = await connection.fetch(
        """
        select id, request,
               (select string_agg(frames, chr(10) order by first_seq) from journal where job_id = jobs.id) as frames,
               (select jsonb_agg(jsonb_build_object(
                           'server_label', intent.data -> 'server_label',
                           'name', round.data -> 'calls' -> intent.index -> 'name',
                           'arguments', round.data -> 'calls' -> intent.index -> 'arguments',
                           'approval_request_id', intent.data -> 'approval_request_id')
                       order by intent.step, intent.index)
                from steps intent
                join steps round on round.job_id = intent.job_id and round.step = intent.step and round.kind = 'model'
                where intent.job_id = jobs.id and intent.kind = 'tool_intent') as calls,
               (select jsonb_build_object(
                           'input_tokens', sum((data -> 'usage' ->> 'input_tokens')::bigint),
                           'output_tokens', sum((data -> 'usage' ->> 'output_tokens')::bigint),
                           'cached_tokens', sum((data -> 'usage' ->> 'cached_tokens')::bigint),
                           'reasoning_tokens', sum((data -> 'usage' ->> 'reasoning_tokens')::bigint))
                from steps where job_id = jobs.id and kind = 'model'
                having sum((data -> 'usage' ->> 'input_tokens')::bigint
                           + (data -> 'usage' ->> 'output_tokens')::bigint) > 0) as usage
        from jobs where id = any($1::uuid[])
        """,
        wanted,
    )
    for row in rows:
        jobs[row["id"]].request = row["request"]
        jobs[row["id"]].stored = row["frames"].encode().split(b"\n") if row["frames"] else []
        jobs[row["id"]].calls = row["calls"] or ()
        jobs[row["id"]].usage = Usage(**row["usage"]) if row["usage"] else None


async def _store(
    connection: asyncpg.Connection,
    jobs: list[Draft],
    active_jobs: dict[UUID, UUID | None],
    titles: Sequence[TitleSuggested],
    written: Written,
) -> None:
    going_on = [job for job in jobs if job.outcome is None and (job.events or job.is_fence_moved)]
    waiting = [job for job in jobs if job.run_again_after_seconds is not None]
    ended = [job for job in jobs if job.outcome is not None]
    if going_on:
        await _extend(connection, going_on)
    if waiting:
        await _run_again(connection, waiting)
        written.retries.update(job.run_again_cause for job in waiting)
        written.ready += [_ready(job) for job in waiting if not job.run_again_after_seconds]
        written.has_delayed_job = any(job.run_again_after_seconds for job in waiting)
    if ended:
        next_jobs, written.has_webhooks = await _end(connection, ended, active_jobs, titles)
        written.ready += next_jobs
        written.ended += [_ended(job, job.attempt, job.next_seq, job.outcome) for job in ended if job.outcome]
        written.touched += [_touched(job) for job in ended]
    elif titles:
        await connection.execute(_NONE_ENDED + _ADD_USAGE.format(spending="$1"), _spending((), titles))
    written.live += [
        LiveEvents(job_id=job.job_id, first_seq=job.first_new_seq, events=raw_events(job.events))
        for job in jobs
        if job.events
    ]


async def _extend(connection: asyncpg.Connection, jobs: list[Draft]) -> None:
    """Append the new events and move the numbers on."""
    status = await connection.execute(
        """
        with stored as (
            insert into journal (job_id, first_seq, last_seq, user_id, frames)
            select * from unnest($1::uuid[], $2::integer[], $3::integer[], $4::text[], $5::text[])
        )
        update jobs j set next_seq = v.next_seq, journal_attempt = v.journal_attempt
        from unnest($6::uuid[], $7::integer[], $8::integer[]) v(id, next_seq, journal_attempt)
        where j.id = v.id and j.status in ('queued', 'in_progress')
        """,
        *_journal_rows(jobs),
        [job.job_id for job in jobs],
        [job.next_seq for job in jobs],
        [job.journal_attempt for job in jobs],
    )
    assert status == f"UPDATE {len(jobs)}", status


def _journal_rows(jobs: list[Draft]) -> tuple[list[UUID], list[int], list[int], list[str], list[str]]:
    """The columns of one new row for each job that has events."""
    grown = [job for job in jobs if job.events]
    return (
        [job.job_id for job in grown],
        [job.first_new_seq for job in grown],
        [job.next_seq - 1 for job in grown],
        [job.user_id for job in grown],
        [b"\n".join(job.events).decode() for job in grown],
    )


async def _run_again(connection: asyncpg.Connection, jobs: list[Draft]) -> None:
    status = await connection.execute(
        """
        update jobs j
        set status = 'queued', worker_id = null, lease_until = null, dispatched_at = null,
            available_at = clock_timestamp() + make_interval(secs => v.after_seconds)
        from unnest($1::uuid[], $2::double precision[]) v(id, after_seconds)
        where j.id = v.id and j.status in ('queued', 'in_progress')
        """,
        [job.job_id for job in jobs],
        [job.run_again_after_seconds for job in jobs],
    )
    assert status == f"UPDATE {len(jobs)}", status


async def _end(
    connection: asyncpg.Connection,
    jobs: list[Draft],
    active_jobs: dict[UUID, UUID | None],
    titles: Sequence[TitleSuggested],
) -> tuple[list[JobReady], bool]:
    """Store all that an end leaves, by one statement, as a client waits for it; see `_END`.

    Returns the jobs that may run now, and whether there are webhooks to be sent.
    """
    over = {job.conversation_id: job.turn for job in jobs if active_jobs[job.conversation_id] == job.job_id}
    rows = await connection.fetch(
        _END,
        *_output_of([(job.job_id, job.outcome) for job in jobs if job.outcome], titles),
        *_journal_rows(jobs),
        [
            {
                "id": job.job_id,
                "status": job.status,
                "response": job.outcome.response,
                "next_seq": job.next_seq,
                "journal_attempt": job.journal_attempt,
            }
            for job in jobs
            if job.outcome is not None
        ],
        list(touched := {job.conversation_id for job in jobs}),
        [over.get(conversation_id) for conversation_id in touched],
    )
    assert rows[0]["ended_count"] == len(jobs), f"{rows[0]['ended_count']} of {len(jobs)}"
    ready = [
        JobReady(job_id=row["active_job_id"], conversation_id=row["id"], user_id=row["user_id"])
        for row in rows
        if row["is_over"] and row["active_job_id"]
    ]
    return ready, rows[0]["has_webhooks"]


def _output_of(outcomes: Sequence[tuple[UUID, Outcome]], titles: Sequence[TitleSuggested]) -> Iterable[object]:
    """The parameters of `_OUTPUT`."""
    return (
        [{"job_id": job_id, **to_builtins(row)} for job_id, outcome in outcomes for row in outcome.messages],
        [{"job_id": job_id, **to_builtins(row)} for job_id, outcome in outcomes for row in outcome.tool_calls],
        [{"job_id": job_id, **to_builtins(row)} for job_id, outcome in outcomes for row in outcome.items],
        _spending(outcomes, titles),
        [webhooks.event_of(job_id, outcome.status) for job_id, outcome in outcomes],
    )


# In the order of the users, so that batches wait for each other instead of dying. What a job spent counts if it ended.
_ADD_USAGE = """
    insert into usage_by_day as known (user_id, day, response_count, input_tokens, output_tokens)
    select user_id, (clock_timestamp() at time zone 'utc')::date, sum(response_count), sum(input_tokens),
           sum(output_tokens)
    from (select coalesce(ended.user_id, v.user_id) as user_id, v.response_count, v.input_tokens, v.output_tokens
          from jsonb_to_recordset({spending})
               v(job_id uuid, user_id text, response_count bigint, input_tokens bigint, output_tokens bigint)
          left join ended on ended.id = v.job_id
          where v.job_id is null or ended.id is not null) spent
    group by user_id order by user_id
    on conflict (user_id, day) do update
    set response_count = known.response_count + excluded.response_count,
        input_tokens = known.input_tokens + excluded.input_tokens,
        output_tokens = known.output_tokens + excluded.output_tokens
"""

_NONE_ENDED = "with ended as (select id, user_id from jobs where false)"

# What the jobs of `ended` leave beside their own rows; of others nothing is stored, whatever the parameters hold. The
# items of the final output come behind the turn's input, in output order.
_OUTPUT = f"""
said as (
    insert into messages (id, conversation_id, job_id, user_id, turn, ordinal, role, content, parts, status)
    select v.id, ended.conversation_id, ended.id, ended.user_id, ended.turn, ended.input_item_count + v.position,
           'assistant', v.content, v.parts, v.status
    from jsonb_to_recordset($1) v(job_id uuid, id uuid, position integer, content text, parts jsonb, status text)
    join ended on ended.id = v.job_id
), called as (
    insert into tool_calls (id, conversation_id, job_id, user_id, turn, ordinal, call_id, server_label, tool_name,
                            parameters, result, error, status, approval_request_id, duration_ms)
    select v.id, ended.conversation_id, ended.id, ended.user_id, ended.turn, ended.input_item_count + v.position,
           v.call_id, v.server_label, v.tool_name, v.parameters, v.result, v.error, v.status, v.approval_request_id,
           v.duration_ms
    from jsonb_to_recordset($2) v(job_id uuid, id uuid, position integer, call_id text, server_label text,
                                  tool_name text, parameters text, result text, error jsonb, status text,
                                  approval_request_id text, duration_ms integer)
    join ended on ended.id = v.job_id
), other as (
    insert into items (id, conversation_id, job_id, user_id, turn, ordinal, kind, item)
    select v.id, ended.conversation_id, ended.id, ended.user_id, ended.turn, ended.input_item_count + v.position,
           v.kind, v.item
    from jsonb_to_recordset($3) v(job_id uuid, id uuid, position integer, kind text, item jsonb)
    join ended on ended.id = v.job_id
), spent as (
    {_ADD_USAGE.format(spending="$4")}
), told as (
    {webhooks.ENQUEUE.format(events="$5")}
)
"""  # noqa: S608 - our own text

# A terminal state is write-once: decided under the lock, and guarded once more here. Each conversation goes on to its
# next waiting job, in the order of acceptance; to this statement those that end with it still look as they did before.
_END = f"""
with stored as (
    insert into journal (job_id, first_seq, last_seq, user_id, frames)
    select * from unnest($6::uuid[], $7::integer[], $8::integer[], $9::text[], $10::text[])
), ended as (
    update jobs j
    set status = v.status, response = v.response, usage = nullif(v.response -> 'usage', 'null'),
        error = nullif(v.response -> 'error', 'null'), ended_at = clock_timestamp(), lease_until = null,
        next_seq = v.next_seq, journal_attempt = v.journal_attempt
    from jsonb_to_recordset($11) v(id uuid, status text, response jsonb, next_seq integer, journal_attempt integer)
    where j.id = v.id and j.status in ('queued', 'in_progress')
    returning j.id, j.conversation_id, j.user_id, j.turn, j.input_item_count
), {_OUTPUT}, gone_on as (
    update conversations c
    set updated_at = clock_timestamp(),
        active_job_id = case
            when v.over_turn is null then c.active_job_id
            else (select j.id from jobs j
                  where j.conversation_id = c.id and j.turn > v.over_turn and j.status = 'queued'
                    and j.id not in (select id from ended)
                  order by j.turn limit 1)
        end
    from unnest($12::uuid[], $13::integer[]) v(id, over_turn)
    where c.id = v.id
    returning c.id, c.user_id, c.active_job_id, v.over_turn is not null as is_over
)
select gone_on.*, (select count(*) from ended) as ended_count, exists (select from told) as has_webhooks
from gone_on
"""  # noqa: S608 - our own text

# Nothing is locked before, so that what it sees may be older than what it locks. It takes what it locks as it is by
# then, and takes no job behind which another may wait: such a one could have been accepted in between.
_FINISH = f"""
with wanted as materialized (
    select * from unnest($6::uuid[], $7::uuid[], $8::integer[], $9::integer[], $10::integer[], $11::text[],
                         $12::text[], $13::text[])
             v(id, conversation_id, attempt, first_seq, next_seq, frames, status, response)
), locked as materialized (
    select c.id, c.active_job_id, c.last_turn from conversations c
    where c.id in (select conversation_id from wanted where status is not null)
    order by c.id for no key update
), mine as materialized (
    select j.id, j.user_id, j.attempt, v.first_seq, v.next_seq, v.frames, v.status, v.response::jsonb as response
    from wanted v join jobs j on j.id = v.id and j.conversation_id = v.conversation_id
    left join locked on locked.id = j.conversation_id
    where j.journal_attempt = v.attempt and j.attempt >= v.attempt and j.next_seq = v.first_seq
      and j.status in ('queued', 'in_progress')
      and (v.status is null or (locked.active_job_id = j.id and locked.last_turn = j.turn))
    order by j.id for no key update of j
), moved as (
    update jobs j set next_seq = mine.next_seq from mine where j.id = mine.id and mine.status is null
), ended as (
    update jobs j
    set status = mine.status, response = mine.response, usage = nullif(mine.response -> 'usage', 'null'),
        error = nullif(mine.response -> 'error', 'null'), ended_at = clock_timestamp(), lease_until = null,
        next_seq = mine.next_seq
    from mine where j.id = mine.id and mine.status is not null
    returning j.id, j.conversation_id, j.user_id, j.turn, j.input_item_count
), stored as (
    insert into journal (job_id, first_seq, last_seq, user_id, frames)
    select id, first_seq, next_seq - 1, user_id, frames from mine
), {_OUTPUT}, gone_on as (
    update conversations c set updated_at = clock_timestamp(), active_job_id = null
    from ended where c.id = ended.conversation_id
)
select mine.id, mine.user_id, mine.attempt, exists (select from told) as has_webhooks from mine
"""  # noqa: S608 - our own text


def _spending(outcomes: Sequence[tuple[UUID, Outcome]], titles: Iterable[TitleSuggested]) -> list[JsonObject]:
    """What this batch adds to the sums of the users: an end is written once, and a title set once."""
    return [
        *(
            {"job_id": job_id, "response_count": 1, **to_builtins(outcome.spent)}
            for job_id, outcome in outcomes
            if outcome.spent
        ),
        *({"response_count": 0, **to_builtins(title)} for title in titles),
    ]


def _ready(job: Draft) -> JobReady:
    return JobReady(job_id=job.job_id, conversation_id=job.conversation_id, user_id=job.user_id)


def _touched(job: Draft) -> Touched:
    return Touched(conversation_id=job.conversation_id, user_id=job.user_id, what=_ENDED)


def _ended(job: Draft | JournalChunk, attempt: int, event_count: int, outcome: Outcome) -> Ended:
    return Ended(
        job_id=job.job_id,
        conversation_id=job.conversation_id,
        status=outcome.status,
        attempt=attempt,
        event_count=event_count,
        message_count=len(outcome.messages),
        tool_call_count=len(outcome.tool_calls),
    )
