"""Runs, their step records and their decisions.

`runs` and `step_records` keep the names and columns of 0.2.0; what follows them was added since.
Columns that change with every step carry no index, so that PostgreSQL can update the row in place.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, ColumnElement, Index, Integer, String, Table, Text, literal_column, text

from resume_engine.core.step_record import StepStatus
from resume_engine.storage.table_base import UtcDateTime, metadata

runs = Table(
    "runs",
    metadata,
    Column("run_id", String(36), primary_key=True),
    Column("workflow_name", String(255), nullable=False),
    Column("status", String(32), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("metadata_json", Text, nullable=False),
    Column("version", Integer, nullable=False, server_default="0"),
    Column("change_id", String(32)),
    Column("steps_completed", Integer, nullable=False, server_default="0"),
    Column("next_sequence", Integer, nullable=False, server_default="0"),
    Column("resume_from_index", Integer, nullable=False, server_default="0"),
    Column("lease_expires_at", UtcDateTime),
    Column("chain_seq", Integer, nullable=False, server_default="0"),  # entries of the run's audit chain
    Column("chain_head", String(64)),  # hash of the last one
    Column("in_flight_json", Text),
    Column("environment", String(16), nullable=False, server_default="dev"),
    Column("started_by", String(255)),
    Column("finished_at", UtcDateTime),
    Column("initial_input_hash", String(64)),
    Column("steps_total", Integer),
    Column("failure_step_index", Integer),
    Column("failure_step_name", String(255)),
    Column("failure_sequence", Integer),
    Column("failure_classification", String(32)),
    Column("failure_error_type", String(255)),
    Column("failure_message", Text),
    Column("failed_at", UtcDateTime),
    Column("failure_attempts", Integer, nullable=False, server_default="0"),
    Column("failure_lease_token", Integer),
    Column("retry_at", UtcDateTime),
    Column("blocked_by", String(64)),
    Column("blocked_since", UtcDateTime),
    Column("cleared_by", String(255)),
    Column("cleared_at", UtcDateTime),
    Column("lease_owner", String(255)),
    Column("lease_token", Integer, nullable=False, server_default="0"),
    Column("takeovers", Integer, nullable=False, server_default="0"),
    Column("workflow_hash", String(64)),
    Column("cleared_until", UtcDateTime),  # decisions may end unused: the gate closes again then
    # Behind all the others: SQLite keeps the end of a long row on pages of its own, and writes those anew
    # whose bytes changed. What moves with every step stands before it.
    Column("initial_input_json", Text),
    Column("workflow_json", Text),
)
_open = runs.c.blocked_by.is_(None)
_blocked = runs.c.blocked_by.is_not(None)
_failing = runs.c.failure_classification.is_not(None)


def _index(name: str, *columns: Column[Any], where: ColumnElement[bool] | None = None) -> None:
    Index(name, *columns, sqlite_where=where, postgresql_where=where)


# Lists of runs, newest first, for each filter that leaves few of many; `run_list` says which serves what.
_index("ix_runs_created", runs.c.created_at, runs.c.run_id)
_index("ix_runs_workflow_created", runs.c.workflow_name, runs.c.created_at, runs.c.run_id)
_index("ix_runs_environment_created", runs.c.environment, runs.c.created_at, runs.c.run_id)
# SQLite answers from an index alone only if `blocked_by` is in it, although it is always null there.
_index(
    "ix_runs_open_created",
    runs.c.status,
    runs.c.created_at,
    runs.c.run_id,
    runs.c.environment,
    runs.c.blocked_by,
    where=_open,
)
_index(
    "ix_runs_workflow_open",
    runs.c.workflow_name,
    runs.c.status,
    runs.c.created_at,
    runs.c.run_id,
    runs.c.environment,
    where=_open,
)
# The few runs with a failure or a closed gate: what filters may ask beside that is part of the index.
_index(
    "ix_runs_failing_created",
    runs.c.created_at,
    runs.c.run_id,
    runs.c.failure_classification,
    runs.c.status,
    runs.c.environment,
    runs.c.workflow_name,
    where=_failing,
)
_index(
    "ix_runs_blocked_created",
    runs.c.created_at,
    runs.c.run_id,
    runs.c.blocked_by,
    runs.c.environment,
    runs.c.workflow_name,
    where=_blocked,
)
_index("ix_runs_blocked_gates", runs.c.blocked_by, runs.c.environment, runs.c.blocked_since, where=_blocked)
_index(
    "ix_runs_blocked_since",
    runs.c.blocked_since,
    runs.c.run_id,
    runs.c.blocked_by,
    runs.c.environment,
    runs.c.workflow_name,
    where=_blocked,
)
_index("ix_runs_cleared_until", runs.c.cleared_until, runs.c.run_id, where=runs.c.cleared_until.is_not(None))
# For the search by the beginning of a run id; a plain index serves LIKE only under the C collation.
Index("ix_runs_run_id_pattern", runs.c.run_id, postgresql_ops={"run_id": "varchar_pattern_ops"}).ddl_if(
    dialect="postgresql"
)

step_records = Table(
    "step_records",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("run_id", String(36), nullable=False),
    Column("step_name", String(255), nullable=False),
    Column("step_index", Integer, nullable=False),
    Column("input_json", Text, nullable=False),
    Column("input_hash", String(64), nullable=False),
    Column("output_json", Text),
    Column("status", String(32), nullable=False),
    Column("idempotency_key", String(64), nullable=False),
    Column("timestamp", UtcDateTime, nullable=False),
    Column("failure_classification", String(32)),
    Column("error_message", Text),
    Column("sequence", Integer, nullable=False),
    Column("kind", String(16), nullable=False, server_default="step"),
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("started_at", UtcDateTime),
    Column("duration_ms", Integer),
    Column("error_type", String(255)),
    Column("error_traceback", Text),
    Column("classified_by", String(255)),
    Column("worker", String(255)),
    # 0, but for the copies that replays of 0.2.0 made: those keep their own id here, and so stay out of the
    # way of the keys below.
    Column("legacy_duplicate", Integer, nullable=False, server_default="0"),
    Column("chain_seq", Integer),
    Column("chain_hash", String(64)),
)
# Every step pays for every index of this table: the keys serve the look-ups too, and beside them only
# failures have an index.
Index(
    "uq_step_records_run_sequence",
    step_records.c.run_id,
    step_records.c.sequence,
    step_records.c.legacy_duplicate,
    unique=True,
)
_completed = text("status IN ('completed', 'skipped_replay')")
Index(
    "uq_step_records_completed_key",
    step_records.c.idempotency_key,
    step_records.c.legacy_duplicate,
    unique=True,
    sqlite_where=_completed,
    postgresql_where=_completed,
)
_failed_step = text("status = 'failed'")
Index(
    "ix_step_records_failed",
    step_records.c.run_id,
    step_records.c.sequence,
    step_records.c.legacy_duplicate,
    sqlite_where=_failed_step,
    postgresql_where=_failed_step,
)


def status_is(*statuses: str) -> ColumnElement[bool]:
    """Return the condition on a record's status, written out as in the indexes above.

    A database sees that a partial index serves a query only when the values stand in the statement.
    """
    values = [StepStatus(status).value for status in sorted(statuses)]
    words: list[ColumnElement[str]] = [literal_column(f"'{value}'") for value in values]
    return step_records.c.status.in_(words) if len(words) > 1 else step_records.c.status == words[0]


decisions = Table(
    "decisions",
    metadata,
    Column("decision_id", Integer, primary_key=True, autoincrement=True),
    Column("run_id", String(36), nullable=False),
    Column("failure_key", String(32), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("actor", String(255), nullable=False),
    Column("role", String(32), nullable=False),
    Column("channel", String(32), nullable=False),
    Column("note", Text),
    Column("result_json", Text),
    Column("step_sequence", Integer),
    Column("decided_at", UtcDateTime, nullable=False),
    # Several decisions of one kind where a policy wants several people, or where one ended unused.
    Column("ordinal", Integer, nullable=False, server_default="1"),
    Column("opened", Integer, nullable=False, server_default="1"),  # 0: more people were needed
    Column("expires_at", UtcDateTime),
    Column("display_name", String(255)),  # who a caller of the API says it is; `actor` is its key
)
Index(
    "uq_decisions_failure_kind",
    decisions.c.run_id,
    decisions.c.failure_key,
    decisions.c.kind,
    decisions.c.ordinal,
    unique=True,
)
Index("ix_decisions_decided", decisions.c.decided_at)
