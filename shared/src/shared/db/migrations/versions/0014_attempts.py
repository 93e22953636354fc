"""Attempts begin in one round trip: jobs that come together are claimed together, and told what they go on from.

`history_of` is what the worker read by itself until now. `claim_job` stays: it decides, and workers of the version
before call it. Described in `docs/schema.md`.
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in _STATEMENTS.split("\n\n\n"):
        op.execute(statement)


def downgrade() -> None:
    op.execute("drop function begin_attempts")
    op.execute("drop function history_of")


_STATEMENTS = """
-- The turns that lead to a job, and its own input, oldest first.
create function history_of(
    p_job_id uuid, p_user_id text, p_turn_count_max integer, p_bytes_max bigint, p_output_bytes_max integer,
    p_with_summary boolean)
returns table (job_id uuid, conversation_id uuid, turn integer, ordinal integer, kind text, role text, text text,
               parts jsonb, call_id uuid, tool_name text, parameters text, error jsonb, approval_request_id text,
               item jsonb, is_cut boolean, conversation_ids uuid[], deleted_item_count bigint, has_loose boolean)
language plpgsql stable as $$
#variable_conflict use_column
begin
    -- `size` is what the past turns from here to the job have together. Postgres knows a text's length without reading
    -- it. The chain ends with a turn that has a summary, of which nothing else is read.
    return query
    with recursive chain as (
        select id, conversation_id, parent_job_id, turn, 0 as distance, 0::bigint as size, false as is_summarised
        from jobs where id = $1 and user_id = $2
        union all
        select parent.id, parent.conversation_id, parent.parent_job_id, parent.turn, chain.distance + 1,
               chain.size + case when known.is_summarised then 0 else said.size + called.size + other.size end,
               known.is_summarised
        from chain join jobs parent on parent.id = chain.parent_job_id and parent.user_id = $2
        cross join lateral (
            select $6 and exists (select from summaries where job_id = parent.id and user_id = $2) as is_summarised
        ) known
        cross join lateral (
            select coalesce(sum(octet_length(content)), 0)::bigint as size
            from messages where job_id = parent.id and user_id = $2 and deleted_at is null
        ) said
        cross join lateral (
            select coalesce(sum(octet_length(parameters)), 0)::bigint
                   + coalesce(sum(least(octet_length(result), $5)) filter (where result is not null), 0) as size
            from tool_calls where job_id = parent.id and user_id = $2 and deleted_at is null
        ) called
        cross join lateral (
            select coalesce(sum(case when kind = 'function_call_output' then least(octet_length(item::text), $5)
                                     else octet_length(item::text) end), 0)::bigint as size
            from items where job_id = parent.id and user_id = $2 and deleted_at is null
                         and kind not in ('reasoning', 'mcp_list_tools')
        ) other
        where chain.distance < $3 and chain.size <= $4 and not chain.is_summarised
    ), known as (
        select conversation_id as id from chain
        union
        select unnest(conversation_ids) from summaries
        where user_id = $2 and job_id in (select id from chain where is_summarised)
    )
    select chain.id as job_id, chain.conversation_id, chain.turn, entry.*,
           (select bool_or(not is_summarised and (size > $4 or (distance = $3 and parent_job_id is not null)))
            from chain) as is_cut,
           (select array_agg(id) from known) as conversation_ids,
           (select sum(deleted_item_count) from conversations where user_id = $2 and id in (select id from known))
           as deleted_item_count,
           (select exists (select from messages where conversation_id = chain.conversation_id and user_id = $2
                                                      and job_id is null and deleted_at is null)
                   or exists (select from items where conversation_id = chain.conversation_id and user_id = $2
                                                      and job_id is null and deleted_at is null)
            from chain where distance = 0) as has_loose
    from chain left join lateral (
        select -1 as ordinal, 'summary' as kind, null as role, text, null::jsonb as parts, null::uuid as call_id,
               null as tool_name, null as parameters, null::jsonb as error, null as approval_request_id,
               jsonb_build_object('turn_count', covers_turn_count) as item
        from summaries where chain.is_summarised and job_id = chain.id and user_id = $2
        union all
        select ordinal, 'message' as kind, role, content as text,
               case when parts @? '$[*].file_id' then parts end as parts,
               null, null, null, null, null, null
        from messages where not chain.is_summarised and job_id = chain.id and user_id = $2 and deleted_at is null
        union all
        select ordinal, 'tool_call', null, result, null, id, tool_name, parameters, error, approval_request_id, null
        from tool_calls where not chain.is_summarised and job_id = chain.id and user_id = $2 and deleted_at is null
        union all
        select ordinal, kind, null, null, null, id, null, null, null, null, item
        from items where not chain.is_summarised and job_id = chain.id and user_id = $2 and deleted_at is null
                     and kind not in ('reasoning', 'mcp_list_tools')
    ) entry on true
    where chain.size <= $4
    order by chain.distance desc, entry.ordinal;
end
$$


create function begin_attempts(
    p_worker_id text, p_lease_seconds double precision, p_user_ids text[], p_job_ids uuid[], p_delivery_ids text[],
    p_turn_count_max integer, p_bytes_max bigint, p_output_bytes_max integer)
returns table (claimed_id uuid, attempt integer, next_seq integer, request jsonb, cancel_requested boolean,
               job_id uuid, conversation_id uuid, turn integer, ordinal integer, kind text, role text, text text,
               parts jsonb, call_id uuid, tool_name text, parameters text, error jsonb, approval_request_id text,
               item jsonb, is_cut boolean, conversation_ids uuid[], deleted_item_count bigint, has_loose boolean)
language plpgsql as $$
#variable_conflict use_column
declare
    ready record;
    claimed record;
begin
    -- In the order of their ids, as everywhere. Of each job that could be claimed: a row of the claim, then, for its
    -- first attempt, those of its history. A later attempt reads it when nothing can come from the one before any more.
    if cardinality(p_job_ids) > 1 then
        perform set_config('lock_timeout', '100ms', true);  -- then each is asked for by itself
    end if;
    for ready in
        select * from unnest(p_user_ids, p_job_ids, p_delivery_ids) as each (user_id, id, delivery_id) order by id
    loop
        select * into claimed
        from claim_job(ready.user_id, ready.id, p_worker_id, p_lease_seconds, ready.delivery_id);
        continue when not found;
        return query select ready.id, claimed.attempt, claimed.next_seq, claimed.request, claimed.cancel_requested,
            null::uuid, claimed.conversation_id, claimed.turn, null::integer, null, null, null, null::jsonb,
            null::uuid, null, null, null::jsonb, null, null::jsonb, null::boolean, null::uuid[], null::bigint,
            null::boolean;
        continue when claimed.attempt > 1;
        return query select ready.id, null::integer, null::integer, null::jsonb, null::boolean, told.*
        from history_of(ready.id, ready.user_id, p_turn_count_max, p_bytes_max, p_output_bytes_max,
                        claimed.request ->> 'truncation' is distinct from 'disabled') told;
    end loop;
end
$$


grant execute on function begin_attempts, history_of to parley_worker
"""
