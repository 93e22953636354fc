"""Summaries of what was said earlier; indexes for what a long conversation is read by.

Described in `docs/schema.md`.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for part in (_TABLES, _FUNCTIONS, _RIGHTS):
        for statement in part.split("\n\n\n"):
            op.execute(statement)


def downgrade() -> None:
    for table in ("messages", "tool_calls", "items"):
        op.execute(f"drop trigger summaries_outdated on {table}")
    op.execute("drop trigger summaries_outdated on conversations")
    op.execute("drop function drop_summaries_of_item, drop_summaries_of_conversation")
    op.execute("drop table summaries")
    op.execute("drop index messages_loose, items_loose")
    op.execute("alter table conversations drop column deleted_item_count")


_TABLES = """
create table summaries (
    job_id            uuid primary key references jobs on delete cascade,
    conversation_id   uuid not null references conversations on delete cascade,
    user_id           text not null,
    turn              integer not null,
    conversation_ids  uuid[] not null,
    text              text not null,
    token_count       integer not null,
    covers_turn_count integer not null,
    created_at        timestamptz not null default clock_timestamp()
)


comment on table summaries is 'what was said up to a turn, that one included, as a model tells it'


comment on column summaries.conversation_ids is 'whose items it tells of: its own, and where its chain of turns began'


create index summaries_by_conversation on summaries (conversation_id)


-- By it the summaries are found that tell of an item, whichever conversation they are in.
create index summaries_by_user on summaries (user_id)


alter table conversations add column deleted_item_count integer not null default 0


comment on column conversations.deleted_item_count is 'a summary that was made while it grew is not stored'


-- What the worker reads beside the chain of turns: few of many.
create index messages_loose on messages (conversation_id, turn, ordinal) where job_id is null


create index items_loose on items (conversation_id, turn, ordinal) where job_id is null
"""

_FUNCTIONS = """
-- Locks the conversation first: who is about to store a summary of before has it locked too, and either is seen here or
-- sees the new count.
create function drop_summaries_of_item() returns trigger
language plpgsql as $$
begin
    update conversations set deleted_item_count = deleted_item_count + 1
    where id = new.conversation_id and user_id = new.user_id;
    delete from summaries
    where user_id = new.user_id and new.conversation_id = any(conversation_ids)
      and (conversation_id <> new.conversation_id or turn >= new.turn);
    return null;
end
$$


create function drop_summaries_of_conversation() returns trigger
language plpgsql as $$
begin
    delete from summaries where user_id = old.user_id and old.id = any(conversation_ids);
    return null;
end
$$


create trigger summaries_outdated after update of deleted_at on messages for each row
when (old.deleted_at is null and new.deleted_at is not null) execute function drop_summaries_of_item()


create trigger summaries_outdated after update of deleted_at on tool_calls for each row
when (old.deleted_at is null and new.deleted_at is not null) execute function drop_summaries_of_item()


create trigger summaries_outdated after update of deleted_at on items for each row
when (old.deleted_at is null and new.deleted_at is not null) execute function drop_summaries_of_item()


create trigger summaries_outdated after delete on conversations for each row
execute function drop_summaries_of_conversation()
"""

_RIGHTS = """
grant select on summaries to parley_worker


grant select (job_id, conversation_id, user_id, turn, conversation_ids), insert, delete on summaries
to parley_persistence


-- The gateway finds and deletes those that tell of a deleted item; it cannot read them.
grant select (conversation_id, user_id, turn, conversation_ids), delete on summaries to parley_gateway


grant update (deleted_item_count) on conversations to parley_gateway


alter table summaries enable row level security


alter table summaries force row level security


create policy tenant on summaries
using (user_id = nullif(current_setting('app.user_id', true), ''))
with check (user_id = nullif(current_setting('app.user_id', true), ''))


create policy write_back on summaries to parley_persistence using (true) with check (true)
"""
