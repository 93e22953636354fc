"""A turn is accepted with fewer writes, and turns that come together are accepted together.

The conversation is written once per turn, where the trigger that told of the turn wrote it once more, and a new one
twice more. `accept_turn` keeps its signature: gateways of the version before call it. Described in `docs/schema.md`.
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in _STATEMENTS.split("\n\n\n"):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("goes on from 0014 only: there is nothing to take back that anybody would miss")


_STATEMENTS = """
-- `p_items` are objects {id, ordinal, kind, role, content, parts, item}: kind 'message' has role, content, parts, and
-- perhaps a phase in `item`; all others have only `item`. `p_answered_requests` are the ids of the approval requests
-- that they answer. `p_parent_job_id` null: the turn follows the one accepted last, or nothing where `p_at_start`.
create or replace function accept_turn(
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
    told integer;  -- the number of the event that tells other tabs of it
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
    if cardinality(p_answered_requests) > 0 and exists (
        select from approval_answers a
        where a.user_id = p_user_id and a.approval_request_id = any(p_answered_requests)) then
        outcome := 'already_answered';
        return;
    end if;
    if p_is_new_conversation then
        is_active := true;
        parent := case when p_at_start then null else p_parent_job_id end;
        told := case when p_store then 1 end;
        insert into conversations (id, user_id, title, metadata, is_ephemeral, is_forked, last_turn, head_job_id,
                                   active_job_id, event_count)
        values (p_conversation_id, p_user_id, p_title, p_conversation_metadata, not p_store, parent is not null, 1,
                p_job_id, p_job_id, coalesce(told, 0))
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
        is_active := conversation.active_job_id is null;
        parent := case when p_at_start then null else coalesce(p_parent_job_id, conversation.head_job_id) end;
        told := conversation.event_count + 1;
        -- A title is an event of its own, which its trigger numbers.
        update conversations c
        set last_turn = c.last_turn + 1, head_job_id = p_job_id, updated_at = clock_timestamp(),
            active_job_id = coalesce(c.active_job_id, p_job_id), event_count = told,
            is_forked = c.is_forked or parent is distinct from c.head_job_id,
            title = case when c.title = '' then p_title else c.title end
        where c.id = conversation.id
        returning * into conversation;
    end if;
    insert into jobs (id, conversation_id, user_id, parent_job_id, turn, background, store, request, next_seq,
                      idempotency_key, body_hash, input_item_count)
    values (p_job_id, conversation.id, p_user_id, parent, conversation.last_turn, p_background, p_store, p_request,
            p_next_seq, p_idempotency_key, p_body_hash, jsonb_array_length(p_items));
    if cardinality(p_answered_requests) > 0 then
        insert into approval_answers (user_id, approval_request_id, job_id)
        select distinct p_user_id, answered.id, p_job_id from unnest(p_answered_requests) answered (id);
    end if;
    insert into messages (id, conversation_id, job_id, user_id, turn, ordinal, role, content, parts, status, metadata)
    select i.id, conversation.id, p_job_id, p_user_id, conversation.last_turn, i.ordinal, i.role, i.content,
           i.parts, 'completed', coalesce(i.item, '{}')
    from jsonb_to_recordset(p_items)
         i (id uuid, ordinal integer, kind text, role text, content text, parts jsonb, item jsonb)
    where coalesce(i.kind, 'message') = 'message';  -- gateways of the version before know no kinds
    if p_items @? '$[*] ? (@.kind != "message")' then
        insert into items (id, conversation_id, job_id, user_id, turn, ordinal, kind, item)
        select i.id, conversation.id, p_job_id, p_user_id, conversation.last_turn, i.ordinal, i.kind, i.item
        from jsonb_to_recordset(p_items) i (id uuid, ordinal integer, kind text, item jsonb)
        where i.kind <> 'message';
    end if;
    insert into journal (job_id, first_seq, last_seq, user_id, frames)
    values (p_job_id, 0, p_next_seq - 1, p_user_id, p_frames);
    if told is not null then
        insert into conversation_events (conversation_id, seq, user_id, kind, data)
        values (conversation.id, told, p_user_id, 'conversation.response.created', jsonb_build_object(
            'response_id', wire_id('resp', p_job_id), 'previous_response_id', wire_id('resp', parent)));
    end if;
    outcome := 'accepted';
    job_id := p_job_id;
    conversation_id := conversation.id;
end
$$


drop trigger response_created on jobs


drop function note_response_created


grant insert (is_forked, head_job_id, active_job_id, event_count) on conversations to parley_gateway


comment on table conversation_events is 'what other tabs and devices are told; written by accept_turn and by triggers'


-- `p_turns` are objects whose keys are the parameters of `accept_turn`, without their prefix.
create function accept_turns(p_turns jsonb)
returns table (asked_id uuid, outcome text, job_id uuid, conversation_id uuid, is_active boolean, interrupted uuid[])
language plpgsql as $$
#variable_conflict use_column
declare
    turn record;
begin
    -- In the order of what each locks: the conversations.
    if jsonb_array_length(p_turns) > 1 then
        perform set_config('lock_timeout', '100ms', true);  -- then each is asked for by itself
    end if;
    for turn in
        select * from jsonb_to_recordset(p_turns) as each (
            user_id text, job_id uuid, conversation_id uuid, is_new_conversation boolean, title text,
            parent_job_id uuid, background boolean, store boolean, request jsonb, items jsonb, frames text,
            next_seq integer, idempotency_key text, body_hash bytea, open_jobs_max integer, multitask_strategy text,
            retry_seconds double precision, at_start boolean, tokens_per_day_max bigint, answered_requests text[])
        order by conversation_id
    loop
        return query select turn.job_id, told.* from accept_turn(
            turn.user_id, turn.job_id, turn.conversation_id, turn.is_new_conversation, turn.title, '{}',
            turn.parent_job_id, turn.background, turn.store, turn.request, turn.items, turn.frames, turn.next_seq,
            turn.idempotency_key, turn.body_hash, turn.open_jobs_max, turn.multitask_strategy, turn.retry_seconds,
            turn.at_start, turn.tokens_per_day_max, turn.answered_requests) told;
    end loop;
end
$$


grant execute on function accept_turns to parley_gateway
"""
