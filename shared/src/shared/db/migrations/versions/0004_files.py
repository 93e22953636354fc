"""Files of users; usage of what is no response.

Described in `docs/schema.md`.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for part in (_TABLES, _FUNCTIONS, _RIGHTS):
        for statement in part.split("\n\n\n"):
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("goes on from 0003 only: what it stores has no place there")


_TABLES = """
create table files (
    id         uuid primary key,
    user_id    text not null,
    filename   text not null,
    media_type text not null,
    purpose    text not null check (purpose in ('user_data', 'vision', 'assistants')),
    bytes      bytea not null,
    byte_count integer not null,
    sha256     bytea not null,
    is_inline  boolean not null,
    created_at timestamptz not null default clock_timestamp(),
    seen_at    timestamptz not null default clock_timestamp(),
    expires_at timestamptz,
    deleted_at timestamptz
)


-- Compressed already, most of them.
alter table files alter column bytes set storage external


comment on column files.is_inline is 'came within a message, not as an upload: goes when nothing refers to it'


comment on column files.seen_at is 'of inline ones: when last sent, or found to be referred to'


create index files_by_user on files (user_id, id) where deleted_at is null


-- The same image, sent again with every message, is stored once.
create unique index files_inline on files (user_id, sha256, media_type) where is_inline and deleted_at is null


-- What retention looks through.
create index files_seen on files (seen_at) where is_inline


create index files_expiring on files (expires_at) where expires_at is not null


create index files_deleted on files (deleted_at) where deleted_at is not null


-- What may refer to a file: few of many.
create index messages_with_files on messages (user_id) where jsonb_path_exists(parts, '$[*].file_id')


create index items_with_files on items (user_id)
where kind = 'function_call_output' and jsonb_path_exists(item, '$.output[*].file_id')
"""

_FUNCTIONS = """
-- Runs as the owner: who only adds needs no right to change what is there.
create function note_usage(p_user_id text, p_input_tokens bigint, p_output_tokens bigint)
returns void
language plpgsql security definer set search_path = public, pg_temp as $$
begin
    perform set_config('app.user_id', p_user_id, true);
    insert into usage_by_day as u (user_id, day, response_count, input_tokens, output_tokens)
    values (p_user_id, (clock_timestamp() at time zone 'utc')::date, 1, greatest(p_input_tokens, 0),
            greatest(p_output_tokens, 0))
    on conflict (user_id, day) do update
    set response_count = u.response_count + 1,
        input_tokens = u.input_tokens + excluded.input_tokens,
        output_tokens = u.output_tokens + excluded.output_tokens;
end
$$
"""

_RIGHTS = """
revoke execute on function note_usage from public


grant execute on function note_usage to parley_gateway


grant select, insert on files to parley_gateway


grant update (seen_at, deleted_at) on files to parley_gateway


grant select on files to parley_worker


-- Retention and the purge of a user: persistence sees no content and no name.
grant select (id, user_id, is_inline, seen_at, expires_at, deleted_at), update (seen_at), delete
on files to parley_persistence


alter table files enable row level security


alter table files force row level security


create policy tenant on files
using (user_id = nullif(current_setting('app.user_id', true), ''))
with check (user_id = nullif(current_setting('app.user_id', true), ''))


create policy retention on files to parley_persistence using (true) with check (true)
"""
