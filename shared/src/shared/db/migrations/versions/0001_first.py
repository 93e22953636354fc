"""The first schema: conversations, jobs, messages, tool calls, steps, journal, tasks; roles, row level security.

Described in `docs/schema.md`.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    for part in (_TABLES, _FUNCTIONS, _GRANTS, _ROW_LEVEL_SECURITY):
        for statement in part.split("\n\n\n"):
            op.execute(statement)


def downgrade() -> None:
    op.execute("drop function accept_turn, claim_job")
    op.execute("drop table dead_letters, idempotency_keys, tasks")
    op.execute("drop table journal, steps, tool_calls, messages, jobs, conversations cascade")


_TABLES = """
create table conversations (
    id            uuid primary key,
    user_id       text not null,
    title         text not null default '',
    metadata      jsonb not null default '{}',
    active_job_id uuid,
    head_job_id   uuid,
    last_turn     integer not null default 0,
    created_at    timestamptz not null default clock_timestamp(),
    updated_at    timestamptz not null default clock_timestamp(),
    deleted_at    timestamptz
)


comment on column conversations.active_job_id is 'the one job that may run now; the next follows when it ends'


comment on column conversations.head_job_id is 'the turn accepted last: parent of the next'


create index conversations_by_user on conversations (user_id, updated_at desc, id)


-- What retention looks through.
create index conversations_deleted on conversations (deleted_at) where deleted_at is not null


-- What maintenance looks through: few of many.
create index conversations_active on conversations (active_job_id) where active_job_id is not null


create table jobs (
    id                  uuid primary key,
    conversation_id     uuid not null references conversations on delete cascade,
    user_id             text not null,
    parent_job_id       uuid references jobs on delete set null,
    turn                integer not null,
    status              text not null default 'queued'
        check (status in ('queued', 'in_progress', 'completed', 'failed', 'incomplete', 'cancelled')),
    background          boolean not null default false,
    store               boolean not null default true,
    request             jsonb not null,
    attempt             integer not null default 0,
    journal_attempt     integer not null default 1,
    worker_id           text,
    delivery_id         text,
    lease_until         timestamptz,
    available_at        timestamptz not null default clock_timestamp(),
    next_seq            integer not null,
    cancel_requested_at timestamptz,
    dispatched_at       timestamptz,
    response            jsonb,
    usage               jsonb,
    error               jsonb,
    idempotency_key     text,
    body_hash           bytea,
    answered_at         timestamptz,
    created_at          timestamptz not null default clock_timestamp(),
    started_at          timestamptz,
    ended_at            timestamptz,
    rolled_up_at        timestamptz,
    unique (conversation_id, turn)
)


comment on table jobs is 'a job is a response; the table is the outbox of chat.jobs'


comment on column jobs.request is 'the Response object as accepted'


comment on column jobs.response is 'the Response object as it ended'


comment on column jobs.attempt is 'the fence of the worker: claimed this often'


comment on column jobs.delivery_id is 'the message that was claimed with: if it comes again, its worker lost it'


comment on column jobs.journal_attempt is 'the fence of the journal: the attempt whose chunks are stored'


comment on column jobs.answered_at is 'when its client surely got an answer; until then the request may come again'


create unique index jobs_idempotency on jobs (user_id, idempotency_key) where idempotency_key is not null


-- What a blind retry looks through: requests that nobody knows to be answered.
create index jobs_unanswered on jobs (user_id, body_hash)
where body_hash is not null and idempotency_key is null and answered_at is null


comment on column jobs.rolled_up_at is 'when its journal was packed and its ledger deleted, long after its end'


-- What retention looks through.
create index jobs_not_rolled_up on jobs (ended_at) where ended_at is not null and rolled_up_at is null


create index jobs_open on jobs (status, available_at) where status in ('queued', 'in_progress')


create index jobs_open_by_user on jobs (user_id) where status in ('queued', 'in_progress')


create index jobs_parent on jobs (parent_job_id)


create table messages (
    id              uuid primary key,
    conversation_id uuid not null references conversations on delete cascade,
    job_id          uuid references jobs on delete cascade,
    user_id         text not null,
    turn            integer not null,
    ordinal         integer not null,
    role            text not null check (role in ('user', 'assistant', 'system')),
    content         text not null,
    parts           jsonb not null,
    status          text not null check (status in ('in_progress', 'completed', 'incomplete')),
    metadata        jsonb not null default '{}',
    created_at      timestamptz not null default clock_timestamp(),
    deleted_at      timestamptz
)


