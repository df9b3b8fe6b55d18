"""Every table and index, for both databases, as one schema with a revision."""

from __future__ import annotations

from resume_engine.storage.access_tables import (
    api_keys,
    login_attempts,
    login_links,
    stored_answers,
    user_sessions,
    users,
)
from resume_engine.storage.audit_tables import (
    audit_checkpoint_leaves,
    audit_checkpoints,
    audit_events,
    audit_streams,
)
from resume_engine.storage.forwarding_tables import control_planes, forwarded_runs
from resume_engine.storage.run_tables import decisions, runs, status_is, step_records
from resume_engine.storage.table_base import UtcDateTime, metadata, plain_column

HEAD_REVISION = "0005_cheap_guards"
"""The newest migration; a test holds it against the migrations folder."""

__all__ = [
    "HEAD_REVISION",
    "UtcDateTime",
    "api_keys",
    "audit_checkpoint_leaves",
    "audit_checkpoints",
    "audit_events",
    "audit_streams",
    "control_planes",
    "decisions",
    "forwarded_runs",
    "login_attempts",
    "login_links",
    "metadata",
    "plain_column",
    "runs",
    "status_is",
    "step_records",
    "stored_answers",
    "user_sessions",
    "users",
]
