"""What tool servers said of their tools when they were first trusted.

Described in `docs/schema.md`.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for part in (_TABLES, _FUNCTIONS, _RIGHTS):
        for statement in part.split("\n\n\n"):
            op.execute(statement)


def downgrade() -> None:
    op.execute("drop function see_tools")
    op.execute("drop table tool_pins")


_TABLES = """
create table tool_pins (
    server           text not null check (length(server) between 1 and 64),
    tool             text not null check (length(tool) between 1 and 64),
    accepted_digest  text check (accepted_digest ~ '^sha256:[0-9a-f]{64}$'),
    accepted_at      timestamptz,
    seen_digest      text not null check (seen_digest ~ '^sha256:[0-9a-f]{64}$'),
    seen_at          timestamptz not null default clock_timestamp(),
    change_count     bigint not null default 0,
    primary key (server, tool)
)


comment on table tool_pins is 'what each tool server says of its tools, as digests: of no user'


comment on column tool_pins.accepted_digest is 'null: a tool that its server did not have at first, and nobody accepted'


comment on column tool_pins.seen_digest is 'what the server said last; waits to be accepted where it is another'


comment on column tool_pins.change_count is 'how often it said something new'
"""

_FUNCTIONS = """
-- What a server said goes on record, and is trusted where nothing of the server was. The answer has a row for each tool
-- that is not as it was accepted; `is_news` where this call is the first to see that. `p_tools` maps names to digests.
-- No more than 1000 tools of a server are on record: one that says other names every time cannot fill the disk. Those
-- beyond are new, and no news.
create function see_tools(p_server text, p_tools jsonb) returns table (tool text, is_new boolean, is_news boolean)
language plpgsql as $$
declare
    is_first boolean;
begin
    -- Workers that see a server for the first time at once agree on which of them that is.
    perform pg_advisory_xact_lock(hashtextextended('tool_pins ' || p_server, 0));
    is_first := not exists (select from tool_pins p where p.server = p_server);
    return query
    with said as (select s.key as name, s.value as digest from jsonb_each_text(p_tools) s),
    added as (
        insert into tool_pins (server, tool, accepted_digest, accepted_at, seen_digest, change_count)
        select p_server, s.name, case when is_first then s.digest end, case when is_first then clock_timestamp() end,
               s.digest, case when is_first then 0 else 1 end
        from said s where not exists (select from tool_pins p where p.server = p_server and p.tool = s.name)
        order by s.name limit greatest(0, 1000 - (select count(*) from tool_pins p where p.server = p_server))
        returning tool_pins.tool),
    changed as (
        update tool_pins p
        set seen_digest = s.digest, seen_at = clock_timestamp(),
            change_count = p.change_count + (s.digest is distinct from p.accepted_digest)::integer
        from said s where p.server = p_server and p.tool = s.name and p.seen_digest <> s.digest
        returning p.tool)
    select s.name, is_known.accepted_digest is null, s.name in (select c.tool from changed c)
    from said s left join tool_pins is_known on is_known.server = p_server and is_known.tool = s.name
    where is_known.accepted_digest is distinct from s.digest and s.name not in (select a.tool from added a)
    union all
    select a.tool, true, true from added a where not is_first;
end
$$
"""

_RIGHTS = """
revoke execute on function see_tools from public


-- A worker notes what it sees; what was accepted it can set for a tool that is not on record, and never change.
grant select, insert, update (seen_digest, seen_at, change_count) on tool_pins to parley_worker


grant execute on function see_tools to parley_worker


-- The operator's commands accept what was seen.
grant select, delete, update (accepted_digest, accepted_at) on tool_pins to parley_persistence
"""
