"""The store shared by SQLite and PostgreSQL."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from functools import partial
from itertools import takewhile
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Select,
    and_,
    false,
    func,
    insert,
    literal,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import DBAPIError, IntegrityError

from resume_engine.core import clock
from resume_engine.core.actor import ENGINE_ACTOR, Actor, key_id_of
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.audit_chain import end_of, event_link, links_of
from resume_engine.core.decision import Decision, gates_view
from resume_engine.core.decision_end import closed_gates
from resume_engine.core.errors import (
    AlreadyDecidedError,
    IdempotencyCollisionError,
    PayloadLockedError,
    RunExistsError,
    RunNotFoundError,
    StaleRunError,
)
from resume_engine.core.execution import assert_open
from resume_engine.core.gate_closing import closed_in_time
from resume_engine.core.lease import assert_idle
from resume_engine.core.open_failures import after_record
from resume_engine.core.outside_writes import check_record, check_run, is_same_write, with_status
from resume_engine.core.payload import is_storable
from resume_engine.core.roll_back_plan import assert_none_under_way
from resume_engine.core.run import Run, RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step_record import (
    COMPLETED_STATUSES,
    FailureClassification,
    StepKind,
    StepOutput,
    StepRecord,
    StepStatus,
)
from resume_engine.core.store import CheckpointStore
from resume_engine.storage import rows
from resume_engine.storage.audit_log import append_in_tx, insert_in_tx
from resume_engine.storage.derived_inputs import RunInputs, inputs_behind, load_input
from resume_engine.storage.driver import asked_again, connection_was_lost
from resume_engine.storage.encryption import codec_from_environment
from resume_engine.storage.payload_codec import PayloadCodec
from resume_engine.storage.schema import api_keys, audit_events, decisions, runs, status_is, step_records
from resume_engine.storage.schema_version import ensure_schema, upgrade
from resume_engine.storage.step_append import is_plain

_STEPS_PER_FETCH = 500
_OUTPUTS_PER_FETCH = 2_000
_LAST = 2**31 - 1  # behind every copy that stands at one sequence
_UNREACHABLE_SECONDS = 30.0
_RUN_ID_KEYS = ("pk_runs", "runs_pkey")  # as SQLite's table of names has it, and as PostgreSQL named it


class SqlCheckpointStore(CheckpointStore):
    """Keep runs in a SQL database; subclasses supply the engine and what differs between databases.

    Opening creates the schema in an empty database and checks it in any other
    (`SchemaOutdatedError`, `SchemaTooNewError`).
    """

    _reading_options: Mapping[str, Any] = {}
    _outlives_close = True

    def __init__(
        self, engine: Engine, *, check_schema: bool = True, codec: PayloadCodec | None = None
    ) -> None:
        self.codec = codec_from_environment() if codec is None else codec
        self._locked: str | None = None
        self._engine = engine
        self._reading_engine = engine.execution_options(**self._reading_options)
        self._writing_engine = engine.execution_options(writes=True)
        self._asking_engine = engine.execution_options(asks=True)
        if check_schema:
            ensure_schema(engine, self._migration_lock, self.codec)
            self._locked = self._missing_key()

    # Differences between databases

    def _migration_lock(self, conn: Connection) -> None:
        """Make sure that one process at a time migrates; held until the transaction ends."""

    def _violated(self, error: IntegrityError) -> str:
        """Return the name of the violated unique key."""
        raise NotImplementedError

    def _append_plain(self, change: RunChange, after: RunSummary) -> None:
        """Write a change that `step_append.is_plain` allows, in one transaction."""
        raise NotImplementedError

    def database_now(self, plus_seconds: float = 0.0) -> Any:
        """Return an expression for the current moment by the database's clock, moved by so many seconds."""
        raise NotImplementedError

    def starts_with(self, column: Any, prefix: str) -> Any:
        """Return the condition that a text column begins with `prefix`, in a form that an index serves."""
        raise NotImplementedError

    @staticmethod
    def hour_of(column: Any) -> Any:
        """Return an expression that groups moments by hour; `parse_hour` reads its values."""
        raise NotImplementedError

    def parse_hour(self, value: Any) -> datetime:
        """Return the hour (aware UTC) that a value of `hour_of` names."""
        raise NotImplementedError

    # Encryption

    def _missing_key(self) -> str | None:
        """Return the key that the newest run is sealed with when it is not here: this database is locked."""
        newest = (
            select(runs.c.metadata_json).order_by(runs.c.created_at.desc(), runs.c.run_id.desc()).limit(1)
        )
        with self.asking() as conn:
            text = conn.execute(newest).scalar()
        return self.codec.missing_key(text) if text is not None else None

    @property
    def is_locked(self) -> bool:
        """Return whether the database is sealed with a key that is not here: it can be looked at only."""
        return self._locked is not None

    def refuse_if_locked(self) -> None:
        """Raise `PayloadLockedError` if the database is sealed with a key that is not here."""
        # What is written without the key would lie in the clear, and with another key would be lost for those
        # who hold the right one. Asked before a step runs, not when its output is recorded.
        if self._locked is not None:
            raise PayloadLockedError(f"the runs in this database need the key {self._locked}")

    # Transactions

    @property
    def engine(self) -> Engine:
        """Return the SQLAlchemy engine, for the queries of the read side."""
        return self._engine

    @property
    def engines(self) -> Sequence[Engine]:
        """Return every engine that the store speaks through."""
        return (self._engine,)

    @property
    def url(self) -> str:
        """Return the database URL without its password."""
        return self._engine.url.render_as_string(hide_password=True)

    def reading(self) -> AbstractContextManager[Connection]:
        """Open a transaction that only reads: one consistent view."""
        return self._reading_engine.begin()

    def asking(self) -> AbstractContextManager[Connection]:
        """Open a connection for a single statement that reads: it needs no transaction around it."""
        return self._asking_engine.connect()

    def writing(self) -> AbstractContextManager[Connection]:
        """Open a transaction that may write; on SQLite it waits for its turn at once."""
        return self._writing_engine.begin()

    def upgrade_schema(self) -> tuple[str, str]:
        """Bring the database to this release's schema; return (schema before, schema after)."""
        return upgrade(self._engine, self._migration_lock, self.codec)

    def settings_at_risk(self) -> list[str]:
        """Return what in the database's settings could lose a write that was acknowledged."""
        raise NotImplementedError

    def scrub(self) -> str | None:
        """Remove what overwritten rows left behind in the files, or return what there is to do for that."""
        return None

    def close(self) -> None:
        """Release the connections."""
        self._engine.dispose()

    # The 0.2.0 calls

    def create_run(self, run: Run, *, actor: Actor = ENGINE_ACTOR, change_id: str | None = None) -> None:
        """Write a new run and its `run.started` event; raise `RunExistsError` if the id is taken."""
        self.refuse_if_locked()
        check_run(run)
        event = AuditEvent.by(
            actor,
            EventType.RUN_STARTED,
            run.created_at,
            run_id=run.run_id,
            payload={"workflow_name": run.workflow_name, "environment": run.environment.value},
        )
        change_id = change_id or secrets.token_hex(8)
        link = event_link(run.run_id, 0, None, event)
        values = rows.run_values(run, actor.name, self.codec)
        values |= {"change_id": change_id, "chain_seq": link.seq, "chain_head": link.hash}

        def write() -> None:
            with self.writing() as conn:
                conn.execute(insert(runs).values(values))
                insert_in_tx(conn, event, run.run_id, link, self.codec)

        def is_written() -> bool:
            created = self.load_summary(run.run_id)
            return created is not None and created.change_id == change_id

        try:
            self._surely(write, is_written)
        except IntegrityError as error:
            if self._violated(error) not in _RUN_ID_KEYS:
                raise
            raise RunExistsError(run.run_id) from error

    @asked_again
    def get_run(self, run_id: str) -> Run | None:
        """Return a run with all its records and the view of its decisions, or None."""
        return self._read_run(run_id, with_steps=True)

    @asked_again
    def load_run(self, run_id: str) -> Run | None:
        """Return a run and the view of its decisions; records are read when they are first asked for."""
        return self._read_run(run_id, with_steps=not self._outlives_close)

    def _read_run(self, run_id: str, *, with_steps: bool) -> Run | None:
        if not is_storable(run_id):
            return None
        with self.reading() as conn:
            row = conn.execute(
                select(*rows.SUMMARY_COLUMNS, runs.c.metadata_json).where(runs.c.run_id == run_id)
            ).one_or_none()
            if row is None:
                return None
            records = conn.execute(_steps_of(run_id)).all() if with_steps else ()
            decided = _decisions_in_tx(conn, run_id, None, self.codec)
        summary = rows.summary_from_row(row, self.codec)
        metadata = self.codec.decode(row.metadata_json)
        metadata.pop("gates", None)  # 0.2.0 kept decisions there; they are rows now
        if decided:
            metadata["gates"] = gates_view(decided, closed_gates(summary, decided, clock.utc_now()))
        if with_steps:
            return rows.run_from_row(summary, metadata, list(rows.steps_from_rows(records, self.codec)))
        return rows.run_from_row(summary, metadata, lambda: self._steps_until(summary))

    def _steps_until(self, run: RunSummary) -> list[StepRecord]:
        """Return the records a run had when it was read."""
        known = takewhile(lambda record: record.sequence < run.next_sequence, self.iter_steps(run.run_id))
        found = list(known)
        if run.next_sequence and not found:
            raise RunNotFoundError(run.run_id)  # collected since
        return found

    def update_run(self, run: Run, *, actor: Actor = ENGINE_ACTOR) -> None:
        """Write status and metadata of `run`; `metadata["gates"]` is a view and is not written."""
        before = self.load_summary(run.run_id)
        if before is None:
            raise RunNotFoundError(run.run_id)
        check_run(run)
        before = closed_in_time(self, before, ENGINE_ACTOR)
        after = with_status(before, run.status, clock.utc_now())
        event = AuditEvent.by(
            actor,
            EventType.RUN_UPDATED,
            after.updated_at,
            run_id=run.run_id,
            payload={"status": run.status.value, "status_before": before.status.value},
        )
        self.commit(RunChange(before=before, after=after, metadata=run.metadata, events=(event,)))

    def append_step(self, run_id: str, step: StepRecord) -> None:
        """Write a record that was made elsewhere; repeating the same write changes nothing."""
        run = self.load_summary(run_id)
        if run is None:
            raise RunNotFoundError(run_id)
        check_record(step)
        stored = self.load_step(run_id, step.sequence)
        if stored is not None:
            if is_same_write(stored, step):
                return
            raise StaleRunError(
                run_id, f"no record at sequence {step.sequence}", f"step {stored.step_name!r}"
            )
        run = closed_in_time(self, run, ENGINE_ACTOR)
        assert_open(run, step.step_name)
        assert_none_under_way(self, run)
        assert_idle(run)
        if step.sequence != run.next_sequence:
            raise StaleRunError(run_id, f"sequence {run.next_sequence}", f"sequence {step.sequence}")
        self.commit(RunChange(before=run, after=after_record(self, run, step), record=step))

    @asked_again
    def get_step_by_idempotency_key(self, key: str) -> StepRecord | None:
        """Return the completed record with this key, or None."""
        self.refuse_if_locked()
        if not is_storable(key):
            return None
        query = (
            select(step_records)
            .where(step_records.c.idempotency_key == key, status_is(*COMPLETED_STATUSES))
            .order_by(step_records.c.legacy_duplicate, step_records.c.sequence.desc())
            .limit(1)
        )
        return self._one_step(query)

    @asked_again
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

    @asked_again
    def load_metadata(self, run_id: str) -> dict[str, Any] | None:
        """Return the metadata of a run without the view of its decisions, or None."""
        with self.asking() as conn:
            text = conn.execute(select(runs.c.metadata_json).where(runs.c.run_id == run_id)).scalar()
        if text is None:
            return None
        found: dict[str, Any] = self.codec.decode(text)
        found.pop("gates", None)
        return found

    # What the engine needs beside them

    @asked_again
    def load_summary(self, run_id: str) -> RunSummary | None:
        """Return a run without its records, or None."""
        if not is_storable(run_id):
            return None
        with self.asking() as conn:
            live = func.coalesce(runs.c.lease_expires_at > self.database_now(), false()).label("lease_live")
            row = conn.execute(
                select(*rows.SUMMARY_COLUMNS, live).where(runs.c.run_id == run_id)
            ).one_or_none()
        if row is None:
            return None
        return rows.summary_from_row(row, self.codec, lease_live=bool(row.lease_live))

    @asked_again
    def load_initial_input(self, run_id: str) -> dict[str, Any] | None:
        """Return the initial input a workflow was started with, or None when none was recorded."""
        with self.asking() as conn:
            text = conn.execute(select(runs.c.initial_input_json).where(runs.c.run_id == run_id)).scalar()
        return self.codec.decode(text) if text is not None else None

    def iter_steps(
        self, run_id: str, *, completed_only: bool = False, after: int = -1, inputs: RunInputs | None = None
    ) -> Iterator[StepRecord]:
        """Yield records by sequence, a few hundred in memory at a time; `after` which sequence to begin.

        `inputs` has seen every record up to there, in an earlier call; else it is made from the record.
        """
        query = _steps_of(run_id).where(_after_position((after, _LAST)))
        if completed_only:
            query = query.where(step_records.c.status.in_(COMPLETED_STATUSES))
        if inputs is None:
            inputs = self.inputs_behind(run_id, after)
        for fetched in self._batches(query):
            yield from rows.steps_from_rows(fetched, self.codec, inputs)

    @asked_again
    def inputs_behind(self, run_id: str, after: int) -> RunInputs:
        """Return what `iter_steps` needs to begin after a sequence."""
        if after < 0:
            return RunInputs(self.codec)
        with self.reading() as conn:
            return inputs_behind(conn, self.codec, run_id, after)

    def iter_outputs(self, run_id: str) -> Iterator[StepOutput]:
        """Yield what the completed steps of a workflow gave out, by sequence, compensations aside."""
        query = _steps_of(run_id, rows.OUTPUT_COLUMNS).where(
            step_records.c.status.in_(COMPLETED_STATUSES), step_records.c.kind == StepKind.STEP.value
        )
        for fetched in self._batches(query, _OUTPUTS_PER_FETCH):
            yield from rows.outputs_from_rows(fetched, self.codec)

    def _batches(self, query: Select[Any], size: int = _STEPS_PER_FETCH) -> Iterator[Sequence[Any]]:
        position = (-1, -1)
        while True:
            fetched = self._fetch_steps(query.where(_after_position(position)).limit(size))
            yield fetched
            if len(fetched) < size:
                return
            position = (fetched[-1].sequence, fetched[-1].legacy_duplicate)

    @asked_again
    def _fetch_steps(self, query: Select[Any]) -> Sequence[Any]:
        with self.asking() as conn:
            return conn.execute(query).all()

    @asked_again
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
            _steps_of(run_id)
            .where(step_records.c.sequence.in_(last), step_records.c.kind == StepKind.STEP.value)
            .where(status_is(StepStatus.FAILED))
        )
        with self.asking() as conn:
            return [rows.failure_from_row(row, self.codec) for row in conn.execute(query)]

    @asked_again
    def load_step(self, run_id: str, sequence: int) -> StepRecord | None:
        """Return one record of a run by its sequence, or None."""
        query = _steps_of(run_id).where(step_records.c.sequence == sequence).limit(1)
        return self._one_step(query)

    def _one_step(self, query: Select[Any]) -> StepRecord | None:
        with self.asking() as conn:
            row = conn.execute(query).one_or_none()
            if row is None:
                return None
            given = load_input(conn, self.codec, row.run_id, row.sequence, row.input_json)
        return rows.step_from_row(row, self.codec, given)

    def commit(self, change: RunChange) -> RunSummary:
        """Write a change in one transaction and return the run with its new version.

        When the connection is lost in the middle, the change may have been written all the same: its id
        tells. It is written again only when it was not, for up to half a minute.
        """
        if self._locked is not None and not _is_bare_decision(change):
            self.refuse_if_locked()
        before = change.before
        seq, head = end_of(change)
        after = change.after.evolve(
            version=before.version + 1,
            change_id=change.change_id or os.urandom(8).hex(),
            chain_seq=seq,
            chain_head=head,
        )
        try:
            self._surely(partial(self._write, change, after), partial(self._is_written, change, after))
        except IntegrityError as error:
            raise self._translated(change, error) from error
        return after

    def _surely(self, write: Callable[[], None], is_written: Callable[[], bool]) -> None:
        """Write; when the outcome is unknown, find out and write again only what was not written."""
        give_up = time.monotonic() + _UNREACHABLE_SECONDS
        wait, in_doubt = 0.05, False
        while True:
            try:
                write()
                return
            except (IntegrityError, StaleRunError):
                # The first write may have happened after all: then it is our own that is in the way.
                if in_doubt and _answered(is_written):
                    return
                raise
            except DBAPIError as error:
                if _answered(is_written):
                    return
                if not connection_was_lost(error) or time.monotonic() > give_up:
                    raise
            in_doubt = True
            time.sleep(wait)
            wait = min(wait * 2, 2.0)

    def _write(self, change: RunChange, after: RunSummary) -> None:
        if is_plain(change, after):
            self._append_plain(change, after)
            return
        links = links_of(change)
        with self.writing() as conn:
            _update_run_in_tx(conn, change, after, self.codec, self.database_now)
            if change.record is not None:
                values = rows.step_values(after.run_id, change.record, self.codec)
                conn.execute(insert(step_records), values | rows.step_link_values(next(links)))
            for decision in change.decisions:
                conn.execute(insert(decisions), rows.decision_values(decision, self.codec))
            for event, link in zip(change.events, links, strict=True):
                insert_in_tx(conn, event, after.run_id, link, self.codec)

    def _is_written(self, change: RunChange, after: RunSummary) -> bool:
        current = self.load_summary(after.run_id)
        if current is None or current.version < after.version:
            return False
        if current.change_id == after.change_id:
            return True
        # Others changed the run since: what the change wrote beside the run's own row tells.
        if change.record is not None:
            return _is_same_attempt(self.load_step(after.run_id, change.record.sequence), change.record)
        decided = self.list_decisions(after.run_id) if change.decisions else ()
        return any(_is_same_decision(one, change.decisions[0]) for one in decided)

    @asked_again
    def load_workflow(self, run_id: str) -> Sequence[str]:
        """Return the step names a run was started with, empty when none were recorded."""
        with self.asking() as conn:
            text = conn.execute(select(runs.c.workflow_json).where(runs.c.run_id == run_id)).scalar()
        return json.loads(text) if text is not None else []

    def renew_lease(self, run_id: str, owner: str, token: int, seconds: float) -> bool:
        """Let a lease end so many seconds from now by the database's clock; 0 ends it."""
        statement = (
            update(runs)
            .where(runs.c.run_id == run_id, runs.c.lease_owner == owner, runs.c.lease_token == token)
            .values(lease_expires_at=self.database_now(seconds))
        )
        with self.writing() as conn:
            return conn.execute(statement).rowcount == 1

    @asked_again
    def list_decisions(self, run_id: str, *, failure_key: str | None = None) -> Sequence[Decision]:
        """Return the decisions of a run, oldest first; only those of one failure event if given."""
        with self.asking() as conn:
            return _decisions_in_tx(conn, run_id, failure_key, self.codec)

    @asked_again
    def owners_of_keys(self, actor_names: Collection[str]) -> Mapping[str, str]:
        """Return, for the names that are API keys, who made the key; revoked ones count too."""
        names = {key_id: name for name in actor_names if (key_id := key_id_of(name)) is not None}
        if not names:
            return {}
        query = select(api_keys.c.key_id, api_keys.c.created_by).where(api_keys.c.key_id.in_(sorted(names)))
        with self.asking() as conn:
            return {names[row.key_id]: row.created_by for row in conn.execute(query)}

    def append_event(self, event: AuditEvent) -> None:
        """Write an audit event in a transaction of its own."""
        with self.writing() as conn:
            append_in_tx(conn, event, self.codec)

    @asked_again
    def list_events(self, run_id: str) -> Sequence[AuditEvent]:
        """Return the stored audit events of a run, oldest first."""
        query = select(audit_events).where(audit_events.c.run_id == run_id).order_by(audit_events.c.event_id)
        with self.asking() as conn:
            return [rows.event_from_row(row, self.codec) for row in conn.execute(query)]

    @asked_again
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
            select(*rows.SUMMARY_COLUMNS)
            .where(
                runs.c.status.in_([RunStatus.PAUSED.value, RunStatus.FAILED.value, RunStatus.RUNNING.value])
            )
            .where(or_(cleared, transient, interrupted), runs.c.blocked_by.is_(None))
            .where(runs.c.workflow_name.in_(workflow_names))
            .order_by(runs.c.updated_at, runs.c.run_id)
            .limit(limit)
        )
        with self.asking() as conn:
            return [rows.summary_from_row(row, self.codec) for row in conn.execute(query)]

    def _translated(self, change: RunChange, error: IntegrityError) -> Exception:
        key = self._violated(error)
        run_id = change.before.run_id
        if key == "uq_decisions_failure_kind" and change.decisions:
            for decision in self.list_decisions(run_id, failure_key=change.decisions[0].failure_key):
                if (decision.kind, decision.ordinal) == (
                    change.decisions[0].kind,
                    change.decisions[0].ordinal,
                ):
                    return AlreadyDecidedError(decision)
        if key == "uq_step_records_completed_key" and change.record is not None:
            record = change.record
            return IdempotencyCollisionError(
                f"Run {run_id}, step {record.step_index} {record.step_name!r}: a completed record "
                f"has the key {record.idempotency_key} already. "
                "Read the run again; the step must not be recorded twice."
            )
        if key == "uq_step_records_run_sequence" and change.record is not None:
            return StaleRunError(
                run_id, f"no record at sequence {change.record.sequence}", "another record there"
            )
        return error


