"""Room for what changes often: updates of a row that find it in the row's page touch no index.

A job is updated some five times: claimed, twice extended, ended, answered. Described in `docs/schema.md`.
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in _STATEMENTS.split("\n\n\n"):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("goes on from 0011 only: there is nothing to take back that anybody would miss")


_STATEMENTS = """
-- Half a page holds the jobs, half what they become. Pages that are full already stay as they are.
alter table jobs set (fillfactor = 50)


alter table conversations set (fillfactor = 70)


-- Without `answered_at`, which is noted with every answer. The newest first, as it is looked for.
create index jobs_by_body on jobs (user_id, body_hash, id desc)
where body_hash is not null and idempotency_key is null


drop index jobs_unanswered
"""