comment on column messages.ordinal is 'place within the turn, shared with tool_calls; order is (turn, ordinal)'


create index messages_in_order on messages (conversation_id, turn, ordinal)


create index messages_by_job on messages (job_id, ordinal)


create table tool_calls (
    id              uuid primary key,
    conversation_id uuid not null references conversations on delete cascade,
    job_id          uuid not null references jobs on delete cascade,
    user_id         text not null,
    turn            integer not null,
    ordinal         integer not null,
    call_id         text not null,
    server_label    text not null,
    tool_name       text not null,
    parameters      text not null,
    result          text,
    error           jsonb,
    status          text not null check (status in ('completed', 'failed', 'incomplete')),
    executed_at     timestamptz not null default clock_timestamp()
)


create index tool_calls_in_order on tool_calls (conversation_id, turn, ordinal)


create index tool_calls_by_job on tool_calls (job_id, ordinal)


create table steps (
    job_id     uuid not null references jobs on delete cascade,
    step       integer not null,
    kind       text not null check (kind in ('model', 'tool_intent', 'tool_result')),
    index      integer not null default 0,
    user_id    text not null,
    attempt    integer not null,
    data       jsonb not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (job_id, step, kind, index)
)


comment on table steps is 'the worker''s ledger: what is whole here is not done again by the next attempt'


create table journal (
    job_id    uuid not null references jobs on delete cascade,
    first_seq integer not null,
    last_seq  integer not null,
    user_id   text not null,
    frames    text,
    packed    bytea,
    primary key (job_id, first_seq),
    check ((frames is null) <> (packed is null))
)


comment on column journal.frames is 'the exact JSON of events first_seq to last_seq, one a line'


comment on column journal.packed is 'instead of frames, long after the end: the same, compressed by zlib'


-- Compressed already.
alter table journal alter column packed set storage external


create table tasks (
    id           uuid primary key,
    user_id      text not null,
    title        text not null check (char_length(title) between 1 and 200),
    description  text not null default '' check (char_length(description) <= 2000),
    completed    boolean not null default false,
    due          date,
    priority     text check (priority in ('low', 'normal', 'high')),
    created_at   timestamptz not null default clock_timestamp(),
    updated_at   timestamptz not null default clock_timestamp(),
    completed_at timestamptz
)


create index tasks_by_user on tasks (user_id, id)


create table idempotency_keys (
    user_id        text not null,
    key            text not null,
    tool_name      text not null,
    arguments_hash bytea not null,
    result         jsonb not null,
    created_at     timestamptz not null default clock_timestamp(),
    primary key (user_id, key)
)


create index idempotency_keys_by_age on idempotency_keys (created_at)


create table dead_letters (
    id           uuid primary key,
    job_id       uuid,
    queue        text not null,
    reason       text not null,
    message_kind text not null,
    body_bytes   integer not null,
    body_hash    bytea not null,
    received_at  timestamptz not null default clock_timestamp()
)


comment on table dead_letters is 'what the broker threw out, for operators; never what it said'


create index dead_letters_by_job on dead_letters (job_id)


create index dead_letters_by_age on dead_letters (received_at)


comment on table idempotency_keys is 'committed with the effect of the tool call, so a repeat has none'
"""

_FUNCTIONS = """
create function accept_turn(
    p_user_id text, p_job_id uuid, p_conversation_id uuid, p_is_new_conversation boolean, p_title text,
    p_conversation_metadata jsonb, p_parent_job_id uuid, p_background boolean, p_store boolean, p_request jsonb,
    p_items jsonb, p_frames text, p_next_seq integer, p_idempotency_key text, p_body_hash bytea,
    p_open_jobs_max integer, p_multitask_strategy text default 'enqueue', p_retry_seconds double precision default null,
    out outcome text, out job_id uuid, out conversation_id uuid, out is_active boolean, out interrupted uuid[])
language plpgsql as $$
declare
    conversation conversations;
    earlier jobs;
