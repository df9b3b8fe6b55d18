"""Compare the row of a run with what its entries tell.

The row holds the state of a run for those who execute it, and all of that follows from the entries: whoever
changes the row alone, to open a gate or to wake a run that was cancelled, contradicts them. The rules only
find what cannot be right; what the entries leave open (intents, leases, the names of steps to come) they
leave alone. Of runs of 0.2.0 no entry tells how they began.
"""

from __future__ import annotations

from collections.abc import Iterator

from resume_engine.core.audit_chain import moment_text
from resume_engine.core.decision_end import UNUSED_STATUSES
from resume_engine.core.errors import PayloadError
from resume_engine.core.payload import is_hash_of, storable
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import FINISHED_STATUSES, RunStatus
from resume_engine.core.run_summary import Failure, RunSummary
from resume_engine.core.step_record import FailureClassification
from resume_engine.storage import rows, run_rows
from resume_engine.storage.chain_walk import UNREADABLE
from resume_engine.storage.payload_codec import LockedText, PayloadCodec
from resume_engine.storage.run_told import RunTold, ToldFailure
from resume_engine.storage.schema import runs
from resume_engine.storage.table_base import as_stored, unlike_its_column

COLUMNS = as_stored([*run_rows.SUMMARY_COLUMNS, runs.c.initial_input_json])
"""What a row has to hold to be compared."""


class RunCheck(RunTold):
    """Take in the entries of one run in their order, then say what in its row contradicts them."""

    def problem(self, row: rows.AnyRow) -> str | None:
        """Return what is wrong with the row of the run, one of `COLUMNS`."""
        wrong = unlike_its_column(COLUMNS, row)
        if wrong is not None:
            return f"its row cannot be read: {wrong}"
        try:
            return next(self._problems(run_rows.summary_from_row(row, self._codec), row), None)
        except UNREADABLE as problem:
            return f"its row cannot be read: {problem!r:.80}"

    def _problems(self, run: RunSummary, row: rows.AnyRow) -> Iterator[str]:
        yield from self._wrong_start(run)
        yield from self._wrong_end(run)
        if self._passed is not None:
            yield "its gate {} about {} was passed, and no entry tells who opened it".format(*self._passed)
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
        if run.failure is None and run.blocked_by:
            yield f"its gate {run.blocked_by[0]} is closed, and its failure is not there"
            return
        for failure in self._failures.values():
            is_current = run.failure is not None and run.failure.key == failure.key
            if self._started is None and not is_current and not self._is_hidden(run, failure):
                continue  # 0.2.0 let runs go on whose gates were closed
            needs = failure.needs(run.environment, rolling_back=self._rolling_back)
            missing = [a for a in needs if (failure.key, a.value) not in self._opened]
            closed = run.blocked_by if is_current or not run.blocked_by else missing
            open_ones = [action for action in missing if action not in closed]
            if open_ones and not _is_tried_again(run, failure):
                yield f"its gate {open_ones[0]} about {failure.key} is open, and no entry tells who opened it"
        yield from self._wrong_ends(run)

    def _is_hidden(self, run: RunSummary, failure: ToldFailure) -> bool:
        """Return whether a run of 0.2.0 lacks the failure that the migration had to write into its row."""
        is_left = run.status in (RunStatus.FAILED, RunStatus.PAUSED) and not self._status_was_set
        return run.failure is None and is_left and failure.record is self._last_step

    def _wrong_ends(self, run: RunSummary) -> Iterator[str]:
        if run.status not in UNUSED_STATUSES or run.failure is None:
            return
        opened = ((run.failure.key, a.value) for a in GateAction if a not in run.blocked_by)
        end = min((self._ends[gate] for gate in opened if gate in self._ends), default=None)
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
        is_told = self._input_is_known and self._first_is_done
        is_other = is_told and run.initial_input_hash not in self._first_inputs
        if is_other or not is_hash_of(run.initial_input_hash, text):
            yield "its initial input is not what its first step was given"


def _is_tried_again(run: RunSummary, failure: ToldFailure) -> bool:
    """Return whether the executor that met a failure tries the step again: no gate closes for that."""
    transient = failure.classification is FailureClassification.TRANSIENT
    return transient and run.status is RunStatus.RUNNING and run.lease_owner is not None


def _unlike(failure: Failure, told: ToldFailure, codec: PayloadCodec) -> bool:
    record: rows.AnyRow = told.record
    recorded = (told.step_name, told.classification, record.error_type, moment_text(record.timestamp))
    found = (failure.step_name, failure.classification, failure.error_type, moment_text(failure.failed_at))
    message = rows.decode_text(record.error_message, codec) or ""
    locked = isinstance(message, LockedText) or isinstance(failure.message, LockedText)
    return recorded != found or (not locked and storable(message) != storable(failure.message))
