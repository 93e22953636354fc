"""What happens in conversations, told in order; search in what was said; the archive; where titles come from.

Described in `docs/schema.md`.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for part in (_TABLES, _WORDS, _EVENTS, _RIGHTS):
        for statement in part.split("\n\n\n"):
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("goes on from 0004 only: what it stores has no place there")


_TABLES = """
alter table conversations
    add column archived_at timestamptz,
    add column title_source text not null default 'message' check (title_source in ('message', 'model', 'user')),
    add column event_count integer not null default 0,
    add column title_words tsvector generated always as (to_tsvector('simple', title)) stored


comment on column conversations.title_source is 'whose words it is: the first message''s, a model''s, the user''s'


comment on column conversations.event_count is 'the number of its last event in conversation_events'


-- Lists leave out what is ephemeral.
drop index conversations_by_user


create index conversations_by_user on conversations (user_id, is_ephemeral, updated_at desc, id)


create table conversation_events (
    conversation_id uuid not null references conversations on delete cascade,
    seq             integer not null,
    user_id         text not null,
    kind            text not null,
    data            jsonb not null,
    created_at      timestamptz not null default clock_timestamp(),
    primary key (conversation_id, seq)
)


comment on table conversation_events is 'what other tabs and devices are told; written by triggers alone'


-- Not a column of messages: row level security lets no index of theirs answer a full text search, as the operator might
-- tell what it sees. Here the search is part of the policy.
create table message_words (
    message_id      uuid primary key references messages on delete cascade,
    conversation_id uuid not null,
    user_id         text not null,
    words           tsvector not null
)


comment on column message_words.words is 'of the beginning of its content; and one word that stands for its user'
"""

_WORDS = """
-- The word that keeps a search within what its user said: no word of a text begins so.
create function user_word(p_user_id text) returns text
language sql immutable parallel safe as $$
    select '@' || left(encode(sha256(convert_to(p_user_id, 'UTF8')), 'hex'), 16)
$$


-- A text as long as is searched fits into a tsvector, whatever it says: none of its words can fail to be stored.
create function words_of(p_user_id text, p_content text) returns tsvector
language sql immutable parallel safe as $$
    select to_tsvector('simple', left(p_content, 50000)) || array_to_tsvector(array[user_word(p_user_id)])
$$


-- What a user typed, as a query: every word, "words in a row", -not, or; the last word may go on. Null: no word in it.
create function search_query(p_text text) returns tsquery
language sql stable parallel safe as $$
    select (q || case when q like '%''' then ':*' else '' end)::tsquery
    from (select nullif(websearch_to_tsquery('simple', p_text)::text, '') as q) typed
$$


-- Lets message_words show what is found, in this transaction. Returns the query; null where no word is asked for.
create function begin_search(p_user_id text, p_text text) returns text
language plpgsql as $$
declare
    asked tsquery := search_query(p_text);
begin
    perform set_config('app.search', (quote_literal(user_word(p_user_id))::tsquery && asked)::text, true);
    return asked::text;
end
$$


create function note_words() returns trigger
language plpgsql as $$
begin
    insert into message_words (message_id, conversation_id, user_id, words)
    values (new.id, new.conversation_id, new.user_id, words_of(new.user_id, new.content));
    return null;
end
$$


alter table messages no force row level security


insert into message_words (message_id, conversation_id, user_id, words)
select id, conversation_id, user_id, words_of(user_id, content) from messages where content <> ''


alter table messages force row level security


create index message_words_search on message_words using gin (words)


create trigger words after insert on messages for each row when (new.content <> '') execute function note_words()
"""

_EVENTS = """
-- Numbers and stores an event. Locks the conversation, so its caller must hold that lock already, or no lock of a job.
create function note_event(p_conversation_id uuid, p_kind text, p_data jsonb) returns void
language plpgsql as $$
declare
    told record;
begin
    update conversations c set event_count = c.event_count + 1
    where c.id = p_conversation_id and not c.is_ephemeral
    returning c.event_count, c.user_id into told;
    if found then
        insert into conversation_events (conversation_id, seq, user_id, kind, data)
        values (p_conversation_id, told.event_count, told.user_id, p_kind, p_data);
    end if;
end
$$


create function wire_id(p_prefix text, p_id uuid) returns text
language sql immutable parallel safe as $$
    select p_prefix || '_' || replace(p_id::text, '-', '')