begin
    -- The whole acceptance of a message is this one transaction and one round trip.
    perform set_config('app.user_id', p_user_id, true);
    if p_idempotency_key is not null then
        select * into earlier from jobs j where j.user_id = p_user_id and j.idempotency_key = p_idempotency_key;
        if found then
            outcome := case when earlier.body_hash = p_body_hash then 'repeated' else 'key_reused' end;
            job_id := earlier.id;
            conversation_id := earlier.conversation_id;
            is_active := false;
            return;
        end if;
    elsif p_body_hash is not null then
        -- A retry waits here for the request that it repeats, should that one be at work.
        perform pg_advisory_xact_lock(hashtextextended(p_user_id || encode(p_body_hash, 'hex'), 0));
        if p_retry_seconds is not null then
            select * into earlier from jobs j
            where j.user_id = p_user_id and j.body_hash = p_body_hash and j.idempotency_key is null
              and j.answered_at is null
              and coalesce(j.ended_at, clock_timestamp()) > clock_timestamp() - make_interval(secs => p_retry_seconds)
            order by j.id desc limit 1;
            if found then
                outcome := 'repeated';
                job_id := earlier.id;
                conversation_id := earlier.conversation_id;
                is_active := false;
                return;
            end if;
        end if;
    end if;
    if (select count(*) from (select from jobs j where j.user_id = p_user_id and j.status in ('queued', 'in_progress')
                              limit p_open_jobs_max) open_jobs) >= p_open_jobs_max then
        outcome := 'too_many_open';
        return;
    end if;
    if p_is_new_conversation then
        insert into conversations (id, user_id, title, metadata)
        values (p_conversation_id, p_user_id, p_title, p_conversation_metadata) returning * into conversation;
    else
        -- `no key update`: new rows that refer to the conversation need not wait for each other.
        select * into conversation from conversations c
        where c.id = p_conversation_id and c.user_id = p_user_id and c.deleted_at is null for no key update;
        if not found then
            outcome := 'conversation_not_found';
            return;
        end if;
        if p_multitask_strategy = 'reject' and exists (
            select from jobs j where j.conversation_id = conversation.id and j.user_id = p_user_id
                                 and j.status in ('queued', 'in_progress')) then
            outcome := 'conversation_locked';
            return;
        end if;
        if p_multitask_strategy = 'interrupt' then
            with stopped as (
                update jobs j set cancel_requested_at = clock_timestamp()
                where j.id in (select o.id from jobs o
                               where o.conversation_id = conversation.id and o.user_id = p_user_id
                                 and o.status in ('queued', 'in_progress') and o.cancel_requested_at is null
                               order by o.id for no key update)
                returning j.id)
            select array_agg(s.id) into interrupted from stopped s;
        end if;
    end if;
    insert into jobs (id, conversation_id, user_id, parent_job_id, turn, background, store, request, next_seq,
                      idempotency_key, body_hash)
    values (p_job_id, conversation.id, p_user_id, coalesce(p_parent_job_id, conversation.head_job_id),
            conversation.last_turn + 1, p_background, p_store, p_request, p_next_seq, p_idempotency_key, p_body_hash);
    insert into messages (id, conversation_id, job_id, user_id, turn, ordinal, role, content, parts, status)
    select i.id, conversation.id, p_job_id, p_user_id, conversation.last_turn + 1, i.ordinal, i.role, i.content,
           i.parts, 'completed'
    from jsonb_to_recordset(p_items) i (id uuid, ordinal integer, role text, content text, parts jsonb);
    insert into journal (job_id, first_seq, last_seq, user_id, frames)
    values (p_job_id, 0, p_next_seq - 1, p_user_id, p_frames);
    update conversations c
    set last_turn = conversation.last_turn + 1, head_job_id = p_job_id, updated_at = clock_timestamp(),
        active_job_id = coalesce(conversation.active_job_id, p_job_id),
        title = case when conversation.title = '' then p_title else conversation.title end
    where c.id = conversation.id;
    outcome := 'accepted';
    job_id := p_job_id;
    conversation_id := conversation.id;
    is_active := conversation.active_job_id is null;
end
$$


create function claim_job(
    p_user_id text, p_job_id uuid, p_worker_id text, p_lease_seconds double precision, p_delivery_id text)
returns table (conversation_id uuid, parent_job_id uuid, turn integer, attempt integer, next_seq integer,
               request jsonb, cancel_requested boolean, created_at timestamptz)