def _is_bare_decision(change: RunChange) -> bool:
    """Return whether a change is a person's decision without any words of theirs."""
    silent = all(decision.note is None and decision.result is None for decision in change.decisions)
    return bool(change.decisions) and silent and change.record is None


def _steps_of(run_id: str, columns: Sequence[Any] = (step_records,)) -> Any:
    return (
        select(*columns)
        .where(step_records.c.run_id == run_id)
        .order_by(step_records.c.sequence, step_records.c.legacy_duplicate)
    )


def _after_position(position: tuple[int, int]) -> Any:
    return tuple_(step_records.c.sequence, step_records.c.legacy_duplicate) > tuple_(*map(literal, position))


def _update_run_in_tx(
    conn: Connection,
    change: RunChange,
    after: RunSummary,
    codec: PayloadCodec,
    database_now: Callable[[float], Any],
) -> None:
    values = rows.summary_values(after, codec)
    if after.failure == change.before.failure:
        del values["failure_message"]  # it stands already, and sealing it anew would only cost time
    if change.lease_seconds is not None:
        values["lease_expires_at"] = database_now(change.lease_seconds)
    if change.workflow is not None:
        values["workflow_json"] = json.dumps(list(change.workflow))
    if change.initial_input is not None:
        values["initial_input_json"] = codec.encode(change.initial_input)
    if change.metadata is not None:
        values["metadata_json"] = rows.encode_metadata(change.metadata, codec)
    still = [runs.c.run_id == after.run_id, runs.c.version == change.before.version]
    if change.before.lease_owner is not None and after.lease_token != change.before.lease_token:
        # A heartbeat does not change the version: an owner that lives after all keeps its run.
        still.append(runs.c.lease_expires_at == change.before.lease_expires_at)
    written = conn.execute(update(runs).where(*still).values(values))
    if written.rowcount != 1:
        raise moved_on(change)