$$


create function note_response_created() returns trigger
language plpgsql as $$
begin
    perform note_event(new.conversation_id, 'conversation.response.created', jsonb_build_object(
        'response_id', wire_id('resp', new.id), 'previous_response_id', wire_id('resp', new.parent_job_id)));
    return null;
end
$$


create function note_response_ended() returns trigger
language plpgsql as $$
begin
    perform note_event(new.conversation_id, 'conversation.response.ended', jsonb_build_object(
        'response_id', wire_id('resp', new.id), 'status', new.status));
    return null;
end
$$


create function note_item() returns trigger
language plpgsql as $$
begin
    perform note_event(new.conversation_id, 'conversation.items.changed', jsonb_build_object(
        'change', case tg_op when 'INSERT' then 'added' else 'deleted' end,
        'item_id', case tg_table_name when 'items' then to_jsonb(new) -> 'item' ->> 'id'
                                      when 'messages' then wire_id('msg', new.id)
                                      else wire_id('mcp', new.id) end));
    return null;
end
$$


-- Before the update, as it changes the row that is being written.
create function note_conversation() returns trigger
language plpgsql as $$
declare
    kind text := case when new.deleted_at is null and old.deleted_at is not null then 'conversation.restored'
                      when new.deleted_at is not null and old.deleted_at is null then 'conversation.deleted'
                      else 'conversation.updated' end;
begin
    new.event_count := new.event_count + 1;
    insert into conversation_events (conversation_id, seq, user_id, kind, data)
    values (new.id, new.event_count, new.user_id, kind,
            case kind when 'conversation.deleted' then '{}' else jsonb_build_object(
                'title', new.title, 'metadata', new.metadata, 'archived', new.archived_at is not null,
                'active_response_id', wire_id('resp', new.head_job_id)) end);
    return new;
end
$$


create trigger response_created after insert on jobs for each row execute function note_response_created()


create trigger response_ended after update of status on jobs for each row
when (old.status in ('queued', 'in_progress') and new.status not in ('queued', 'in_progress'))
execute function note_response_ended()


-- A new turn moves the head, too, and is an event of its own.
create trigger conversation_changed before update on conversations for each row
when (not new.is_ephemeral
      and ((old.title, old.metadata, old.archived_at is null, old.deleted_at is null)
           is distinct from (new.title, new.metadata, new.archived_at is null, new.deleted_at is null)
           or (old.head_job_id is distinct from new.head_job_id and old.last_turn = new.last_turn)))
execute function note_conversation()


create trigger item_added after insert on messages for each row when (new.job_id is null) execute function note_item()


create trigger item_added after insert on items for each row when (new.job_id is null) execute function note_item()


create trigger item_deleted after update of deleted_at on messages for each row
when (old.deleted_at is null and new.deleted_at is not null) execute function note_item()


create trigger item_deleted after update of deleted_at on tool_calls for each row
when (old.deleted_at is null and new.deleted_at is not null) execute function note_item()


create trigger item_deleted after update of deleted_at on items for each row
when (old.deleted_at is null and new.deleted_at is not null) execute function note_item()
"""

_RIGHTS = """
grant update (archived_at, title_source, event_count) on conversations to parley_gateway


grant update (title, title_source, event_count) on conversations to parley_persistence


grant select, insert on conversation_events to parley_gateway, parley_persistence


grant select, insert on message_words to parley_gateway


grant insert on message_words to parley_persistence


alter table conversation_events enable row level security


alter table conversation_events force row level security


create policy tenant on conversation_events
using (user_id = nullif(current_setting('app.user_id', true), ''))
with check (user_id = nullif(current_setting('app.user_id', true), ''))


create policy write_back on conversation_events to parley_persistence using (true) with check (true)


alter table message_words enable row level security


alter table message_words force row level security


create policy tenant on message_words
using (user_id = nullif(current_setting('app.user_id', true), ''))
with check (user_id = nullif(current_setting('app.user_id', true), ''))


-- Checked before the other one, so the index may answer it. Without a search, nothing is there.
create policy search on message_words as restrictive for select to parley_gateway
using (words @@ nullif(current_setting('app.search', true), '')::tsquery)


create policy write_back on message_words to parley_persistence using (true) with check (true)
"""
