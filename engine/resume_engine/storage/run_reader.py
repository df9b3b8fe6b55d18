"""Runs, their records and their decisions, read from a SQL database."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from itertools import takewhile
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    Select,
    and_,
    bindparam,
    exists,
    false,
    func,
    literal,
    or_,
    select,
    tuple_,
)

from resume_engine.core import clock
from resume_engine.core.actor import key_id_of, people_behind
from resume_engine.core.audit import AuditEvent
from resume_engine.core.decision import Decision, gates_view
from resume_engine.core.decision_end import as_of, closed_gates
from resume_engine.core.errors import RunNotFoundError
from resume_engine.core.payload import is_storable
from resume_engine.core.run import Run, RunStatus
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step_record import (
    COMPLETED_STATUSES,
    FailureClassification,
    StepKind,
    StepOutput,
    StepRecord,
    StepStatus,
)
from resume_engine.storage import audit_rows, rows, run_rows, step_rows
from resume_engine.storage.database import Database
from resume_engine.storage.derived_inputs import RunInputs, inputs_behind, load_input
from resume_engine.storage.driver import asked_again
from resume_engine.storage.payload_codec import PayloadCodec
from resume_engine.storage.schema import api_keys, audit_events, decisions, runs, status_is, step_records

_STEPS_PER_FETCH = 500
_OUTPUTS_PER_FETCH = 2_000
# Made once: to put a statement together, and to find out that it is known, costs more than to ask it.
RUN_ID: BindParameter[str] = bindparam("run_id")
_SUMMARIES = select(*run_rows.SUMMARY_COLUMNS)
_RUN = _SUMMARIES.add_columns(runs.c.metadata_json).where(runs.c.run_id == RUN_ID)
_UNDECIDED_RUN = _RUN.where(~exists().where(decisions.c.run_id == RUN_ID))
_DECISIONS = select(decisions).where(decisions.c.run_id == RUN_ID).order_by(decisions.c.decision_id)
_RECORDS = select(step_records)
_OUTPUTS = select(*step_rows.OUTPUT_COLUMNS)
Head = tuple[RunSummary, dict[str, Any]]
"""A run without its records, and its metadata with the view of its decisions."""
_LAST = 2**31 - 1  # behind every copy that stands at one sequence


class RunReader(Database):
    """Read runs, records, decisions and events; what takes several statements is asked again as a whole."""

    _outlives_close = True

    # Runs

    def get_run(self, run_id: str) -> Run | None:
        """Return a run with all its records and the view of its decisions, or None."""
        return self._read_run(run_id, with_steps=True)

    def load_run(self, run_id: str) -> Run | None:
        """Return a run and the view of its decisions; records are read when they are first asked for."""
        return self._undecided(run_id) or self._read_run(run_id, with_steps=not self._outlives_close)

    def _undecided(self, run_id: str) -> Run | None:
        """Return a run about which nothing was decided, as nearly all are: one statement."""
        if not self._outlives_close or not is_storable(run_id):
            return None
        with self.asking() as conn:
            row = conn.execute(_UNDECIDED_RUN, {"run_id": run_id}).one_or_none()
        return None if row is None else self._run_later(self._head(row, ()))

    @asked_again
    def _read_run(self, run_id: str, *, with_steps: bool) -> Run | None:
        with self.viewing() as conn:
            head = self.head_in_tx(conn, run_id)
            if head is None:
                return None
            records = conn.execute(steps_of(run_id)).all() if with_steps else ()
        if with_steps:
            return run_rows.run_from_row(*head, list(step_rows.steps_from_rows(records, self.codec)))
        return self._run_later(head)

    def head_in_tx(self, conn: Connection, run_id: str) -> Head | None:
        """Return a run and the view of its decisions, or None; two statements."""
        row = self.row_in_tx(conn, run_id)
        return None if row is None else self.decided_in_tx(conn, row)

    def row_in_tx(self, conn: Connection, run_id: str) -> rows.AnyRow | None:
        """Return the row of a run, which begins with `SUMMARY_COLUMNS`, or None."""
        return conn.execute(_RUN, {"run_id": run_id}).one_or_none() if is_storable(run_id) else None

    def decided_in_tx(self, conn: Connection, row: rows.AnyRow) -> Head:
        """Return the run of a row and the view of its decisions."""
        return self._head(row, _decisions_in_tx(conn, row.run_id, self.codec))

    def _head(self, row: rows.AnyRow, decided: Sequence[Decision]) -> Head:
        summary = run_rows.summary_from_row(row, self.codec)
        metadata = self.codec.decode(row.metadata_json)
        metadata.pop("gates", None)  # 0.2.0 kept decisions there; they are rows now
        if decided:
            key = summary.failure.key if summary.failure is not None else None
            now = as_of(summary, [d for d in decided if d.failure_key == key], clock.utc_now())
            metadata["gates"] = gates_view(decided, closed_gates(now))
            summary = summary.evolve(status=now.status)
        return summary, metadata

    def _run_later(self, head: Head) -> Run:
        """Return a run whose records are read when they are asked for."""
        return run_rows.run_from_row(*head, lambda: self._steps_until(head[0]))

    def _steps_until(self, run: RunSummary) -> list[StepRecord]:
        """Return the records a run had when it was read."""
        known = takewhile(lambda record: record.sequence < run.next_sequence, self.iter_steps(run.run_id))
        found = list(known)
        if run.next_sequence and not found:
            raise RunNotFoundError(run.run_id)  # collected since
        return found

    def load_summary(self, run_id: str) -> RunSummary | None:
        """Return a run without its records, or None."""
        if not is_storable(run_id):
            return None
        with self.asking() as conn:
            row = conn.execute(self._run_and_lease, {"run_id": run_id}).one_or_none()
        if row is None:
            return None
        return run_rows.summary_from_row(row, self.codec, lease_live=bool(row.lease_live))

    @cached_property
    def _run_and_lease(self) -> Select[Any]:
        live = func.coalesce(runs.c.lease_expires_at > self.database_now(), false()).label("lease_live")
        return _SUMMARIES.add_columns(live).where(runs.c.run_id == RUN_ID)

    def load_metadata(self, run_id: str) -> dict[str, Any] | None:
        """Return the metadata of a run without the view of its decisions, or None."""
        with self.asking() as conn:
            text = conn.execute(select(runs.c.metadata_json).where(runs.c.run_id == run_id)).scalar()
        if text is None:
            return None
        found: dict[str, Any] = self.codec.decode(text)
        found.pop("gates", None)
        return found

    def load_initial_input(self, run_id: str) -> dict[str, Any] | None:
        """Return the initial input a workflow was started with, or None when none was recorded."""
        with self.asking() as conn:
            text = conn.execute(select(runs.c.initial_input_json).where(runs.c.run_id == run_id)).scalar()
        return self.codec.decode(text) if text is not None else None

    def load_workflow(self, run_id: str) -> Sequence[str]:
        """Return the step names a run was started with, empty when none were recorded."""
        with self.asking() as conn:
            text = conn.execute(select(runs.c.workflow_json).where(runs.c.run_id == run_id)).scalar()
        return json.loads(text) if text is not None else []

    def find_resumable(
        self, workflow_names: Sequence[str], *, failed_before: datetime, max_attempts: int, limit: int
    ) -> Sequence[RunSummary]:
        """Return runs that need nobody: cleared ones, interrupted ones, and transient failures."""
        cleared = runs.c.status == RunStatus.PAUSED.value
        interrupted = and_(
            runs.c.status == RunStatus.RUNNING.value,
            runs.c.lease_owner.is_not(None),
            runs.c.lease_expires_at <= self.database_now(),
        )
        transient = and_(
            runs.c.status == RunStatus.FAILED.value,
            runs.c.failure_classification == FailureClassification.TRANSIENT.value,
            runs.c.failed_at <= failed_before,
            runs.c.failure_attempts < max_attempts,
        )
        query = (
            _SUMMARIES.where(
                runs.c.status.in_([RunStatus.PAUSED.value, RunStatus.FAILED.value, RunStatus.RUNNING.value])
            )
            .where(or_(cleared, transient, interrupted), runs.c.blocked_by.is_(None))
            .where(runs.c.workflow_name.in_(workflow_names))
            .order_by(runs.c.updated_at, runs.c.run_id)
            .limit(limit)
        )
        with self.asking() as conn:
            return [run_rows.summary_from_row(row, self.codec) for row in conn.execute(query)]

    # Records

    def iter_steps(
        self, run_id: str, *, completed_only: bool = False, after: int = -1, inputs: RunInputs | None = None
    ) -> Iterator[StepRecord]:
        """Yield records by sequence, a few hundred in memory at a time; `after` which sequence to begin.

        `inputs` has seen every record up to there, in an earlier call; else it is made from the record.
        """
        query = steps_of(run_id).where(_after_position((after, _LAST)))
        if completed_only:
            query = query.where(step_records.c.status.in_(COMPLETED_STATUSES))
        if inputs is None:
            inputs = self.inputs_behind(run_id, after)
        for fetched in self._batches(query):
            yield from step_rows.steps_from_rows(fetched, self.codec, inputs)

    @asked_again
    def inputs_behind(self, run_id: str, after: int) -> RunInputs:
        """Return what `iter_steps` needs to begin after a sequence."""
        if after < 0:
            return RunInputs(self.codec)
        with self.viewing() as conn:
            return inputs_behind(conn, self.codec, run_id, after)

    def iter_outputs(self, run_id: str) -> Iterator[StepOutput]:
        """Yield what the completed steps of a workflow gave out, by sequence, compensations aside."""
        query = steps_of(run_id, _OUTPUTS).where(
            step_records.c.status.in_(COMPLETED_STATUSES), step_records.c.kind == StepKind.STEP.value
        )
        for fetched in self._batches(query, _OUTPUTS_PER_FETCH):
            yield from step_rows.outputs_from_rows(fetched, self.codec)

    def _batches(self, query: Select[Any], size: int = _STEPS_PER_FETCH) -> Iterator[Sequence[Any]]:
        position = (-1, -1)
        while True:
            fetched = self._fetch_steps(query.where(_after_position(position)).limit(size))
            yield fetched
            if len(fetched) < size:
                return
            position = (fetched[-1].sequence, fetched[-1].legacy_duplicate)

    def _fetch_steps(self, query: Select[Any]) -> Sequence[Any]:
        with self.asking() as conn:
            return conn.execute(query).all()

    def list_open_failures(self, run_id: str) -> Sequence[StepRecord]:
        """Return the failed attempts, by sequence, that are the latest of their step; one statement.

        The inputs are left out: a gate can be decided without the key that opens them.
        """
        ended = [StepStatus.COMPLETED.value, StepStatus.SKIPPED_REPLAY.value, StepStatus.FAILED.value]
        last = (
            select(func.max(step_records.c.sequence))
            .where(step_records.c.run_id == run_id, step_records.c.kind == StepKind.STEP.value)
            .where(step_records.c.status.in_(ended))
            .group_by(step_records.c.step_index)
        )
        query = (
            steps_of(run_id)
            .where(step_records.c.sequence.in_(last), step_records.c.kind == StepKind.STEP.value)
            .where(status_is(StepStatus.FAILED))
        )
        with self.asking() as conn:
            return [step_rows.failure_from_row(row, self.codec) for row in conn.execute(query)]

    def load_step(self, run_id: str, sequence: int) -> StepRecord | None:
        """Return one record of a run by its sequence, or None."""
        query = steps_of(run_id).where(step_records.c.sequence == sequence).limit(1)
        return self._one_step(query)

    def get_step_by_idempotency_key(self, key: str) -> StepRecord | None:
        """Return the completed record with this key, or None."""
        self.refuse_if_locked()
        if not is_storable(key):
            return None
        query = (
            _RECORDS.where(step_records.c.idempotency_key == key, status_is(*COMPLETED_STATUSES))
            .order_by(step_records.c.legacy_duplicate, step_records.c.sequence.desc())
            .limit(1)
        )
        return self._one_step(query)

    def _one_step(self, query: Select[Any]) -> StepRecord | None:
        with self.asking() as conn:
            row = conn.execute(query).one_or_none()
            if row is None:
                return None
            given = load_input(conn, self.codec, row.run_id, row.sequence, row.input_json)
        return step_rows.step_from_row(row, self.codec, given)

    def find_run_of_key(self, key: str) -> str | None:
        """Return the id of the run whose completed record has this key, or None."""
        if not is_storable(key):
            return None
        query = (
            select(step_records.c.run_id)
            .where(step_records.c.idempotency_key == key, status_is(*COMPLETED_STATUSES))
            .order_by(step_records.c.legacy_duplicate, step_records.c.sequence.desc())
            .limit(1)
        )
        with self.asking() as conn:
            found: str | None = conn.execute(query).scalar()
        return found

    # Decisions and events

    def list_decisions(self, run_id: str, *, failure_key: str | None = None) -> Sequence[Decision]:
        """Return the decisions of a run, oldest first; only those of one failure event if given."""
        with self.asking() as conn:
            return _decisions_in_tx(conn, run_id, self.codec, failure_key)

    def owners_of_keys(self, actor_names: Collection[str]) -> Mapping[str, str]:
        """Return, for the names that are API keys, who made the key; revoked ones count too.

        Whoever made a key that was to succeed another may hold either: those two people are one.
        """
        names = {key_id: name for name in actor_names if (key_id := key_id_of(name)) is not None}
        made: dict[str, Any] = {}
        asked = set(names)
        while asked:
            query = select(api_keys.c.key_id, api_keys.c.created_by, api_keys.c.replaces)
            with self.asking() as conn:
                found = conn.execute(query.where(api_keys.c.key_id.in_(sorted(asked)))).all()
            made |= {row.key_id: row for row in found}
            asked = {row.replaces for row in found if row.replaces} - made.keys()
        return people_behind(names, {key: (row.created_by, row.replaces) for key, row in made.items()})

    def list_events(self, run_id: str) -> Sequence[AuditEvent]:
        """Return the stored audit events of a run, oldest first."""
        query = select(audit_events).where(audit_events.c.run_id == run_id).order_by(audit_events.c.event_id)
        with self.asking() as conn:
            return [audit_rows.event_from_row(row, self.codec) for row in conn.execute(query)]


def steps_of(run_id: str | BindParameter[str], columns: Select[Any] = _RECORDS) -> Any:
    """Return the statement for all records of a run, by sequence."""
    by_sequence = (step_records.c.sequence, step_records.c.legacy_duplicate)
    return columns.where(step_records.c.run_id == run_id).order_by(*by_sequence)


def _after_position(position: tuple[int, int]) -> Any:
    return tuple_(step_records.c.sequence, step_records.c.legacy_duplicate) > tuple_(*map(literal, position))


def _decisions_in_tx(
    conn: Connection, run_id: str, codec: PayloadCodec, failure_key: str | None = None
) -> list[Decision]:
    query = _DECISIONS if failure_key is None else _DECISIONS.where(decisions.c.failure_key == failure_key)
    return [audit_rows.decision_from_row(row, codec) for row in conn.execute(query, {"run_id": run_id}).all()]
