"""What users think of answers, and conversations that they show to others; how far a conversation was read.

Described in `docs/schema.md`.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for part in (_TABLES, _FUNCTIONS, _RIGHTS, _POLICIES):
        for statement in part.split("\n\n\n"):
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("goes on from 0010 only: what users said of answers has no place there")


_TABLES = """
-- What was there before counts as read.
alter table conversations add column read_at timestamptz not null default now()


comment on column conversations.read_at is 'what had ended by then, its user has seen'


create table feedback (
    job_id          uuid primary key references jobs on delete cascade,
    conversation_id uuid not null references conversations on delete cascade,
    user_id         text not null,
    rating          text not null check (rating in ('positive', 'negative')),
    reason          text check (length(reason) <= 10000),
    created_at      timestamptz not null default clock_timestamp(),
    updated_at      timestamptz not null default clock_timestamp()
)


comment on table feedback is 'what users think of answers'


create index feedback_by_conversation on feedback (conversation_id)


create table shares (
    id              uuid primary key,
    conversation_id uuid not null references conversations on delete cascade,
    user_id         text not null,
    token_digest    bytea not null unique check (length(token_digest) = 32),
    title           text not null,
    head_job_id     uuid,
    last_turn       integer not null,
    created_at      timestamptz not null default clock_timestamp(),
    expires_at      timestamptz
)


comment on table shares is 'branches of conversations that whoever has the token may read'


comment on column shares.token_digest is 'SHA-256 of the token, which is known to who made the link alone'


comment on column shares.head_job_id is 'the end of the branch as it was then; null: there was no response'


create index shares_by_conversation on shares (conversation_id, id)


create index shares_by_user on shares (user_id)
"""

_FUNCTIONS = """
create function note_feedback() returns trigger
language plpgsql as $$
begin
    if tg_op = 'DELETE' then
        perform note_event(old.conversation_id, 'conversation.feedback.changed', jsonb_build_object(
            'response_id', wire_id('resp', old.job_id), 'rating', null));
    else
        perform note_event(new.conversation_id, 'conversation.feedback.changed', jsonb_build_object(
            'response_id', wire_id('resp', new.job_id), 'rating', new.rating));
    end if;
    return null;
end
$$


-- What retention and purges delete is no news.
create trigger feedback_given after insert or delete on feedback for each row
when (current_user = 'parley_gateway') execute function note_feedback()


create trigger feedback_changed after update on feedback for each row
when (current_user = 'parley_gateway' and (old.rating, old.reason) is distinct from (new.rating, new.reason))
execute function note_feedback()


-- What a link shows, and nothing else, to who knows its token: no row where there is no such link. Runs as the owner,
-- so that nobody needs a right to what others said; it reads as the user whose conversation it is, until it returns.
--
-- Of the branch up to its end then: texts of the user and the assistant, and which tools were called. Neither files nor
-- arguments, results, reasoning, system messages or metadata. Positions count what is left out, so that they stay.
create function read_share(
    p_token_digest bytea, p_after integer, p_limit integer,
    out title text, out created_at timestamptz, out expires_at timestamptz, out items jsonb)
returns setof record
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    share shares;
    asker text := coalesce(current_setting('app.user_id', true), '');
begin
    select s.* into share from shares s
    where s.token_digest = p_token_digest and (s.expires_at is null or s.expires_at > clock_timestamp())
      and not exists (select from denials d
                      where d.kind = 'subject' and d.value = s.user_id and d.until > clock_timestamp());
    if not found then
        return;
    end if;
    perform set_config('app.user_id', share.user_id, true);
    if exists (select from conversations c
               where c.id = share.conversation_id and c.user_id = share.user_id and c.deleted_at is null
                 and not c.is_ephemeral) then
        title := share.title;
        created_at := share.created_at;
        expires_at := share.expires_at;
        items := shared_items(
            share.user_id, share.conversation_id, share.head_job_id, share.last_turn, p_after, p_limit);
        return next;
    end if;
    perform set_config('app.user_id', asker, true);
end
$$


create function shared_items(
    p_user_id text, p_conversation_id uuid, p_head_job_id uuid, p_last_turn integer, p_after integer, p_limit integer)
