"""Durable workflow steps that resume from the last completed one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.checkpoint_store import CheckpointStore, ResumeEngine
from resume_engine.core.decisions import Decision, DecisionKind
from resume_engine.core.errors import (
    AlreadyDecidedError,
    IdempotencyCollisionError,
    ResumeBlockedError,
    ResumeEngineError,
)
from resume_engine.core.failure_classifier import (
    FailureRule,
    PartialStepError,
    PermanentStepError,
    TransientStepError,
    classify_failure,
)
from resume_engine.core.idempotency import generate_idempotency_key, generate_run_id, hash_input
from resume_engine.core.permissions import Permission, Role
from resume_engine.core.resume_gates import ResumeBlocker
from resume_engine.core.retry import Backoff, RetryPolicy
from resume_engine.core.run import Environment, Run, RunStatus
from resume_engine.core.step import Step
from resume_engine.core.step_record import FailureClassification, StepRecord, StepStatus

if TYPE_CHECKING:
    from resume_engine.storage.postgres_backend import PostgresCheckpointStore
    from resume_engine.storage.sqlite_backend import SQLiteCheckpointStore

__version__ = "0.3.0"

__all__ = [
    "Actor",
    "AlreadyDecidedError",
    "Backoff",
    "Channel",
    "CheckpointStore",
    "Decision",
    "DecisionKind",
    "Environment",
    "FailureClassification",
    "FailureRule",
    "IdempotencyCollisionError",
    "PartialStepError",
    "PermanentStepError",
    "Permission",
    "PostgresCheckpointStore",
    "ResumeBlockedError",
    "ResumeBlocker",
    "ResumeEngine",
    "ResumeEngineError",
    "RetryPolicy",
    "Role",
    "Run",
    "RunStatus",
    "SQLiteCheckpointStore",
    "Step",
    "StepRecord",
    "StepStatus",
    "TransientStepError",
    "__version__",
    "classify_failure",
    "generate_idempotency_key",
    "generate_run_id",
    "hash_input",
]


def __getattr__(name: str) -> Any:
    """Load the stores on first use, so that importing the package does not import SQLAlchemy."""
    if name == "SQLiteCheckpointStore":
        from resume_engine.storage.sqlite_backend import SQLiteCheckpointStore

        return SQLiteCheckpointStore
    if name == "PostgresCheckpointStore":
        from resume_engine.storage.postgres_backend import PostgresCheckpointStore

        return PostgresCheckpointStore
    raise AttributeError(f"module 'resume_engine' has no attribute {name!r}")
