"""Compare the row of a run with what its entries tell.

The row holds the state of a run for those who execute it, and all of that follows from the entries: whoever
changes the row alone, to open a gate or to wake a run that was cancelled, contradicts them. The rules only
find what cannot be right; what the entries leave open (intents, leases, the names of steps to come) they
leave alone. Of runs of 0.2.0 no entry tells how they began.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from resume_engine.core.audit import EventType
from resume_engine.core.audit_chain import moment_text
from resume_engine.core.codec import as_json
from resume_engine.core.errors import PayloadError
from resume_engine.core.payload import storable
from resume_engine.core.resume_gates import GateAction, required_actions
from resume_engine.core.run import FINISHED_STATUSES, Environment, RunStatus
from resume_engine.core.run_summary import Failure, RunSummary
from resume_engine.core.step_record import (
    COMPENSATION_PREFIX,
    COMPLETED_STATUSES,
    FailureClassification,
    StepStatus,
)
from resume_engine.storage import rows, run_rows
from resume_engine.storage.chain_reader import StoredEntry, is_hash_of
from resume_engine.storage.decision_check import Said
from resume_engine.storage.payload_codec import LockedText, PayloadCodec
from resume_engine.storage.schema import runs

COLUMNS = [*run_rows.SUMMARY_COLUMNS, runs.c.initial_input_json]
"""What a row has to hold to be compared."""

_ENDS = {
    EventType.RUN_COMPLETED.value: RunStatus.COMPLETED,
    EventType.GATE_REJECTED.value: RunStatus.CANCELLED,
    EventType.RUN_ROLLED_BACK.value: RunStatus.CANCELLED,
}
_FAILED = StepStatus.FAILED.value
_CLASSES: dict[Any, FailureClassification] = {one.value: one for one in FailureClassification}


@dataclass(frozen=True)
class _Failure:
    """A failure event as an entry tells of it."""

    key: str
    step_name: str | None
    classification: FailureClassification | None  # None: the event of an interruption did not always tell
    record: rows.AnyRow | None = None  # None for an interruption

    def needs(self, environment: Environment, *, rolling_back: bool) -> Collection[GateAction]:
        """Return the gates that it closed, as far as it is known."""
        if rolling_back and self.record is not None:
            return required_actions(FailureClassification.PERMANENT, environment)
        if self.classification is not None:
            return required_actions(self.classification, environment)
        is_prod = environment is Environment.PROD
        return [GateAction.PROD_RESUME_ACK if is_prod else GateAction.HUMAN_APPROVAL]


class RunCheck:
    """Take in the entries of one run in their order, then say what in its row contradicts them."""

    def __init__(self, codec: PayloadCodec) -> None:
        self._codec = codec
        self._started: tuple[rows.AnyRow, dict[str, Any]] | None = None
        self._ended: tuple[RunStatus, datetime | None] | None = None
        self._failures: dict[int, _Failure] = {}  # those that are open, by the index of their step
        self._opened: set[tuple[str, str]] = set()  # failure key and kind
        self._deciders: set[tuple[str | None, str | None]] = set()
        self._newest: Said | None = None  # a decision, while nothing followed it
        self._rolling_back = False
        self._first_input: str | None = None
        self._input_changed = False
        self._sees_all = True

    def take(self, entry: StoredEntry, said: Said | None) -> None:
        """Note what an entry tells; `said` is what it tells of a decision."""
        if entry.is_step:
            self._step(entry.row)
            return
        row = entry.row
        self._newest = said
        if said is not None:
            self._decided(row, said)
        if row.event_type in _ENDS:
            self._ended = (_ENDS[row.event_type], row.created_at)
        note = _NOTING.get(row.event_type)
        if note is not None:
            note(self, row, self._payload(row))

    def problem(self, row: rows.AnyRow) -> str | None:
        """Return what is wrong with the row of the run, one of `COLUMNS`."""
        try:
            run = run_rows.summary_from_row(row, self._codec)
        except (KeyError, ValueError) as problem:
            return f"its row cannot be read: {problem}"
        return next(self._problems(run, row), None)

    # What the entries tell

    def _step(self, row: rows.AnyRow) -> None:
        self._newest = None
        index = row.step_index
        if self._first_input is None and index == 0 and not row.legacy_duplicate:
            self._first_input = row.input_hash
        if row.status in COMPLETED_STATUSES:
            if self._failures and not row.legacy_duplicate:
                self._completed(row)
        elif row.status == _FAILED and self._counts(row):
            classification = _CLASSES.get(row.failure_classification, FailureClassification.PERMANENT)
            self._failures[index] = _Failure(f"{index}:{row.sequence}", row.step_name, classification, row)

    def _completed(self, row: rows.AnyRow) -> None:
        if not self._counts(row):
            return
        if self._rolling_back:
            self._failures.clear()
        else:
            self._failures.pop(row.step_index, None)

    def _counts(self, row: rows.AnyRow) -> bool:
        """Return whether a record moves its run: compensations do so only while it is rolled back."""
        if row.legacy_duplicate:
            return False
        return self._rolling_back or not row.step_name.startswith(COMPENSATION_PREFIX)

    def _decided(self, row: rows.AnyRow, said: Said) -> None:
        if said.get("opened", True):
            self._opened.add((row.failure_key, said["kind"]))
        # Under a key that is not here an event does not tell the name that a caller gave.
        name = said["display_name"] or said["actor"] if "display_name" in said else None
        self._deciders |= {(name, said["decided_at"]), (said["actor"], said["decided_at"])}

    def _start(self, row: rows.AnyRow, payload: dict[str, Any]) -> None:
        self._started = (row, payload)
        if payload.get("status") in FINISHED_STATUSES:
            self._ended = (RunStatus(payload["status"]), None)

    def _updated(self, row: rows.AnyRow, payload: dict[str, Any]) -> None:
        status = payload.get("status")
        if status == RunStatus.COMPLETED.value:
            self._ended = self._ended or (RunStatus.COMPLETED, row.created_at)
        elif status:
            self._ended = None  # runs of the demo are opened again, on record

    def _interrupted(self, row: rows.AnyRow, payload: dict[str, Any]) -> None:
        key = row.failure_key or ""
        index = key.partition(":")[0]
        if index.isdigit():
            classification = _CLASSES.get(payload.get("classification"))
            self._failures[int(index)] = _Failure(key, payload.get("step_name"), classification)

    def _expired(self, row: rows.AnyRow, payload: dict[str, Any]) -> None:
        for action in GateAction:
            if action.value in str(payload.get("waits_for")):
                self._opened.discard((row.failure_key, action.value))

    def _roll_back(self, _: rows.AnyRow, __: dict[str, Any]) -> None:
        self._failures.clear()  # closed gates are overruled
        self._rolling_back = True

    def _input(self, _: rows.AnyRow, __: dict[str, Any]) -> None:
        self._input_changed = True

    def _payload(self, row: rows.AnyRow) -> dict[str, Any]:
        try:
            found = as_json(self._codec.decode(row.payload_json))
        except (PayloadError, ValueError):
            self._sees_all = False  # locked, or the walk along the chain says what is wrong with it
            return {}
        return found if isinstance(found, dict) else {}

    # What the row says

    def _problems(self, run: RunSummary, row: rows.AnyRow) -> Iterator[str]:
        yield from self._wrong_start(run)
        yield from self._wrong_end(run)
        if run.status not in FINISHED_STATUSES:
            yield from self._wrong_gates(run)
            yield from self._wrong_failure(run, row)
        cleared_at = moment_text(run.cleared_at)
        if run.cleared_by and self._deciders.isdisjoint({(run.cleared_by, cleared_at), (None, cleared_at)}):
            yield f"no entry tells that {run.cleared_by} cleared it"
        yield from self._wrong_input(run, row)

    def _wrong_start(self, run: RunSummary) -> Iterator[str]:
        if self._started is None:
            return
        told, payload = self._started
        started_by = None if run.started_by is None else storable(run.started_by)[:255]
        pairs = {
            "workflow_name": (payload.get("workflow_name"), run.workflow_name),
            "environment": (payload.get("environment"), run.environment.value),
            "started_by": (told.actor, started_by),
            "created_at": (moment_text(told.created_at), moment_text(run.created_at)),
        }
        for name, (recorded, found) in pairs.items():
            if recorded not in (None, found):
                yield f"its {name} is {found}, and its first entry tells {recorded}"

    def _wrong_end(self, run: RunSummary) -> Iterator[str]:
        if self._ended is None:
            if self._started is not None and self._sees_all and run.status in FINISHED_STATUSES:
                yield f"it is {run.status}, and no entry tells that it ended"
            return
        status, at = self._ended
        if run.status is not status:
            yield f"it is {run.status}, and its entries tell that it was {status}"
        elif at is not None and moment_text(run.finished_at) != moment_text(at):
            yield f"it ended at {moment_text(run.finished_at)}, and its entries tell {moment_text(at)}"

    def _wrong_gates(self, run: RunSummary) -> Iterator[str]:
        for failure in self._failures.values():
            if self._started is None and (run.failure is None or run.failure.key != failure.key):
                continue  # 0.2.0 let runs go on whose gates were closed
            needs = failure.needs(run.environment, rolling_back=self._rolling_back)
            missing = [a for a in needs if (failure.key, a.value) not in self._opened]
            is_current = run.failure is not None and run.failure.key == failure.key
            closed = run.blocked_by if is_current or not run.blocked_by else missing
            open_ones = [action for action in missing if action not in closed]
            if open_ones and not _is_tried_again(run, failure):
                yield f"its gate {open_ones[0]} about {failure.key} is open, and no entry tells who opened it"
        if self._newest is not None and run.status is RunStatus.PAUSED:
            end = self._newest.get("expires_at")
            if end is not None and (moment_text(run.cleared_until) or "9") > end:
                yield f"its gates stay open longer than the decision about them, which ends at {end}"

    def _wrong_failure(self, run: RunSummary, row: rows.AnyRow) -> Iterator[str]:
        if run.failure is None:
            return
        told = next((f for f in self._failures.values() if f.key == run.failure.key), None)
        if told is None:
            yield f"no entry tells of its failure {run.failure.key}"
        elif told.record is not None and _unlike(run.failure, told, self._codec):
            yield f"its failure {told.key} is not what was recorded"

    def _wrong_input(self, run: RunSummary, row: rows.AnyRow) -> Iterator[str]:
        if run.initial_input_hash is None or row.initial_input_json is None:
            return
        try:
            text = self._codec.unseal(row.initial_input_json)
        except PayloadError:
            return  # sealed with a key that is not here
        first = None if self._input_changed else self._first_input
        if not is_hash_of(run.initial_input_hash, text) or first not in (None, run.initial_input_hash):
            yield "its initial input is not what its first step was given"


_NOTING: dict[str, Callable[[RunCheck, rows.AnyRow, dict[str, Any]], None]] = {
    EventType.RUN_STARTED.value: RunCheck._start,
    EventType.RUN_UPDATED.value: RunCheck._updated,
    EventType.RUN_INTERRUPTED.value: RunCheck._interrupted,
    EventType.RUN_ROLLING_BACK.value: RunCheck._roll_back,
    EventType.RUN_INPUT_CHANGED.value: RunCheck._input,
    EventType.GATE_EXPIRED.value: RunCheck._expired,
}


def _is_tried_again(run: RunSummary, failure: _Failure) -> bool:
    """Return whether the executor that met a failure tries the step again: no gate closes for that."""
    transient = failure.classification is FailureClassification.TRANSIENT
    return transient and run.status is RunStatus.RUNNING and run.lease_owner is not None


def _unlike(failure: Failure, told: _Failure, codec: PayloadCodec) -> bool:
    record: rows.AnyRow = told.record
    recorded = (told.step_name, told.classification, record.error_type, moment_text(record.timestamp))
    found = (failure.step_name, failure.classification, failure.error_type, moment_text(failure.failed_at))
    message = rows.decode_text(record.error_message, codec) or ""
    locked = isinstance(message, LockedText) or isinstance(failure.message, LockedText)
    return recorded != found or (not locked and storable(message) != failure.message)
