"""Writes that were prepared outside the engine: a status set by hand, a record made by another client.

Gates hold for them as for everything else.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace
from datetime import datetime

from resume_engine.core.audit_chain import CONTROL
from resume_engine.core.errors import InvalidValueError, ResumeBlockedError, RunFinishedError
from resume_engine.core.idempotency import generate_idempotency_key
from resume_engine.core.payload import as_recorded
from resume_engine.core.run import FINISHED_STATUSES, Run, RunStatus
from resume_engine.core.run_summary import RunSummary, blockers_of, cleared
from resume_engine.core.step import check_step_name, check_text
from resume_engine.core.step_record import StepRecord, StepStatus

PARTS_OF_RUNS = (
    "ack_prod_resume",
    "approve",
    "audit[-_]log",
    "audit_events",
    "case",
    "compensate",
    r"compliance\.json",
    "compliance_export",
    "decisions(/[^/]+)?",
    r"events\.(csv|jsonl)",
    "header",
    "integrity",
    "lease",
    "open_failures",
    "refused_decisions",
    "replay",
    "resume_blockers",
    "reveal",
    "roll_back",
    "status",
    r"steps(/\d+(/(input|output))?)?",
    "stored_events",
    "workflow",
)
"""What addresses say behind the id of a run to name a part of it; a test walks the addresses there are."""
_PART_OF_RUN = re.compile(f"(?P<run>.+)/({'|'.join(PARTS_OF_RUNS)})", re.DOTALL)
_HASH_CHARACTERS = 64


def with_status(run: RunSummary, status: RunStatus, at: datetime) -> RunSummary:
    """Return the run with a status set from outside; a pure function.

    Raises `RunFinishedError` when a finished run would change, `ResumeBlockedError` when a closed gate
    would be passed, `InvalidValueError` for a cancellation, which only a rejection may do, and while an
    executor holds the run.
    """
    # A client that read the run before the decision would write its old "failed" back, and only a decision
    # makes a failed run one that was cleared.
    between = {run.status, status} == {RunStatus.PAUSED, RunStatus.FAILED} and run.failure is not None
    if status is run.status or between:
        return replace(run, updated_at=at)
    if run.status in FINISHED_STATUSES:
        raise RunFinishedError(run.run_id, run.status)
    if status is RunStatus.CANCELLED:
        raise InvalidValueError("status", f"run {run.run_id} is cancelled by rejecting it, with a reason")
    if run.blocked_by and status not in (RunStatus.FAILED, RunStatus.PAUSED):
        raise ResumeBlockedError(blockers_of(run), run.run_id)
    if run.lease_owner is not None:
        # What it does, or what it left in doubt when it vanished, must not be hidden behind another word.
        raise InvalidValueError(
            "status", f"run {run.run_id} is in the hands of {run.lease_owner}; wait for it, or resume the run"
        )
    if status is not RunStatus.COMPLETED:
        return replace(run, status=status, updated_at=at)
    return replace(
        cleared(run),
        status=status,
        updated_at=at,
        finished_at=at,
        lease_owner=None,
        lease_expires_at=None,
        in_flight=(),
    )


def check_new_run(run: Run) -> None:
    """Raise `InvalidValueError` naming the field when a run cannot be started as it is.

    Slashes in its id are fine, but it has to stand in an address: browsers and proxies resolve `.` and `..`
    between slashes, and take a slash at the beginning for another host or for none, and no address goes on
    behind a line break. Nor may it be the address of a part of another run.
    """
    check_run(run)
    parts = run.run_id.split("/")
    if not parts[0] or {".", ".."} & set(parts):
        raise InvalidValueError(
            "run_id",
            f"no address can hold {run.run_id!r}: begin it with something else than a slash, "
            "and put no . or .. alone between slashes",
        )
    if run.run_id == CONTROL:
        raise InvalidValueError("run_id", f"{CONTROL!r} names the audit of what changes no run: take another")
    if any(unicodedata.category(character) == "Cc" for character in run.run_id):
        raise InvalidValueError(
            "run_id",
            f"no address can hold {run.run_id!r}: leave out line breaks and other control characters",
        )
    part = _PART_OF_RUN.fullmatch(run.run_id)
    if part is not None:
        raise InvalidValueError(
            "run_id",
            f"{run.run_id!r} is where a part of run {part['run']!r} is found: let it end in another word",
        )


def check_run(run: Run) -> None:
    """Raise `InvalidValueError` naming the field when a run cannot be kept as it is."""
    check_text("run_id", run.run_id, 36)
    check_text("workflow_name", run.workflow_name, 255)
    _check_object("metadata", run.metadata)


def check_record(record: StepRecord) -> None:
    """Raise `InvalidValueError` naming the field when a record made elsewhere cannot be kept as it is."""
    check_step_name(record.step_name)
    for field in ("step_index", "sequence"):
        value = getattr(record, field)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise InvalidValueError(field, f"must be a whole number from 0, found {value!r:.80}")
    for field in ("input_hash", "idempotency_key"):
        value = getattr(record, field)
        if not isinstance(value, str) or len(value) != _HASH_CHARACTERS or not value.isalnum():
            raise InvalidValueError(field, f"must be a SHA-256 in hex, found {value!r:.80}")
    _check_object("input_data", record.input_data)
    if record.output_data is not None:
        _check_object("output_data", record.output_data)


def is_same_write(stored: StepRecord, given: StepRecord) -> bool:
    """Return whether `given` repeats what is stored; an empty output counts as none, as in 0.2.0."""
    return _identity(stored) == _identity(given)


def replayed(run: RunSummary, original: StepRecord, given: StepRecord) -> StepRecord | None:
    """Return what a replay by release 0.2.0 leaves of a record, None if `given` is not a copy of it.

    That release copies completed records with the keys they have in the run they come from. A key belongs to
    one record, so the copy is kept under the key of its own run, as one whose output was taken from another
    record, behind what the run holds.
    """
    if original.status is not StepStatus.COMPLETED or not is_same_write(original, given):
        return None
    return replace(
        given,
        status=StepStatus.SKIPPED_REPLAY,
        idempotency_key=key_in(run.run_id, given),
        sequence=run.next_sequence,
        attempt=1,
    )


def key_in(run_id: str, record: StepRecord) -> str:
    """Return the key that the step of a record has in a run."""
    return generate_idempotency_key(run_id, record.step_name, record.step_index, record.input_hash)


def _identity(record: StepRecord) -> tuple[object, ...]:
    output = as_recorded(record.output_data) if record.output_data else None
    return record.idempotency_key, record.step_name, record.step_index, record.status, output


def _check_object(field: str, value: object) -> None:
    if not isinstance(value, dict):
        raise InvalidValueError(field, f"must be a JSON object, found {type(value).__name__}")
    try:
        as_recorded(value)
    except (TypeError, ValueError, RecursionError) as problem:
        raise InvalidValueError(field, f"must be a JSON object: {problem}") from problem
