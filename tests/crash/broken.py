"""Take one protection out of the engine of this process, to see that the tests notice.

The names in `CRASH_TEST_BROKEN` (joined by `+`) say which. Only the tests of this folder know that variable.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from resume_engine.core import (
    decision_end,
    decision_request,
    decisions,
    execution,
    executor,
    gate_closing,
    gate_standing,
    interruption,
    judgement,
    lease,
    roll_back,
    run_summary,
    runner_change,
    workflow,
)
from resume_engine.core.audit_chain import links_of
from resume_engine.core.errors import StaleRunError
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.storage import database, forwarding, run_rows, schema_version, sql_store, sqlite_backend
from resume_engine.storage.migrations import legacy_0_2_0
from resume_engine.storage.sql_store import SqlCheckpointStore

VARIABLE = "CRASH_TEST_BROKEN"
_Write = Callable[[SqlCheckpointStore, RunChange, RunSummary], None]


def break_engine(names: str | None = None) -> None:
    """Break what is asked for."""
    for name in (os.environ.get(VARIABLE, "") if names is None else names).split("+"):
        if name:
            BREAKS[name]()


@contextmanager
def taken_out(names: str) -> Iterator[None]:
    """Break the engine of this very process while the block runs."""
    before = [(holder, name, getattr(holder, name)) for holder, name in _REPLACED]
    break_engine(names)
    try:
        yield
    finally:
        for holder, name, value in before:
            setattr(holder, name, value)


def _no_version_check() -> None:
    """Write whatever the run has become meanwhile, behind what is there."""
    write: _Write = SqlCheckpointStore._write

    def unchecked(store: SqlCheckpointStore, change: RunChange, after: RunSummary) -> None:
        for _ in range(50):  # somebody writes between the look and the write: look again
            with suppress(StaleRunError, IntegrityError):
                write(store, *_rebased(store, change, after))
                return
        write(store, change, after)

    SqlCheckpointStore._write = unchecked  # type: ignore[method-assign]


def _rebased(store: SqlCheckpointStore, change: RunChange, after: RunSummary) -> tuple[RunChange, RunSummary]:
    now = store.load_summary(after.run_id)
    assert now is not None
    sequence = now.next_sequence
    if change.record is not None:
        change.record.sequence = sequence
        change.record.follows_from = None  # what it follows from may stand elsewhere, too
        after = after.evolve(next_sequence=sequence + 1)
    before = change.before.evolve(
        version=now.version,
        lease_expires_at=now.lease_expires_at,
        chain_seq=now.chain_seq,
        chain_head=now.chain_head,
    )
    rebased = replace(change, before=before)
    ends = [{"chain_seq": link.seq, "chain_head": link.hash} for link in links_of(rebased)][-1:]
    return rebased, after.evolve(version=now.version + 1, **(ends[0] if ends else {}))


def _no_lease() -> None:
    """Let everybody take every run; a lease does not end and is never lost."""
    lease.Lease._assert_idle = lambda *_: None  # type: ignore[method-assign]
    lease.Lease.assert_trusted = lambda *_: None  # type: ignore[method-assign]


def _no_intent() -> None:
    """Do not write what is about to be done."""
    run_rows.in_flight_text = lambda *_: None


def _random_key() -> None:
    """Make every attempt look like another call to its receiver, and let a resume not mind."""
    workflow._assert_same_attempt = lambda *_: None
    execution.generate_idempotency_key = lambda *_: secrets.token_hex(32)


def _early_answer() -> None:
    """Answer before the write: the last one is done when the next one comes."""
    write: _Write = SqlCheckpointStore._write
    waiting: dict[str, tuple[RunChange, RunSummary]] = {}

    def later(store: SqlCheckpointStore, change: RunChange, after: RunSummary) -> None:
        if after.run_id in waiting:
            write(store, *waiting.pop(after.run_id))
        if change.record is None:
            write(store, change, after)
        else:
            waiting[after.run_id] = (change, after)

    SqlCheckpointStore._write = later  # type: ignore[method-assign]


def _forgetful_plan() -> None:
    """Do not see which steps are completed."""
    plan = workflow.plan

    def forgetful(store: Any, run: RunSummary, *arguments: Any) -> workflow.Plan:
        made = plan(store, run, *arguments)
        return replace(made, first_index=0, state=made.initial_input, outputs={})

    workflow.plan = forgetful


def _no_change_id() -> None:
    """Do not find out what became of a write whose answer was lost; write again."""
    SqlCheckpointStore._is_written = lambda *_: False  # type: ignore[method-assign]


def _write_errors_ignored() -> None:
    """Take a write that failed for one that was done."""
    write: _Write = SqlCheckpointStore._write

    def careless(store: SqlCheckpointStore, change: RunChange, after: RunSummary) -> None:
        with suppress(Exception):
            write(store, change, after)

    SqlCheckpointStore._write = careless  # type: ignore[method-assign]


def _no_waiting_for_the_lock() -> None:
    """Fail at once while another process writes to the SQLite file."""
    sqlite_backend.BUSY_TIMEOUT_SECONDS = 0.0


def _no_sync_at_commit() -> None:
    """Leave it to the checkpoints to bring the log to the platter."""
    create = sqlite_backend._create_engine

    def careless(url: Any) -> Any:
        engine = create(url)
        event.listen(engine, "connect", lambda made, _: made.execute("PRAGMA synchronous=NORMAL").close())
        return engine

    sqlite_backend._create_engine = careless


def _no_kept_wait() -> None:
    """Forget until when a retry waits."""
    values = run_rows.summary_values
    run_rows.summary_values = lambda *arguments: {**values(*arguments), "retry_at": None}


def _no_takeover_limit() -> None:
    """Let a step take down as many executors as it likes."""
    interruption.MAX_TAKEOVERS = 10**9


def _forgotten_rollback() -> None:
    """Do not see that a rollback was begun."""
    roll_back.begun = lambda *_: None


def _trusted_mark() -> None:
    """Believe the forwarder's own mark, and do not ask what the control plane holds."""
    forwarding.Forwarding._looked_up = _unasked  # type: ignore[method-assign]


