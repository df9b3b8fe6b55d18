"""The two tables as release 0.2.0 created them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001_baseline_0_2_0"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create runs and step_records."""
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String(36), primary_key=True),
        sa.Column("workflow_name", sa.String(255), nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("metadata_json", sa.Text, nullable=False),
    )
    op.create_table(
        "step_records",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("run_id", sa.String(36), nullable=False),
        sa.Column("step_name", sa.String(255), nullable=False),
        sa.Column("step_index", sa.Integer, nullable=False),
        sa.Column("input_json", sa.Text, nullable=False),
        sa.Column("input_hash", sa.String(64), nullable=False),
        sa.Column("output_json", sa.Text),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("idempotency_key", sa.String(64), nullable=False),
        sa.Column("timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.Column("failure_classification", sa.String(32)),
        sa.Column("error_message", sa.Text),
        sa.Column("sequence", sa.Integer, nullable=False),
    )
    op.create_index("ix_step_records_run_id", "step_records", ["run_id"])
    op.create_index("ix_step_records_idempotency_key", "step_records", ["idempotency_key"])
