"""Who is shut out: denied subjects and tokens.

Described in `docs/schema.md`.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for part in (_TABLE, _RIGHTS):
        for statement in part.split("\n\n\n"):
            op.execute(statement)


def downgrade() -> None:
    op.execute("drop table denials")


_TABLE = """
create table denials (
    id         uuid primary key,
    kind       text not null check (kind in ('subject', 'token')),
    value      text not null check (length(value) between 1 and 255),
    reason     text not null default '' check (length(reason) <= 1000),
    created_by text not null,
    created_at timestamptz not null default clock_timestamp(),
    changed_at timestamptz not null default clock_timestamp(),
    until      timestamptz not null,
    unique (kind, value)
)


comment on column denials.value is 'the user id; the jti of the token, or sha256: and the digest of what it signs'


comment on column denials.until is 'infinity: until it is lifted; lifting sets it to that moment'


-- What gateways look through every second: what changed since they last looked.
create index denials_changed on denials (changed_at)


create index denials_until on denials (until)


create index denials_by_creator on denials (created_by, until)
"""

_RIGHTS = """
grant select, insert, update (reason, created_by, changed_at, until) on denials to parley_gateway


grant select (id, until), delete on denials to parley_persistence


alter table denials enable row level security


alter table denials force row level security


-- Gateways hold all of them. Each is made in the name of the user who asked for it.
create policy gateways_read on denials for select to parley_gateway using (true)


create policy gateways_deny on denials for insert to parley_gateway
with check (created_by = nullif(current_setting('app.user_id', true), ''))


create policy gateways_change on denials for update to parley_gateway
using (true) with check (created_by = nullif(current_setting('app.user_id', true), ''))


create policy retention on denials to parley_persistence using (true)
"""
