"""API keys, stored answers, the chain of the audit log with its checkpoints, decisions by several people.

The migration before builds tables from the schema of today, so a database that comes from 0.2.0 has
everything already: only what is missing is added.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from alembic import context, op

from resume_engine.storage import schema
from resume_engine.storage.chain_adoption import adopt

revision = "0003_control_plane"
down_revision = "0002_gates_and_audit"
branch_labels = None
depends_on = None

_NEW_TABLES = (
    "api_keys",
    "stored_answers",
    "audit_streams",
    "audit_checkpoints",
    "audit_checkpoint_leaves",
    "forwarded_runs",
    "control_planes",
)
_WIDENED = ("runs", "step_records", "decisions", "audit_events")
_INDEX_OF_ENDS = "ix_runs_cleared_until"
_DECISION_KEY = "uq_decisions_failure_kind"


def upgrade() -> None:
    """Add missing columns and tables, then let decisions of one kind be several."""
    bind = op.get_bind()
    for name in _WIDENED:
        there = {column["name"] for column in sa.inspect(bind).get_columns(name)}
        for column in schema.metadata.tables[name].columns:
            if column.name not in there:
                op.add_column(name, schema.plain_column(column))
    for name in _NEW_TABLES:
        schema.metadata.tables[name].create(bind, checkfirst=True)
    ends = [index for index in schema.runs.indexes if index.name == _INDEX_OF_ENDS]
    _add_indexes(bind, "runs", ends)
    _add_indexes(bind, "audit_events", schema.audit_events.indexes)
    _rebuild_decision_key(bind)
    adopt(bind, context.config.attributes["codec"])


def _add_indexes(bind: sa.Connection, table: str, wanted: Iterable[sa.Index]) -> None:
    present = {str(index["name"]) for index in sa.inspect(bind).get_indexes(table)}
    for index in wanted:
        if index.name not in present:
            index.create(bind)


def _rebuild_decision_key(bind: sa.Connection) -> None:
    constraints = {key["name"] for key in sa.inspect(bind).get_unique_constraints("decisions")}
    if _DECISION_KEY not in constraints:
        return
    with op.batch_alter_table("decisions") as table:
        table.drop_constraint(_DECISION_KEY, type_="unique")
    key = next(i for i in schema.decisions.indexes if i.name == _DECISION_KEY)
    key.create(bind)
