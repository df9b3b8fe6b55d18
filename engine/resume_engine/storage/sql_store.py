"""The store shared by SQLite and PostgreSQL: how runs are written."""

from __future__ import annotations

import os
import secrets
from functools import partial

from sqlalchemy import insert, update
from sqlalchemy.exc import IntegrityError

from resume_engine.core import clock
from resume_engine.core.actor import ENGINE_ACTOR, Actor
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.audit_chain import end_of, event_link, links_of
from resume_engine.core.errors import (
    AlreadyDecidedError,
    IdempotencyCollisionError,
    RunExistsError,
    RunNotFoundError,
    StaleRunError,
)
from resume_engine.core.execution import assert_open
from resume_engine.core.gate_closing import closed_in_time
from resume_engine.core.interruption import assert_may_continue
from resume_engine.core.lease import assert_idle
from resume_engine.core.open_failures import after_record
from resume_engine.core.outside_writes import (
    check_new_run,
    check_record,
    check_run,
    is_same_write,
    with_status,
)
from resume_engine.core.roll_back_plan import assert_none_under_way
from resume_engine.core.run import FINISHED_STATUSES, Run
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step_record import StepRecord
from resume_engine.core.store import CheckpointStore
from resume_engine.storage import audit_rows, run_rows, step_rows
from resume_engine.storage.audit_log import append_in_tx, insert_in_tx
from resume_engine.storage.doubtful_write import is_same_attempt, is_same_decision, surely
from resume_engine.storage.run_reader import RunReader
from resume_engine.storage.run_update import update_run_in_tx
from resume_engine.storage.schema import decisions, runs, step_records
from resume_engine.storage.step_append import is_plain

# The row of a run, as SQLite's table of names has it and as PostgreSQL named it; and the events of one
# that was deleted after it was finished: they keep its id.
_RUN_ID_KEYS = ("pk_runs", "runs_pkey", "uq_audit_events_stream")


class SqlCheckpointStore(RunReader, CheckpointStore):
    """Keep runs in a SQL database."""

    def _append_plain(self, change: RunChange, after: RunSummary) -> None:
        """Write a change that `step_append.is_plain` allows, in one transaction."""
        raise NotImplementedError

    # The 0.2.0 calls

    def create_run(self, run: Run, *, actor: Actor = ENGINE_ACTOR, change_id: str | None = None) -> None:
        """Write a new run and its `run.started` event; raise `RunExistsError` if the id is taken."""
        self.refuse_if_locked()
        check_new_run(run)
        payload = {"workflow_name": run.workflow_name, "environment": run.environment.value}
        if run.status in FINISHED_STATUSES:
            payload["status"] = run.status.value  # no other event tells of its end
        event = AuditEvent.by(
            actor, EventType.RUN_STARTED, run.created_at, run_id=run.run_id, payload=payload
        )
        change_id = change_id or secrets.token_hex(8)
        link = event_link(run.run_id, 0, None, event)
        values = run_rows.run_values(run, actor.name, self.codec)
        values |= {"change_id": change_id, "chain_seq": link.seq, "chain_head": link.hash}

        def write() -> None:
            with self.committing(statements=2) as conn:
                conn.execute(insert(runs), values)
                insert_in_tx(conn, event, run.run_id, link, self.codec)

        def is_written() -> bool:
            created = self.load_summary(run.run_id)
            return created is not None and created.change_id == change_id

        try:
            surely(write, is_written)
        except IntegrityError as error:
            if self._violated(error) not in _RUN_ID_KEYS:
                raise
            raise RunExistsError(run.run_id) from error

    def update_run(self, run: Run, *, actor: Actor = ENGINE_ACTOR) -> None:
        """Write status and metadata of `run`; `metadata["gates"]` is a view and is not written."""
        before = self.load_summary(run.run_id)
        if before is None:
            raise RunNotFoundError(run.run_id)
        check_run(run)
        before = closed_in_time(self, before, ENGINE_ACTOR)
        after = with_status(before, run.status, clock.utc_now())
        if after.status is not before.status:
            assert_none_under_way(self, before)
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
        assert_may_continue(self, run, None, ENGINE_ACTOR)  # of a run that an executor left in the middle
        if step.sequence != run.next_sequence:
            raise StaleRunError(run_id, f"sequence {run.next_sequence}", f"sequence {step.sequence}")
        self.commit(RunChange(before=run, after=after_record(self, run, step), record=step))

    # What the engine needs beside them

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
            surely(partial(self._write, change, after), partial(self._is_written, change, after))
        except IntegrityError as error:
            raise self._translated(change, error) from error
        return after

    def _write(self, change: RunChange, after: RunSummary) -> None:
        if is_plain(change, after):
            self._append_plain(change, after)
            return
        links = links_of(change)
        written = 1 + (change.record is not None) + len(change.decisions) + len(change.events)
        with self.committing(statements=written) as conn:
            update_run_in_tx(conn, change, after, self.codec, self.database_now)
            if change.record is not None:
                values = step_rows.step_values(after.run_id, change.record, self.codec)
                conn.execute(insert(step_records), values | step_rows.step_link_values(next(links)))
            for decision in change.decisions:
                conn.execute(insert(decisions), audit_rows.decision_values(decision, self.codec))
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
            return is_same_attempt(self.load_step(after.run_id, change.record.sequence), change.record)
        decided = self.list_decisions(after.run_id) if change.decisions else ()
        return any(is_same_decision(one, change.decisions[0]) for one in decided)

    def renew_lease(self, run_id: str, owner: str, token: int, seconds: float) -> bool:
        """Let a lease end so many seconds from now by the database's clock; 0 ends it."""
        statement = (
            update(runs)
            .where(runs.c.run_id == run_id, runs.c.lease_owner == owner, runs.c.lease_token == token)
            .values(lease_expires_at=self.database_now(seconds))
        )
        with self.writing() as conn:
            return conn.execute(statement).rowcount == 1

    def append_event(self, event: AuditEvent) -> None:
        """Write an audit event in a transaction of its own."""
        with self.writing() as conn:
            append_in_tx(conn, event, self.codec)

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
