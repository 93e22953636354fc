"""Storing a message does not wait for the index of its words: they are indexed soon after, and found all the same.

And no text takes long to be indexed, whatever it says.

Described in `docs/schema.md`.
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in _STATEMENTS.split("\n\n\n"):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("goes on from 0016 only: messages without words would have to be indexed first")


_STATEMENTS = """
create table unindexed_messages (
    message_id uuid primary key references messages on delete cascade,
    user_id    text not null
)


comment on table unindexed_messages is 'whose words message_words does not have yet'


create index unindexed_messages_by_user on unindexed_messages (user_id)


alter table unindexed_messages enable row level security


alter table unindexed_messages force row level security


create policy tenant on unindexed_messages
    using (user_id = nullif(current_setting('app.user_id', true), ''))
    with check (user_id = nullif(current_setting('app.user_id', true), ''))


create policy write_back on unindexed_messages to parley_persistence using (true) with check (true)


grant select, insert on unindexed_messages to parley_gateway


grant select, insert, delete on unindexed_messages to parley_persistence


grant select (message_id) on message_words to parley_persistence


-- A text whose words Postgres finds in a time that grows with its length. Its parser looks ahead from each character,
-- as far as there is no blank (`a1@` again and again might be an address), and behind `<!--` to the end of the text:
-- fifty thousand characters could take it a minute.
create function parsable(p_text text) returns text
language sql immutable parallel safe as $$
    select regexp_replace(replace(p_text, '<!--', ' '), '(\\S{100})', '\\1 ', 'g')
$$


create or replace function words_of(p_user_id text, p_content text) returns tsvector
language sql immutable parallel safe as $$
    select to_tsvector('simple', parsable(left(p_content, 50000))) || array_to_tsvector(array[user_word(p_user_id)])
$$


-- Processes of the version before, which search message_words alone, do not say that they can wait for the index.
create or replace function note_words() returns trigger
language plpgsql as $$
begin
    if current_setting('app.index_later', true) = 'on' then
        insert into unindexed_messages (message_id, user_id) values (new.id, new.user_id);
    else
        insert into message_words (message_id, conversation_id, user_id, words)
        values (new.id, new.conversation_id, new.user_id, words_of(new.user_id, new.content));
    end if;
    return null;
end
$$


-- The messages that the search of `begin_search` finds. Those without words in the index are looked at one by one:
-- there are as many as one user said in the last moments.
create function found_messages(p_user_id text) returns table (message_id uuid, conversation_id uuid)
language sql stable as $$
    select w.message_id, w.conversation_id from message_words w where w.user_id = p_user_id
    union all
    select m.id, m.conversation_id
    from unindexed_messages u join messages m on m.id = u.message_id and m.deleted_at is null
    where u.user_id = p_user_id
      and words_of(m.user_id, m.content) @@ nullif(current_setting('app.search', true), '')::tsquery
$$


grant execute on function parsable(text), found_messages(text) to parley_gateway


grant execute on function parsable(text) to parley_persistence
"""