def _unasked(self: Any, here: Any, _: Any) -> Any:
    return self._remote.load_summary(here.run_id) or self._started(here)


def _early_mark() -> None:
    """Note records as forwarded before they are."""
    recorded = forwarding.Forwarding._recorded

    def marked(self: Any, here: Any, there: Any, record: Any) -> Any:
        mark = self._marks.load(here.run_id)
        mark.records = record.sequence + 1
        self._marks.save(mark)
        return recorded(self, here, there, record)

    forwarding.Forwarding._recorded = marked  # type: ignore[method-assign]


def _upgrade_in_pieces() -> None:
    """Commit in the middle of an upgrade."""
    carry_over = legacy_0_2_0.carry_over

    def committed(conn: Any) -> None:
        carry_over(conn)
        conn.exec_driver_sql("COMMIT")
        conn.exec_driver_sql("BEGIN")

    legacy_0_2_0.carry_over = committed


def _looked_before_its_turn() -> None:
    """Upgrade what was there before others were waited for."""
    upgrade = database.upgrade

    def hasty(engine: Any, lock: Any, codec: Any) -> tuple[str, str]:
        with engine.begin() as conn:
            found = schema_version.found_schema(conn)
        schema_version.found_schema = lambda _: found
        return upgrade(engine, lock, codec)

    database.upgrade = hasty


def _no_gate_check() -> None:
    """Let everybody go on, whatever is closed."""
    for module in (executor, runner_change, sql_store):
        module.assert_open = lambda *_: None  # type: ignore[attr-defined]


def _outside_records_pass() -> None:
    """Take every record that is made elsewhere."""
    sql_store.assert_open = lambda *_: None  # type: ignore[attr-defined]
    sql_store.assert_may_continue = lambda *_: None  # type: ignore[attr-defined]


def _interruptions_pass() -> None:
    """Ask nobody after an interruption."""
    for module in (executor, runner_change, sql_store):
        module.assert_may_continue = lambda *_: None  # type: ignore[attr-defined]


def _forgotten_question() -> None:
    """Forget with an intent that its step wants a person to look when it is interrupted."""
    text = run_rows.in_flight_text
    run_rows.in_flight_text = lambda steps: text(tuple(step._replace(asked=False) for step in steps))


