"""Webhooks: whom to tell of the ends of responses, and what is to be told.

Described in `docs/schema.md`.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for part in (_TABLES, _FUNCTIONS, _RIGHTS):
        for statement in part.split("\n\n\n"):
            op.execute(statement)


def downgrade() -> None:
    op.execute("drop table webhook_deliveries, webhook_endpoints")
    op.execute("drop function keep_webhook_secret")


_TABLES = """
create table webhook_endpoints (
    id                    uuid primary key,
    user_id               text,
    name                  text not null default '',
    url                   text not null,
    event_types           text[] not null,
    secret                text not null,
    previous_secret       text,
    previous_secret_until timestamptz,
    failure_count         integer not null default 0,
    failing_since         timestamptz,
    disabled_at           timestamptz,
    disabled_reason       text check (disabled_reason in ('by_user', 'gone', 'failing')),
    created_at            timestamptz not null default clock_timestamp(),
    updated_at            timestamptz not null default clock_timestamp(),
    check ((disabled_at is null) = (disabled_reason is null))
)


comment on column webhook_endpoints.user_id is 'null: of the whole deployment, by settings'


comment on column webhook_endpoints.previous_secret is 'signs beside the other one until previous_secret_until'


create index webhook_endpoints_by_user on webhook_endpoints (user_id, id)


-- No foreign keys: the end of a job must neither wait for an endpoint that is being deleted, nor fail by it.
create table webhook_deliveries (
    event_id        uuid not null,
    endpoint_id     uuid not null,
    user_id         text not null,
    job_id          uuid not null,
    type            text not null,
    body            text not null,
    attempts        integer not null default 0,
    next_attempt_at timestamptz default clock_timestamp(),
    delivered_at    timestamptz,
    last_status     integer,
    last_error      text,
    created_at      timestamptz not null default clock_timestamp(),
    primary key (endpoint_id, event_id)
)


comment on column webhook_deliveries.next_attempt_at is 'null: over; while it is sent: when its sender counts as dead'


-- What senders look through: endpoint by endpoint, what is due there.
create index webhook_deliveries_waiting on webhook_deliveries (endpoint_id, next_attempt_at)
where next_attempt_at is not null


create index webhook_deliveries_due on webhook_deliveries (next_attempt_at) where next_attempt_at is not null


create index webhook_deliveries_by_user on webhook_deliveries (user_id)


-- What retention looks through.
create index webhook_deliveries_by_age on webhook_deliveries (created_at)
"""

_FUNCTIONS = """
-- Who may write a secret may not read it: this keeps the old one without its being read.
create function keep_webhook_secret() returns trigger
language plpgsql as $$
begin
    new.previous_secret := case when new.previous_secret_until is not null then old.secret end;
    return new;
end
$$


create trigger keep_webhook_secret before update of secret on webhook_endpoints
for each row execute function keep_webhook_secret()
"""

_RIGHTS = """
grant select (id, user_id, name, url, event_types, failure_count, failing_since, disabled_at, disabled_reason,
              created_at, updated_at),
      insert (id, user_id, name, url, event_types, secret),
      update (name, url, event_types, secret, previous_secret_until, failure_count, failing_since, disabled_at,
              disabled_reason, updated_at),
      delete
on webhook_endpoints to parley_gateway


grant select, insert, update, delete on webhook_endpoints to parley_persistence


grant select (event_id, endpoint_id, user_id, job_id, type, attempts, next_attempt_at, delivered_at, last_status,
              last_error, created_at),
      delete
on webhook_deliveries to parley_gateway


grant select, insert, delete, update (attempts, next_attempt_at, delivered_at, last_status, last_error)
on webhook_deliveries to parley_persistence


alter table webhook_endpoints enable row level security


alter table webhook_endpoints force row level security


create policy tenant on webhook_endpoints
using (user_id = nullif(current_setting('app.user_id', true), ''))
with check (user_id = nullif(current_setting('app.user_id', true), ''))


create policy write_back on webhook_endpoints to parley_persistence using (true) with check (true)


alter table webhook_deliveries enable row level security


alter table webhook_deliveries force row level security


create policy tenant on webhook_deliveries
using (user_id = nullif(current_setting('app.user_id', true), ''))
with check (user_id = nullif(current_setting('app.user_id', true), ''))


create policy write_back on webhook_deliveries to parley_persistence using (true) with check (true)
"""
