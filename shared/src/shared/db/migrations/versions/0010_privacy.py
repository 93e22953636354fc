"""Exports, purges that survive a crash, and the log of what administrators did.

Described in `docs/schema.md`.
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for part in (_TABLES, _FUNCTIONS, _RIGHTS, _POLICIES):
        for statement in part.split("\n\n\n"):
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("goes on from 0009 only: an audit log that can be dropped is none")


_TABLES = """
create table purges (
    id           uuid primary key,
    user_id      text,
    user_digest  bytea not null,
    requested_by text not null check (requested_by in ('user', 'admin', 'ops')),
    deleted      jsonb not null default '{}',
    created_at   timestamptz not null default clock_timestamp(),
    finished_at  timestamptz,
    check ((user_id is null) = (finished_at is not null))
)


comment on table purges is 'users of whom everything is to go, or went; a finished one does not name its user any more'


comment on column purges.user_digest is 'SHA-256 of id and user: by it the user still finds a finished one'


create unique index purges_open on purges (user_id) where finished_at is null


create table audit_log (
    id         uuid primary key,
    at         timestamptz not null default clock_timestamp(),
    actor_kind text not null check (actor_kind in ('user', 'admin', 'ops', 'service')),
    actor      text not null,
    action     text not null,
    target     text,
    details    jsonb not null default '{}',
    request_id text,
    outcome    text not null
)


comment on table audit_log is 'what administrators did, and users to their account as a whole; rows are never changed'


comment on column audit_log.outcome is 'done, or the code of the error with which it was refused'


-- What retention looks through.
create index audit_log_by_age on audit_log (at)


alter table usage_by_day add column purged_at timestamptz


comment on column usage_by_day.purged_at is 'its user was purged: the row goes when its day, and so its quota, is over'


create index usage_by_day_purged on usage_by_day (day) where purged_at is not null
"""

_FUNCTIONS = """
create function purge_digest(p_purge_id uuid, p_user_id text) returns bytea
language sql immutable parallel safe as $$
    select sha256(convert_to(p_purge_id::text || p_user_id, 'UTF8'))
$$


-- Runs as the owner: nobody else may delete of the log, and nobody may what is younger than thirty days.
create function forget_audit_log(p_kept_seconds double precision, p_rows_max integer) returns bigint
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    deleted bigint;
begin
    delete from audit_log where id in (
        select a.id from audit_log a
        where a.at < now() - make_interval(secs => greatest(p_kept_seconds, 30 * 86400.0))
        order by a.at limit p_rows_max);
    get diagnostics deleted = row_count;
    return deleted;
end
$$
"""

_RIGHTS = """
revoke execute on function forget_audit_log from public


grant execute on function forget_audit_log to parley_persistence


revoke execute on function purge_digest from public


grant execute on function purge_digest to parley_gateway, parley_persistence


-- When it was is for the database to say.
grant select, insert (id, actor_kind, actor, action, target, details, request_id, outcome) on audit_log
to parley_gateway, parley_persistence


grant select, insert (id, user_id, user_digest, requested_by) on purges to parley_gateway


grant select, insert (id, user_id, user_digest, requested_by), update (user_id, deleted, finished_at), delete
on purges to parley_persistence


grant update (purged_at) on usage_by_day to parley_persistence


-- A purge stops jobs, and deletes in small parts what would else go with its conversation in one.
grant update (cancel_requested_at) on jobs to parley_persistence


grant select (conversation_id, seq, user_id) on conversation_events to parley_persistence


grant select on approval_answers to parley_persistence


grant delete on jobs, messages, tool_calls, items, conversation_events, approval_answers to parley_persistence


-- The export. Row level security shows the gateway those of one user.
grant select (job_id, text, token_count, covers_turn_count, created_at) on summaries to parley_gateway
"""

_POLICIES = """
alter table purges enable row level security


alter table purges force row level security


create policy tenant on purges
using (user_digest = purge_digest(id, nullif(current_setting('app.user_id', true), '')))
with check (user_digest = purge_digest(id, nullif(current_setting('app.user_id', true), '')))


create policy administration on purges for select to parley_gateway
using (current_setting('app.scope', true) = 'administration')


create policy write_back on purges to parley_persistence using (true) with check (true)


alter table audit_log enable row level security


alter table audit_log force row level security


-- Nobody writes in another's name: the gateway knows users and administrators, and the command that exports.
create policy record on audit_log for insert to parley_gateway
with check (actor_kind in ('user', 'admin') or (actor_kind = 'ops' and action = 'user.exported'))


create policy record_operation on audit_log for insert to parley_persistence
with check (actor_kind in ('ops', 'service'))


create policy administration on audit_log for select to parley_gateway
using (current_setting('app.scope', true) = 'administration')


create policy operation on audit_log for select to parley_persistence using (true)


create policy retention on audit_log to current_user using (true)
"""
