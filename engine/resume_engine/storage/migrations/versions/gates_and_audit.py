"""Run counters, failures and gates on the run row; decisions, audit events, people and sessions.

Rows written by 0.2.0 are carried over by `legacy_0_2_0`.
"""

from __future__ import annotations

from alembic import op

from resume_engine.storage import schema
from resume_engine.storage.migrations.legacy_0_2_0 import carry_over

revision = "0002_gates_and_audit"
down_revision = "0001_baseline_0_2_0"
branch_labels = None
depends_on = None

_NEW_TABLES = ("decisions", "audit_events", "users", "user_sessions", "login_links", "login_attempts")
_BASELINE_COLUMNS = {
    "runs": {"run_id", "workflow_name", "status", "created_at", "updated_at", "metadata_json"},
    "step_records": {
        "id", "run_id", "step_name", "step_index", "input_json", "input_hash", "output_json", "status",
        "idempotency_key", "timestamp", "failure_classification", "error_message", "sequence",
    },
}  # fmt: skip
_BASELINE_INDEXES = ("ix_step_records_run_id", "ix_step_records_idempotency_key")


def upgrade() -> None:
    """Add the columns and tables of 0.3.0, carry 0.2.0's rows over, then build the keys."""
    for table_name, baseline in _BASELINE_COLUMNS.items():
        for column in schema.metadata.tables[table_name].columns:
            if column.name not in baseline:
                op.add_column(table_name, schema.plain_column(column))
    bind = op.get_bind()
    for table_name in _NEW_TABLES:
        schema.metadata.tables[table_name].create(bind)
    carry_over(bind)
    for name in _BASELINE_INDEXES:  # the new keys begin with the same columns
        op.drop_index(name, "step_records", if_exists=True)
    for table_name in _BASELINE_COLUMNS:
        for index in schema.metadata.tables[table_name].indexes:
            index.create(bind)
