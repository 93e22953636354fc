"""Columns and parameters that nothing reads any more go; rights that no statement uses go.

Described in `docs/schema.md`.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for part in (_FUNCTIONS, _PUBLIC, _RIGHTS, _POLICIES):
        for statement in part.split("\n\n\n"):
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("goes on from 0007 only: what it drops is not known any more")


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
    p_at_start boolean default false, p_tokens_per_day_max bigint default null,
    p_answered_requests text[] default '{}',
    out outcome text, out job_id uuid, out conversation_id uuid, out is_active boolean, out interrupted uuid[])
language plpgsql as $$
declare
    conversation conversations;
    earlier record;
    parent uuid;
begin
    -- The whole acceptance of a message is this one transaction and one round trip.
    perform set_config('app.user_id', p_user_id, true);
    if p_idempotency_key is not null then
        select j.id, j.conversation_id, j.body_hash into earlier
        from jobs j where j.user_id = p_user_id and j.idempotency_key = p_idempotency_key;
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
            select j.id, j.conversation_id into earlier from jobs j
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
                      idempotency_key, body_hash, input_item_count)
    values (p_job_id, conversation.id, p_user_id, parent, conversation.last_turn + 1, p_background, p_store, p_request,
            p_next_seq, p_idempotency_key, p_body_hash, jsonb_array_length(p_items));
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


-- As gateways of the version before call it, while they are replaced; the migration after this one drops it. None of
-- its parameters has a default, so that no other call means this function.
create function accept_turn(
    p_user_id text, p_job_id uuid, p_conversation_id uuid, p_is_new_conversation boolean, p_title text,
    p_conversation_metadata jsonb, p_parent_job_id uuid, p_background boolean, p_store boolean, p_request jsonb,
    p_items jsonb, p_frames text, p_next_seq integer, p_idempotency_key text, p_body_hash bytea,
    p_open_jobs_max integer, p_multitask_strategy text, p_retry_seconds double precision, p_at_start boolean,
    p_options jsonb, p_tokens_per_day_max bigint, p_answered_requests text[],
    out outcome text, out job_id uuid, out conversation_id uuid, out is_active boolean, out interrupted uuid[])
language sql as $$
    select * from accept_turn(
        p_user_id, p_job_id, p_conversation_id, p_is_new_conversation, p_title, p_conversation_metadata,
        p_parent_job_id, p_background, p_store, p_request, p_items, p_frames, p_next_seq, p_idempotency_key,
        p_body_hash, p_open_jobs_max, p_multitask_strategy, p_retry_seconds, p_at_start, p_tokens_per_day_max,
        p_answered_requests)
$$


drop function claim_job


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


alter table jobs drop column options
"""

_PUBLIC = """
-- Functions of later migrations are nobody's either, until they are granted.
alter default privileges revoke execute on functions from public


revoke execute on function accept_turn(
    text, uuid, uuid, boolean, text, jsonb, uuid, boolean, boolean, jsonb, jsonb, text, integer, text, bytea, integer,
    text, double precision, boolean, bigint, text[]) from public


revoke execute on function accept_turn(
    text, uuid, uuid, boolean, text, jsonb, uuid, boolean, boolean, jsonb, jsonb, text, integer, text, bytea, integer,
    text, double precision, boolean, jsonb, bigint, text[]) from public


revoke execute on function
    claim_job, keep_webhook_secret, user_word, words_of, search_query, begin_search, note_words, note_event, wire_id,
    note_response_created, note_response_ended, note_item, note_conversation, drop_summaries_of_item,
    drop_summaries_of_conversation
from public


revoke all on schema public from public


-- Who does not own the database is warned, and goes on: then its owner has to do it.
do $$
begin
    execute format('revoke temporary on database %I from public', current_database());
end
$$


-- Large objects are no tables: row level security does not reach them. They are the superuser's to forbid.
do $$
begin
    if (select rolsuper from pg_roles where rolname = current_user) then
        revoke execute on function pg_catalog.lo_creat(integer), pg_catalog.lo_create(oid),
            pg_catalog.lo_from_bytea(oid, bytea) from public;
    end if;
end
$$
"""