returns jsonb
language sql as $$
    with recursive chain as (
        select j.id, j.parent_job_id from jobs j
        where j.id = p_head_job_id and j.conversation_id = p_conversation_id and j.user_id = p_user_id
        union all
        select p.id, p.parent_job_id from chain c join jobs p on p.id = c.parent_job_id
        where p.conversation_id = p_conversation_id and p.user_id = p_user_id
    ), branch as (
        select m.job_id, m.turn, m.ordinal, m.deleted_at, m.created_at, 'message' as type, m.role, m.parts,
               null as name, null as status
        from messages m where m.conversation_id = p_conversation_id and m.user_id = p_user_id
        union all
        select t.job_id, t.turn, t.ordinal, t.deleted_at, t.executed_at, 'tool_call', null, null, t.tool_name, t.status
        from tool_calls t where t.conversation_id = p_conversation_id and t.user_id = p_user_id
        union all
        select i.job_id, i.turn, i.ordinal, i.deleted_at, i.created_at,
               case when i.kind in ('function_call', 'mcp_call') then 'tool_call' else i.kind end, null, null,
               i.item ->> 'name', i.item ->> 'status'
        from items i where i.conversation_id = p_conversation_id and i.user_id = p_user_id
    ), numbered as (
        select b.*, row_number() over (order by b.turn, b.ordinal) as position from branch b
        where b.turn <= p_last_turn and (b.job_id is null or b.job_id in (select c.id from chain c))
    ), page as (
        select n.* from numbered n
        where n.position > p_after and n.deleted_at is null
          and (n.type = 'tool_call' or (n.type = 'message' and n.role in ('user', 'assistant')))
        order by n.position limit p_limit
    )
    select coalesce(jsonb_agg(
        jsonb_build_object('position', p.position, 'type', p.type,
                           'created_at', floor(extract(epoch from p.created_at))::bigint)
        || case p.type when 'message' then jsonb_build_object(
               'role', p.role,
               'content', (select coalesce(jsonb_agg(case a.part ->> 'type'
                               when 'refusal' then jsonb_build_object('type', 'refusal', 'refusal', a.part -> 'refusal')
                               else jsonb_build_object('type', a.part -> 'type', 'text', a.part -> 'text') end
                               order by a.number), '[]')
                           from jsonb_array_elements(p.parts) with ordinality a (part, number)
                           where a.part ->> 'type' in ('input_text', 'output_text', 'refusal')),
               'omitted_file_count', (select count(*) from jsonb_array_elements(p.parts) a (part)
                                      where a.part ->> 'type' in ('input_image', 'input_file')))
           else jsonb_build_object('name', p.name, 'status', p.status) end
        order by p.position), '[]')
    from page p
$$
"""

_RIGHTS = """
grant execute on function read_share to parley_gateway


grant update (read_at) on conversations to parley_gateway


grant select, insert (job_id, conversation_id, user_id, rating, reason), update (rating, reason, updated_at), delete
on feedback to parley_gateway


grant select (id, conversation_id, user_id, title, head_job_id, last_turn, created_at, expires_at),
      insert (id, conversation_id, user_id, token_digest, title, head_job_id, last_turn, expires_at), delete
on shares to parley_gateway


-- The purge.
grant select (job_id, conversation_id, user_id), delete on feedback to parley_persistence


grant select (id, conversation_id, user_id), delete on shares to parley_persistence
"""

_POLICIES = """
alter table feedback enable row level security


alter table feedback force row level security


create policy tenant on feedback
using (user_id = nullif(current_setting('app.user_id', true), ''))
with check (user_id = nullif(current_setting('app.user_id', true), ''))


create policy write_back on feedback to parley_persistence using (true) with check (true)


alter table shares enable row level security


alter table shares force row level security


create policy tenant on shares
using (user_id = nullif(current_setting('app.user_id', true), ''))
with check (user_id = nullif(current_setting('app.user_id', true), ''))


create policy write_back on shares to parley_persistence using (true) with check (true)


-- For read_share, which runs as the owner: it looks for a link before it knows whose it is, and whether that user is
-- shut out.
create policy read_share on shares for select to current_user using (true)


create policy read_share on denials for select to current_user using (true)
"""
