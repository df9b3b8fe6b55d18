"""Every table and index, for both databases.

`runs` and `step_records` keep the names and columns of 0.2.0; what follows them was added since.
Columns that change with every step carry no index, so that PostgreSQL can update the row in place.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    DateTime,
    Dialect,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    literal_column,
    text,
)

from resume_engine.core.clock import as_utc
from resume_engine.core.step_record import StepStatus

HEAD_REVISION = "0005_cheap_guards"
"""The newest migration; a test holds it against the migrations folder."""

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """Store aware datetimes as UTC; SQLite keeps them without a zone, as 0.2.0 did."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return UTC, without a zone for SQLite."""
        if value is None:
            return None
        moment = as_utc(value)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None]:
        """Return what reads a value; a list reads hundreds of them, so SQLite's text is read in one go."""
        if dialect.name != "sqlite":
            return lambda value: self.process_result_value(value, dialect)
        return lambda value: None if value is None else datetime.fromisoformat(f"{value}+00:00")

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return an aware UTC datetime."""
        if value is None:
            return None
        if value.tzinfo is UTC:
            return value
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


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


def plain_column(column: Column[Any]) -> Column[Any]:
    """Return a column as a migration adds it, in types that Alembic knows."""
    kind = DateTime(timezone=True) if isinstance(column.type, UtcDateTime) else column.type
    return Column(column.name, kind, nullable=column.nullable, server_default=column.server_default)


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

audit_events = Table(
    "audit_events",
    metadata,
    Column("event_id", Integer, primary_key=True, autoincrement=True),
    Column("event_type", String(64), nullable=False),
    Column("run_id", String(36)),
    Column("actor", String(255), nullable=False),
    Column("role", String(32), nullable=False),
    Column("channel", String(32), nullable=False),
    Column("failure_key", String(32)),
    Column("note", Text),
    Column("payload_json", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # The chain an event stands in: its run's, or "control" for what changes no run.
    Column("stream", String(36)),
    Column("chain_seq", Integer),
    Column("prev_hash", String(64)),
    Column("chain_hash", String(64)),
)
_newest = (audit_events.c.created_at, audit_events.c.event_id)
Index("ix_audit_events_created", *_newest)
Index("ix_audit_events_run", audit_events.c.run_id, *_newest)
Index("ix_audit_events_type", audit_events.c.event_type, *_newest)
Index("ix_audit_events_actor", audit_events.c.actor, *_newest, audit_events.c.event_type)
Index("uq_audit_events_stream", audit_events.c.stream, audit_events.c.chain_seq, unique=True)

users = Table(
    "users",
    metadata,
    Column("user_id", Integer, primary_key=True, autoincrement=True),
    Column("email", String(255), nullable=False),
    Column("display_name", String(255), nullable=False),
    Column("role", String(32), nullable=False),
    Column("password_hash", String(255)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("password_changed_at", UtcDateTime),
    Column("disabled_at", UtcDateTime),
    UniqueConstraint("email", name="uq_users_email"),
)

user_sessions = Table(
    "user_sessions",
    metadata,
    Column("session_hash", String(64), primary_key=True),
    Column("user_id", Integer, nullable=False, index=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("last_seen_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
    Column("address", String(64)),
    Column("user_agent", String(255)),
    Column("data_json", Text, nullable=False),
)

login_links = Table(
    "login_links",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("user_id", Integer, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("used_at", UtcDateTime),
)

login_attempts = Table(
    "login_attempts",
    metadata,
    Column("attempt_id", Integer, primary_key=True, autoincrement=True),
    Column("scope", String(300), nullable=False),
    Column("attempted_at", UtcDateTime, nullable=False),
)
Index("ix_login_attempts_scope", login_attempts.c.scope, login_attempts.c.attempted_at)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", String(16), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("role", String(32), nullable=False),
    Column("secret_hash", String(64), nullable=False),
    Column("pepper_id", String(16), nullable=False),  # which server secret the hash was keyed with
    Column("environments", String(64)),  # joined by commas; null: any
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String(255), nullable=False),
    Column("expires_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
    Column("revoked_by", String(255)),
    # A rotation makes a second key; both work until the first one ends.
    Column("replaces", String(16)),
    Column("replaced_by", String(16)),
)

# What was answered to a POST with an Idempotency-Key, so that repeating it changes nothing.
stored_answers = Table(
    "stored_answers",
    metadata,
    Column("caller", String(64), primary_key=True),  # the key that asked
    Column("idempotency_key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),  # of method, path and body
    Column("created_at", UtcDateTime, nullable=False),
    Column("status", Integer),  # null: still being worked on
    Column("content_type", String(64)),
    Column("body", Text),
)
Index("ix_stored_answers_created", stored_answers.c.created_at)

# The last entry of every chain that is not a run's own; runs keep theirs on their row.
audit_streams = Table(
    "audit_streams",
    metadata,
    Column("stream", String(36), primary_key=True),
    Column("chain_seq", Integer, nullable=False),
    Column("chain_head", String(64), nullable=False),
)

audit_checkpoints = Table(
    "audit_checkpoints",
    metadata,
    Column("checkpoint_id", Integer, primary_key=True, autoincrement=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("streams", Integer, nullable=False),  # how many moved since the checkpoint before
    Column("entries", Integer, nullable=False),
    Column("root", String(64), nullable=False),
    Column("previous_hash", String(64)),
    Column("hash", String(64), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("algorithm", String(16), nullable=False),
    Column("signature", Text, nullable=False),
)

audit_checkpoint_leaves = Table(
    "audit_checkpoint_leaves",
    metadata,
    Column("checkpoint_id", Integer, primary_key=True),
    Column("stream", String(36), primary_key=True),
    Column("chain_seq", Integer, nullable=False),
    Column("chain_head", String(64), nullable=False),
)
Index(
    "ix_audit_checkpoint_leaves_stream",
    audit_checkpoint_leaves.c.stream,
    audit_checkpoint_leaves.c.checkpoint_id,
)

# On a machine that records here first: how far each run was forwarded to the control plane.
forwarded_runs = Table(
    "forwarded_runs",
    metadata,
    Column("run_id", String(36), primary_key=True),
    Column("records", Integer, nullable=False),  # so many step records are acknowledged there
    Column("version", Integer, nullable=False),  # of the run here, when all of it was there; -1: never
    Column("conflict", Text),  # why it is no longer forwarded
)

# Where the runs of this database are forwarded to: until they are there, they are nowhere else.
control_planes = Table(
    "control_planes",
    metadata,
    Column("address", String(2_000), primary_key=True),
    Column("since", UtcDateTime, nullable=False),
)
