"""Items of every kind, branches, responses that are not stored, usage by day.

Described in `docs/schema.md`.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for part in (_TABLES, _FUNCTIONS, _RIGHTS):
        for statement in part.split("\n\n\n"):
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("goes on from 0001 only: what it stores has no place there")


_TABLES = """
-- What is neither a message nor a tool call of ours: the wire's other items, as the wire has them.
create table items (
    id              uuid primary key,
    conversation_id uuid not null references conversations on delete cascade,
    job_id          uuid references jobs on delete cascade,
    user_id         text not null,
    turn            integer not null,
    ordinal         integer not null,
    kind            text not null check (kind in (
        'function_call', 'function_call_output', 'reasoning', 'mcp_call', 'mcp_list_tools', 'mcp_approval_request',
        'mcp_approval_response')),
    item            jsonb not null,
    created_at      timestamptz not null default clock_timestamp(),
    deleted_at      timestamptz
)


comment on column items.ordinal is 'place within the turn, shared with messages and tool_calls'


comment on column items.item is 'the item of the wire, with its id'


create index items_in_order on items (conversation_id, turn, ordinal)


create index items_by_job on items (job_id, ordinal)


alter table tool_calls add column deleted_at timestamptz


alter table tool_calls add column approval_request_id text


alter table jobs add column deleted_at timestamptz


alter table jobs add column input_item_count integer not null default 0


alter table jobs add column options jsonb not null default '{}'


-- Those there are: what came in was stored with the job, what went out once it had begun.
alter table jobs no force row level security


alter table messages no force row level security


update jobs j set input_item_count = (select count(*) from messages m
                                      where m.job_id = j.id and m.created_at < coalesce(j.started_at, 'infinity'))


alter table messages force row level security


alter table jobs force row level security


comment on column jobs.input_item_count is 'its items with an ordinal below are input, the others output'


comment on column jobs.options is 'what the worker has to know beyond the Response object'


alter table conversations add column is_ephemeral boolean not null default false


comment on column conversations.is_ephemeral is 'of one response that is not stored: shown to nobody, purged after it'


create index conversations_ephemeral on conversations (updated_at) where is_ephemeral


alter table conversations add column is_forked boolean not null default false


comment on column conversations.is_forked is 'whether a turn follows another one than the last accepted before it'


create table approval_answers (
    user_id             text not null,
    approval_request_id text not null,
    job_id              uuid not null references jobs on delete cascade,
    primary key (user_id, approval_request_id)
)


comment on table approval_answers is 'a request is answered once, on whichever branch: an approved call is made once'


create index approval_answers_by_job on approval_answers (job_id)


create table usage_by_day (
    user_id        text not null,
    day            date not null,
    response_count bigint not null default 0,
    input_tokens   bigint not null default 0,
    output_tokens  bigint not null default 0,
    primary key (user_id, day)
)


comment on column usage_by_day.day is 'on which the responses ended, in UTC'
"""

_FUNCTIONS = """
drop function accept_turn


-- `p_items` are objects {id, ordinal, kind, role, content, parts, item}: kind 'message' has role, content, parts, and
-- perhaps a phase in `item`; all others have only `item`. `p_answered_requests` are the ids of the approval requests
-- that they answer. `p_parent_job_id` null: the turn follows the one accepted last, or nothing where `p_at_start`.
create function accept_turn(
    p_user_id text, p_job_id uuid, p_conversation_id uuid, p_is_new_conversation boolean, p_title text,
    p_conversation_metadata jsonb, p_parent_job_id uuid, p_background boolean, p_store boolean, p_request jsonb,
    p_items jsonb, p_frames text, p_next_seq integer, p_idempotency_key text, p_body_hash bytea,
    p_open_jobs_max integer, p_multitask_strategy text default 'enqueue', p_retry_seconds double precision default null,
    p_at_start boolean default false, p_options jsonb default '{}', p_tokens_per_day_max bigint default null,
    p_answered_requests text[] default '{}',
    out outcome text, out job_id uuid, out conversation_id uuid, out is_active boolean, out interrupted uuid[])
