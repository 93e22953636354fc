"""How long tool calls took.

Nullable and without a default: whoever runs the version before neither writes nor reads it, and no row is touched.
Described in `docs/schema.md`.
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in _STATEMENTS.split("\n\n\n"):
        op.execute(statement)


def downgrade() -> None:
    op.execute("alter table tool_calls drop column duration_ms")


_STATEMENTS = """
alter table tool_calls add column duration_ms integer


comment on column tool_calls.duration_ms is 'null: it was not made, its outcome is unknown, or nobody measured it'


grant insert (duration_ms) on tool_calls to parley_persistence
"""