def _answered(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except DBAPIError:
        return False  # still away: the next round finds out


def _is_same_attempt(stored: StepRecord | None, given: StepRecord) -> bool:
    return stored is not None and _attempt_of(stored) == _attempt_of(given)


def _attempt_of(record: StepRecord) -> tuple[object, ...]:
    return record.idempotency_key, record.status, record.attempt, record.worker, record.started_at


def _is_same_decision(stored: Decision, given: Decision) -> bool:
    return _decided_by(stored) == _decided_by(given)


def _decided_by(decision: Decision) -> tuple[object, ...]:
    return decision.failure_key, decision.kind, decision.actor, decision.channel, decision.decided_at


def moved_on(change: RunChange) -> StaleRunError:
    """Return the error for a change that was based on an outdated version of its run."""
    return StaleRunError(change.before.run_id, f"version {change.before.version}", "a newer version")


def _decisions_in_tx(
    conn: Connection, run_id: str, failure_key: str | None, codec: PayloadCodec
) -> list[Decision]:
    query = select(decisions).where(decisions.c.run_id == run_id).order_by(decisions.c.decision_id)
    if failure_key is not None:
        query = query.where(decisions.c.failure_key == failure_key)
    return [rows.decision_from_row(row, codec) for row in conn.execute(query)]