_RIGHTS = """
grant execute on function accept_turn(
    text, uuid, uuid, boolean, text, jsonb, uuid, boolean, boolean, jsonb, jsonb, text, integer, text, bytea, integer,
    text, double precision, boolean, bigint, text[]) to parley_gateway


grant execute on function accept_turn(
    text, uuid, uuid, boolean, text, jsonb, uuid, boolean, boolean, jsonb, jsonb, text, integer, text, bytea, integer,
    text, double precision, boolean, jsonb, bigint, text[]) to parley_gateway


grant execute on function claim_job to parley_worker


grant execute on function begin_search, search_query to parley_gateway


-- What triggers call, as the role whose statement fired them.
grant execute on function note_event, wire_id, words_of, user_word to parley_gateway, parley_persistence


-- Where some columns are needed, the right to the whole table goes.
revoke select on conversations, jobs, steps, files from parley_worker


revoke insert on steps from parley_worker


grant select (id, user_id, active_job_id, deleted_item_count, title_source, is_ephemeral, deleted_at) on conversations
to parley_worker


grant select (id, conversation_id, user_id, parent_job_id, turn, status, attempt, worker_id, delivery_id, lease_until,
              available_at, next_seq, request, cancel_requested_at, created_at, started_at)
on jobs to parley_worker


grant select (job_id, user_id, step, kind, index, data),
      insert (job_id, user_id, step, kind, index, attempt, data)
on steps to parley_worker


grant select (id, user_id, filename, media_type, bytes, byte_count, expires_at, deleted_at) on files to parley_worker


revoke select on jobs, approval_answers, message_words from parley_gateway


revoke insert on conversations, jobs, messages, items, journal, approval_answers, files, conversation_events, tasks
from parley_gateway


revoke update on tasks from parley_gateway


grant insert (id, user_id, title, metadata, last_turn, is_ephemeral) on conversations to parley_gateway


grant select (id, conversation_id, user_id, parent_job_id, turn, status, background, store, input_item_count, request,
              attempt, available_at, next_seq, cancel_requested_at, dispatched_at, response, idempotency_key, body_hash,
              answered_at, created_at, ended_at, deleted_at),
      insert (id, conversation_id, user_id, parent_job_id, turn, background, store, input_item_count, request, next_seq,
              idempotency_key, body_hash)
on jobs to parley_gateway


grant insert (id, conversation_id, job_id, user_id, turn, ordinal, role, content, parts, status, metadata) on messages
to parley_gateway


grant insert (id, conversation_id, job_id, user_id, turn, ordinal, kind, item) on items
to parley_gateway


grant insert (job_id, first_seq, last_seq, user_id, frames) on journal to parley_gateway


grant select (user_id, approval_request_id), insert (user_id, approval_request_id, job_id) on approval_answers
to parley_gateway


grant insert (id, user_id, filename, media_type, purpose, bytes, byte_count, sha256, is_inline, expires_at) on files
to parley_gateway


grant insert (conversation_id, seq, user_id, kind, data) on conversation_events to parley_gateway


-- Searched by its policy, which needs no right to the words.
grant select (message_id, conversation_id, user_id) on message_words to parley_gateway


revoke insert, update on tasks from parley_tools


grant insert (id, user_id, title, description, due, priority, created_at, updated_at),
      update (title, description, completed, completed_at, due, priority, updated_at)
on tasks to parley_gateway, parley_tools


revoke select, insert on idempotency_keys from parley_tools


grant select (user_id, key, tool_name, arguments_hash, result), insert (user_id, key, tool_name, arguments_hash, result)
on idempotency_keys to parley_tools


revoke select on conversation_events from parley_persistence


revoke insert on messages, items, tool_calls, conversation_events, summaries, webhook_endpoints, webhook_deliveries,
                 dead_letters
from parley_persistence


revoke update on jobs, usage_by_day, webhook_endpoints from parley_persistence


grant update (status, journal_attempt, worker_id, lease_until, available_at, next_seq, dispatched_at, response, usage,
              error, ended_at, rolled_up_at)
on jobs to parley_persistence


grant insert (id, conversation_id, job_id, user_id, turn, ordinal, role, content, parts, status) on messages
to parley_persistence


grant insert (id, conversation_id, job_id, user_id, turn, ordinal, kind, item) on items to parley_persistence


grant insert (id, conversation_id, job_id, user_id, turn, ordinal, call_id, server_label, tool_name, parameters, result,
              error, status, approval_request_id)
on tool_calls to parley_persistence


grant insert (conversation_id, seq, user_id, kind, data) on conversation_events to parley_persistence


grant insert (job_id, conversation_id, user_id, turn, conversation_ids, text, token_count, covers_turn_count)
on summaries to parley_persistence


grant update (response_count, input_tokens, output_tokens) on usage_by_day to parley_persistence


grant insert (id, url, secret, event_types),
      update (url, secret, event_types, failure_count, failing_since, disabled_at, disabled_reason, updated_at)
on webhook_endpoints to parley_persistence


grant insert (event_id, endpoint_id, user_id, job_id, type, body) on webhook_deliveries to parley_persistence


grant insert (id, job_id, queue, reason, message_kind, body_bytes, body_hash) on dead_letters to parley_persistence
"""

_POLICIES = """
-- Who marks jobs of all users has no reason to add any.
drop policy dispatch on jobs


create policy dispatch on jobs for select to parley_gateway using (current_setting('app.scope', true) = 'dispatch')


create policy dispatch_mark on jobs for update to parley_gateway
using (current_setting('app.scope', true) = 'dispatch')
"""
