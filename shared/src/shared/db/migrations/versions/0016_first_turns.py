"""The first turn of a conversation begins without a search for what came before it.

Described in `docs/schema.md`.
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(_BEGIN_ATTEMPTS)


def downgrade() -> None:
    raise NotImplementedError("goes on from 0015 only: there is nothing to take back that anybody would miss")


_BEGIN_ATTEMPTS = """
create or replace function begin_attempts(
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
        if claimed.parent_job_id is not null then
            return query select ready.id, null::integer, null::integer, null::jsonb, null::boolean, told.*
            from history_of(ready.id, ready.user_id, p_turn_count_max, p_bytes_max, p_output_bytes_max,
                            claimed.request ->> 'truncation' is distinct from 'disabled') told;
            continue;
        end if;
        -- Nothing comes before it: the rows that history_of would give, without looking for turns.
        return query
        select ready.id, null::integer, null::integer, null::jsonb, null::boolean,
               ready.id, claimed.conversation_id, claimed.turn, entry.*, false, array[claimed.conversation_id],
               (select deleted_item_count::bigint from conversations
                where id = claimed.conversation_id and user_id = ready.user_id),
               exists (select from messages where conversation_id = claimed.conversation_id and user_id = ready.user_id
                                                  and job_id is null and deleted_at is null)
               or exists (select from items where conversation_id = claimed.conversation_id and user_id = ready.user_id
                                                  and job_id is null and deleted_at is null)
        from (select) own left join lateral (
            select ordinal, 'message', role, content, case when parts @? '$[*].file_id' then parts end, null::uuid,
                   null, null, null::jsonb, null, null::jsonb
            from messages where job_id = ready.id and user_id = ready.user_id and deleted_at is null
            union all
            select ordinal, kind, null, null, null, id, null, null, null, null, item
            from items where job_id = ready.id and user_id = ready.user_id and deleted_at is null
                         and kind not in ('reasoning', 'mcp_list_tools')
        ) entry (ordinal) on true
        order by entry.ordinal;
    end loop;
end
$$
"""