def _one_decision_for_all() -> None:
    """Let a decision open the later failures of its step, too."""
    after_failure = run_summary._after_failure

    def opened(run: RunSummary, moved: RunSummary, record: Any) -> RunSummary:
        after = after_failure(run, moved, record)
        decided = run.failure is not None and run.failure.step_index == record.step_index
        return after.evolve(blocked_by=(), blocked_since=None) if decided and not run.blocked_by else after

    run_summary._after_failure = opened


def _old_decisions_count() -> None:
    """Take a decision about an older failure for one about the current one."""
    judged = decisions._judged
    decisions._judged = lambda store, request, *rest: judged(store, replace(request, failure_key=None), *rest)


def _no_end_of_decisions() -> None:
    """Let a decision count for ever."""
    for module in (decision_end, gate_closing):
        module.is_over = lambda *_: False  # type: ignore[attr-defined]


def _everybody_decides() -> None:
    """Object to nobody's decision."""
    decision_request.role_allows = lambda *_: True  # type: ignore[attr-defined]
    judgement.objection = lambda *_: None  # type: ignore[attr-defined]


def _one_person_is_several() -> None:
    """Count decisions, not people."""
    gate_standing.person_behind = lambda decision, _: str(decision.ordinal)


def _shared_connections() -> None:
    """Let the child of a fork use its parent's connections and lease."""
    lease.os = _OneProcess()  # type: ignore[assignment]


class _OneProcess:
    environ = os.environ

    @staticmethod
    def getpid() -> int:
        return 1


_REPLACED: tuple[tuple[Any, str], ...] = (
    (SqlCheckpointStore, "_write"),
    (SqlCheckpointStore, "_is_written"),
    (lease.Lease, "_assert_idle"),
    (lease.Lease, "assert_trusted"),
    (lease, "os"),
    (run_rows, "in_flight_text"),
    (run_rows, "summary_values"),
    (execution, "generate_idempotency_key"),
    (workflow, "plan"),
    (workflow, "_assert_same_attempt"),
    (interruption, "MAX_TAKEOVERS"),
    (sqlite_backend, "BUSY_TIMEOUT_SECONDS"),
    (sqlite_backend, "_create_engine"),
    *((module, "assert_open") for module in (executor, runner_change, sql_store)),
    *((module, "assert_may_continue") for module in (executor, runner_change, sql_store)),
    (run_summary, "_after_failure"),
    (decisions, "_judged"),
    (decision_end, "is_over"),
    (gate_closing, "is_over"),
    (decision_request, "role_allows"),
    (judgement, "objection"),
    (gate_standing, "person_behind"),
)
"""Everything that the functions above replace."""

BREAKS: Mapping[str, Callable[[], None]] = {
    "no_version_check": _no_version_check,
    "no_lease": _no_lease,
    "no_intent": _no_intent,
    "random_key": _random_key,
    "early_answer": _early_answer,
    "forgetful_plan": _forgetful_plan,
    "no_change_id": _no_change_id,
    "write_errors_ignored": _write_errors_ignored,
    "no_waiting_for_the_lock": _no_waiting_for_the_lock,
    "no_sync_at_commit": _no_sync_at_commit,
    "no_kept_wait": _no_kept_wait,
    "no_takeover_limit": _no_takeover_limit,
    "forgotten_rollback": _forgotten_rollback,
    "shared_connections": _shared_connections,
    "upgrade_in_pieces": _upgrade_in_pieces,
    "looked_before_its_turn": _looked_before_its_turn,
    "trusted_mark": _trusted_mark,
    "early_mark": _early_mark,
    "no_gate_check": _no_gate_check,
    "outside_records_pass": _outside_records_pass,
    "interruptions_pass": _interruptions_pass,
    "forgotten_question": _forgotten_question,
    "one_decision_for_all": _one_decision_for_all,
    "old_decisions_count": _old_decisions_count,
    "no_end_of_decisions": _no_end_of_decisions,
    "everybody_decides": _everybody_decides,
    "one_person_is_several": _one_person_is_several,
}
