"""What the entries of a run tell of the state that its row must hold."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from resume_engine.core.audit import EventType
from resume_engine.core.codec import as_json
from resume_engine.core.errors import PayloadError
from resume_engine.core.resume_gates import GateAction, required_actions
from resume_engine.core.run import FINISHED_STATUSES, Environment, RunStatus
from resume_engine.core.step_record import (
    COMPENSATION_PREFIX,
    COMPLETED_STATUSES,
    FailureClassification,
    StepStatus,
)
from resume_engine.storage import rows
from resume_engine.storage.chain_reader import StoredEntry
from resume_engine.storage.decision_check import Said
from resume_engine.storage.payload_codec import PayloadCodec
from resume_engine.storage.run_rows import CLASSES, ENVIRONMENTS

_ENDS = {
    EventType.RUN_COMPLETED.value: RunStatus.COMPLETED,
    EventType.GATE_REJECTED.value: RunStatus.CANCELLED,
    EventType.RUN_ROLLED_BACK.value: RunStatus.CANCELLED,
}
_FAILED = StepStatus.FAILED.value


@dataclass(frozen=True)
class ToldFailure:
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


class RunTold:
    """Take in the entries of one run in their order."""

    def __init__(self, codec: PayloadCodec) -> None:
        self._codec = codec
        self._started: tuple[rows.AnyRow, dict[str, Any]] | None = None
        self._ended: tuple[RunStatus, datetime | None] | None = None
        self._failures: dict[int, ToldFailure] = {}  # those that are open, by the index of their step
        self._opened: set[tuple[str, str]] = set()  # failure key and kind
        self._deciders: set[tuple[str | None, str | None]] = set()
        self._ends: dict[tuple[str, str], str] = {}  # of decisions that opened a gate, until they are used
        self._last_step: rows.AnyRow | None = None
        self._passed: tuple[str, str] | None = None  # gate and failure key
        self._rolling_back = False
        self._first_inputs: set[str] = set()  # of the attempts of the first step
        self._first_is_done = False
        self._input_is_known = True
        self._status_was_set = False
        self._sees_all = True

    def take(self, entry: StoredEntry, said: Said | None) -> None:
        """Note what an entry tells; `said` is what it tells of a decision."""
        if entry.is_step:
            self._step(entry.row)
            return
        row = entry.row
        if said is not None:
            self._decided(row, said)
        if row.event_type in _ENDS:
            self._ended = (_ENDS[row.event_type], row.created_at)
        note = _NOTING.get(row.event_type)
        if note is not None:
            note(self, row, self._payload(row))

    def _step(self, row: rows.AnyRow) -> None:
        index = row.step_index
        self._note_input(row)
        if not row.step_name.startswith(COMPENSATION_PREFIX):
            self._last_step = row
        if self._counts(row):
            self._ends.clear()  # what was decided is used
        if row.status in COMPLETED_STATUSES:
            if self._failures and not row.legacy_duplicate:
                self._completed(row)
        elif row.status == _FAILED and self._counts(row):
            self._passes(index)
            classification = CLASSES.get(row.failure_classification, FailureClassification.PERMANENT)
            self._failures[index] = ToldFailure(f"{index}:{row.sequence}", row.step_name, classification, row)

    def _note_input(self, row: rows.AnyRow) -> None:
        """Note what the first step was given: it is that of the workflow only where nothing stands before."""
        if row.step_name.startswith("__"):
            return
        if row.step_index:
            self._input_is_known &= bool(self._first_inputs)
        else:
            self._input_is_known &= row.worker is not None  # else it was made by another client
            self._first_inputs.add(row.input_hash)
            self._first_is_done |= row.status in COMPLETED_STATUSES

    def _completed(self, row: rows.AnyRow) -> None:
        if not self._counts(row):
            return
        if self._rolling_back:
            self._failures.clear()
        else:
            self._passes(row.step_index)
            self._failures.pop(row.step_index, None)

    def _passes(self, index: int) -> None:
        """Note the first gate that was passed though nobody opened it: its step was executed again.

        What is only transient its executor may try again by itself.
        """
        failure, started = self._failures.get(index), self._started
        if failure is None or failure.record is None or started is None or self._rolling_back:
            return
        environment = ENVIRONMENTS.get(str(started[1].get("environment")))
        if environment is None or failure.classification is FailureClassification.TRANSIENT:
            return
        for action in failure.needs(environment, rolling_back=False):
            if (failure.key, action.value) not in self._opened:
                self._passed = self._passed or (action.value, failure.key)

    def _counts(self, row: rows.AnyRow) -> bool:
        """Return whether a record moves its run: compensations do so only while it is rolled back."""
        if row.legacy_duplicate:
            return False
        return self._rolling_back or not row.step_name.startswith(COMPENSATION_PREFIX)

    def _decided(self, row: rows.AnyRow, said: Said) -> None:
        gate = (row.failure_key, said["kind"])
        if said.get("opened", True):
            self._opened.add(gate)
            self._ends.pop(gate, None)  # the end of an earlier decision, which closed the gate again
            if said.get("opened") and said["expires_at"] is not None:
                self._ends[gate] = said["expires_at"]
        # Under a key that is not here an event does not tell the name that a caller gave.
        name = said["display_name"] or said["actor"] if "display_name" in said else None
        self._deciders |= {(name, said["decided_at"]), (said["actor"], said["decided_at"])}

    def _start(self, row: rows.AnyRow, payload: dict[str, Any]) -> None:
        self._started = (row, payload)
        if payload.get("status") in FINISHED_STATUSES:
            self._ended = (RunStatus(payload["status"]), None)

    def _updated(self, row: rows.AnyRow, payload: dict[str, Any]) -> None:
        status, before = payload.get("status"), payload.get("status_before")
        if status is None or before == RunStatus.RUNNING.value:
            self._ends.clear()  # whoever let it run used the decisions
        if status == before:
            return  # only its metadata
        self._status_was_set = True
        if status == RunStatus.COMPLETED.value:
            self._ended = self._ended or (RunStatus.COMPLETED, row.created_at)
        elif self._ended is not None:  # a run of the demo is opened again, on record, whatever it waited for
            self._ended = None
            failures = self._failures.values()
            self._opened |= {(failure.key, action.value) for failure in failures for action in GateAction}

    def _resumed(self, _: rows.AnyRow, __: dict[str, Any]) -> None:
        self._ends.clear()
        self._input_is_known &= bool(self._first_inputs)  # else the first step may be executed by hand

    def _interrupted(self, row: rows.AnyRow, payload: dict[str, Any]) -> None:
        self._resumed(row, payload)
        key = row.failure_key or ""
        index = key.partition(":")[0]
        if index.isdigit():
            classification = CLASSES.get(str(payload.get("classification")))
            self._failures[int(index)] = ToldFailure(key, payload.get("step_name"), classification)

    def _expired(self, row: rows.AnyRow, payload: dict[str, Any]) -> None:
        for action in GateAction:
            if action.value in str(payload.get("waits_for")):
                self._opened.discard((row.failure_key, action.value))
                self._ends.pop((row.failure_key, action.value), None)

    def _roll_back(self, _: rows.AnyRow, __: dict[str, Any]) -> None:
        self._failures.clear()  # closed gates are overruled
        self._ends.clear()
        self._rolling_back = True

    def _input(self, _: rows.AnyRow, __: dict[str, Any]) -> None:
        self._input_is_known = False

    def _payload(self, row: rows.AnyRow) -> dict[str, Any]:
        try:
            found = as_json(self._codec.decode(row.payload_json))
        except (PayloadError, ValueError):
            self._sees_all = False  # locked, or the walk along the chain says what is wrong with it
            return {}
        return found if isinstance(found, dict) else {}


_NOTING: dict[str, Callable[[RunTold, rows.AnyRow, dict[str, Any]], None]] = {
    EventType.RUN_STARTED.value: RunTold._start,
    EventType.RUN_UPDATED.value: RunTold._updated,
    EventType.RUN_RESUMED.value: RunTold._resumed,
    EventType.RUN_INTERRUPTED.value: RunTold._interrupted,
    EventType.RUN_ROLLING_BACK.value: RunTold._roll_back,
    EventType.RUN_INPUT_CHANGED.value: RunTold._input,
    EventType.GATE_EXPIRED.value: RunTold._expired,
}