language plpgsql as $$
declare
    conversation conversations;
    earlier jobs;
    parent uuid;
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
    if p_tokens_per_day_max is not null and exists (
        select from usage_by_day u
        where u.user_id = p_user_id and u.day = (clock_timestamp() at time zone 'utc')::date
          and u.input_tokens + u.output_tokens >= p_tokens_per_day_max) then
        outcome := 'quota_spent';
        return;
    end if;
    if exists (select from approval_answers a
               where a.user_id = p_user_id and a.approval_request_id = any(p_answered_requests)) then
        outcome := 'already_answered';
        return;
    end if;
    if p_is_new_conversation then
        insert into conversations (id, user_id, title, metadata, is_ephemeral)
        values (p_conversation_id, p_user_id, p_title, p_conversation_metadata, not p_store)
        returning * into conversation;
    else
        -- `no key update`: new rows that refer to the conversation need not wait for each other.
        select * into conversation from conversations c
        where c.id = p_conversation_id and c.user_id = p_user_id and c.deleted_at is null and not c.is_ephemeral
        for no key update;
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
    parent := case when p_at_start then null else coalesce(p_parent_job_id, conversation.head_job_id) end;
    insert into jobs (id, conversation_id, user_id, parent_job_id, turn, background, store, request, next_seq,
                      idempotency_key, body_hash, input_item_count, options)
    values (p_job_id, conversation.id, p_user_id, parent, conversation.last_turn + 1, p_background, p_store, p_request,
            p_next_seq, p_idempotency_key, p_body_hash, jsonb_array_length(p_items), p_options);
    insert into approval_answers (user_id, approval_request_id, job_id)
    select distinct p_user_id, answered.id, p_job_id from unnest(p_answered_requests) answered (id);
    insert into messages (id, conversation_id, job_id, user_id, turn, ordinal, role, content, parts, status, metadata)
    select i.id, conversation.id, p_job_id, p_user_id, conversation.last_turn + 1, i.ordinal, i.role, i.content,
           i.parts, 'completed', coalesce(i.item, '{}')
    from jsonb_to_recordset(p_items)
         i (id uuid, ordinal integer, kind text, role text, content text, parts jsonb, item jsonb)
    where coalesce(i.kind, 'message') = 'message';  -- gateways of the version before know no kinds
    insert into items (id, conversation_id, job_id, user_id, turn, ordinal, kind, item)
    select i.id, conversation.id, p_job_id, p_user_id, conversation.last_turn + 1, i.ordinal, i.kind, i.item
    from jsonb_to_recordset(p_items) i (id uuid, ordinal integer, kind text, item jsonb)
    where i.kind <> 'message';
    insert into journal (job_id, first_seq, last_seq, user_id, frames)
    values (p_job_id, 0, p_next_seq - 1, p_user_id, p_frames);
    update conversations c
    set last_turn = conversation.last_turn + 1, head_job_id = p_job_id, updated_at = clock_timestamp(),
        active_job_id = coalesce(conversation.active_job_id, p_job_id),
        is_forked = conversation.is_forked or parent is distinct from conversation.head_job_id,
        title = case when conversation.title = '' then p_title else conversation.title end
    where c.id = conversation.id;
    outcome := 'accepted';
    job_id := p_job_id;
    conversation_id := conversation.id;
    is_active := conversation.active_job_id is null;
end
$$


drop function claim_job


create function claim_job(
    p_user_id text, p_job_id uuid, p_worker_id text, p_lease_seconds double precision, p_delivery_id text)
returns table (conversation_id uuid, parent_job_id uuid, turn integer, attempt integer, next_seq integer,
               request jsonb, options jsonb, cancel_requested boolean, created_at timestamptz)
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
    returning j.conversation_id, j.parent_job_id, j.turn, j.attempt, j.next_seq, j.request, j.options,
              j.cancel_requested_at is not null, j.created_at;
end
$$
"""

_RIGHTS = """
revoke execute on function accept_turn, claim_job from public


grant execute on function accept_turn to parley_gateway


grant execute on function claim_job to parley_worker


grant select, insert on items to parley_gateway, parley_persistence


grant select, insert on approval_answers to parley_gateway


grant update (deleted_at) on messages, tool_calls, items, jobs to parley_gateway


grant update (is_forked) on conversations to parley_gateway


grant select on items to parley_worker


grant select on usage_by_day to parley_gateway


grant select, insert, update, delete on usage_by_day to parley_persistence


alter table items enable row level security


alter table items force row level security


create policy tenant on items
using (user_id = nullif(current_setting('app.user_id', true), ''))
with check (user_id = nullif(current_setting('app.user_id', true), ''))


create policy write_back on items to parley_persistence using (true) with check (true)


alter table approval_answers enable row level security


alter table approval_answers force row level security


create policy tenant on approval_answers
using (user_id = nullif(current_setting('app.user_id', true), ''))
with check (user_id = nullif(current_setting('app.user_id', true), ''))


alter table usage_by_day enable row level security


alter table usage_by_day force row level security


create policy tenant on usage_by_day
using (user_id = nullif(current_setting('app.user_id', true), ''))
with check (user_id = nullif(current_setting('app.user_id', true), ''))


create policy write_back on usage_by_day to parley_persistence using (true) with check (true)
"""