language plpgsql as $$
begin
    -- No row: the job ended, waits for its turn or its time, or is owned by a live worker. The very delivery that it
    -- was claimed with comes again only when that claim's answer, or the worker's channel, was lost. Any other message
    -- about it is a duplicate, however often the broker delivered that one.
    perform set_config('app.user_id', p_user_id, true);
    return query
    update jobs j
    set status = 'in_progress', attempt = j.attempt + 1, worker_id = p_worker_id, delivery_id = p_delivery_id,
        lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds),
        started_at = coalesce(j.started_at, clock_timestamp())
    where j.id = p_job_id and j.user_id = p_user_id
      and exists (select from conversations c where c.id = j.conversation_id and c.active_job_id = j.id)
      and ((j.status = 'queued' and j.available_at <= clock_timestamp())
           or (j.status = 'in_progress' and (j.delivery_id = p_delivery_id or j.lease_until < clock_timestamp())))
    returning j.conversation_id, j.parent_job_id, j.turn, j.attempt, j.next_seq, j.request,
              j.cancel_requested_at is not null, j.created_at;
end
$$
"""

_GRANTS = """
grant usage on schema public to parley_gateway, parley_worker, parley_persistence, parley_tools


revoke execute on function accept_turn, claim_job from public


grant execute on function accept_turn to parley_gateway


grant execute on function claim_job to parley_worker


grant select on conversations, jobs, messages, tool_calls, journal to parley_gateway


grant insert on conversations, jobs, messages, journal to parley_gateway


grant update (title, metadata, active_job_id, head_job_id, last_turn, updated_at, deleted_at) on conversations
to parley_gateway


grant update (cancel_requested_at, dispatched_at, answered_at) on jobs to parley_gateway


grant select, insert, update, delete on tasks to parley_gateway, parley_tools


grant select, insert on idempotency_keys to parley_tools


grant select on conversations, jobs, messages, tool_calls, steps to parley_worker


grant update (status, attempt, worker_id, delivery_id, lease_until, started_at) on jobs to parley_worker


grant insert on steps to parley_worker


grant select on conversations, jobs, messages, tool_calls, steps, journal to parley_persistence


grant insert on messages, tool_calls, journal to parley_persistence


grant update on jobs to parley_persistence


grant update (active_job_id, updated_at) on conversations to parley_persistence


-- Retention.
grant delete on conversations, steps, journal to parley_persistence


grant select (user_id, key, created_at), delete on idempotency_keys to parley_persistence


grant select, insert, delete on dead_letters to parley_persistence


-- The purge of a user. Row level security shows only the tasks of the user that the transaction names, none without.
grant select (id, user_id), delete on tasks to parley_persistence
"""


def _row_level_security() -> str:
    tables = ("conversations", "jobs", "messages", "tool_calls", "steps", "journal", "tasks", "idempotency_keys")
    statements = []
    for table in tables:
        statements += [
            f"alter table {table} enable row level security",
            f"alter table {table} force row level security",
            # A setting that was once set in a session reads '' afterwards, not null.
            f"""create policy tenant on {table}
                using (user_id = nullif(current_setting('app.user_id', true), ''))
                with check (user_id = nullif(current_setting('app.user_id', true), ''))""",
        ]
    statements += [
        f"create policy write_back on {table} to parley_persistence using (true) with check (true)"
        for table in ("conversations", "jobs", "messages", "tool_calls", "steps", "journal", "dead_letters")
    ]
    statements += [
        # Its rights are to find and delete what is old.
        "create policy retention on idempotency_keys to parley_persistence using (true)",
        "alter table dead_letters enable row level security",
        "alter table dead_letters force row level security",
    ]
    statements += [
        # The lease heartbeat is one statement for all jobs of a worker, whoever their users are.
        """create policy lease on jobs to parley_worker
           using (worker_id = nullif(current_setting('app.worker_id', true), ''))""",
        # Confirmed dispatches are marked in batches, whoever their users are; so are delivered answers. And
        # the gateway counts what is open. It may write three columns.
        """create policy dispatch on jobs to parley_gateway
           using (current_setting('app.scope', true) = 'dispatch')""",
    ]
    return "\n\n\n".join(statements)


_ROW_LEVEL_SECURITY = _row_level_security()
