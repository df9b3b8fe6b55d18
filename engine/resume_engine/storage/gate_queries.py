"""What the gate queue asks: one stopped run with its evidence, and what was decided lately."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Select, String, and_, cast, func, literal, select

from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.decision import Decision, DecisionKind
from resume_engine.core.errors import InvalidValueError
from resume_engine.core.gate_standing import GateStanding, standing_of
from resume_engine.core.policy import Origin, Policy, Requirement
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step_record import COMPLETED_STATUSES, StepKind
from resume_engine.storage import previews, run_rows
from resume_engine.storage.driver import asked_again
from resume_engine.storage.payload_codec import PayloadCodec
from resume_engine.storage.schema import audit_events, decisions, runs, step_records
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.step_queries import (
    PREVIEW_CHARACTERS,
    STEP_VIEW_COLUMNS,
    AttemptMark,
    StepView,
    step_view_from_row,
)

_LATER_ATTEMPTS = 4  # enough to hold a compensation, the retried step and what follows it
_FAILURE_KEY = re.compile(r"[0-9]{1,9}:[0-9]{1,9}")  # more digits fit no column
_STEP, _DECISION = "step__", "decision__"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One failure event of a run with the evidence that a decision is based on.

    `failed` is the failed attempt (None when its record is gone); `last_output` is the beginning of the
    output of the step completed before it.
    """

    run: RunSummary
    failure_key: str | None
    failed: StepView | None
    last_output: str | None = None
    last_output_size: int | None = None
    decisions: Sequence[Decision] = ()


@dataclass(frozen=True, kw_only=True)
class Aftermath:
    """What happened to a run after a failure was decided."""

    resumed: AuditEvent | None
    attempts: Sequence[AttemptMark]


@dataclass(frozen=True, kw_only=True)
class Decided:
    """One decision and the run as it stands now."""

    decision: Decision
    run: RunSummary


class GateQueries:
    """Answer the questions of the gate queue."""

    def __init__(self, store: SqlCheckpointStore) -> None:
        self._store = store

    def oldest_waiting(self) -> Case | None:
        """Return the run that waits longest for a person, with all its evidence.

        One statement, and another when some of what it needs was decided already.
        """
        run_key = cast(runs.c.failure_step_index, String) + ":" + cast(runs.c.failure_sequence, String)
        query = (
            case_query(runs.c.failure_sequence)
            .add_columns(*labelled(decisions.c, _DECISION))
            .outerjoin(
                decisions, and_(decisions.c.run_id == runs.c.run_id, decisions.c.failure_key == run_key)
            )
            .where(runs.c.blocked_by.is_not(None))
            .order_by(runs.c.blocked_since, runs.c.run_id)
            .limit(1)
        )
        with self._store.asking() as conn:
            row = conn.execute(query).one_or_none()
        if row is None:
            return None
        case = case_from_row(row, None, (), self._store.codec)
        if part(row, _DECISION).decision_id is None:
            return case
        return replace(case, decisions=self._decisions_about([case.run]).get(case.run.run_id, ()))

    @asked_again
    def load_case(self, run_id: str, failure_key: str | None = None) -> Case | None:
        """Return one failure event of a run, the current one by default, or None; two statements.

        Raises `InvalidValueError` for a key that no failure can have.
        """
        sequence = runs.c.failure_sequence if failure_key is None else literal(_sequence_of(failure_key))
        with self._store.viewing() as conn:
            row = conn.execute(case_query(sequence).where(runs.c.run_id == run_id).limit(1)).one_or_none()
            if row is None:
                return None
            case_found = case_from_row(row, failure_key, (), self._store.codec)
            found = conn.execute(
                select(decisions)
                .where(decisions.c.run_id == run_id, decisions.c.failure_key == case_found.failure_key)
                .order_by(decisions.c.decision_id)
            ).all()
        decided = [previews.decision(r, self._store.codec) for r in found]
        return case_from_row(row, failure_key, decided, self._store.codec)

    def progress(
        self, several: Sequence[RunSummary], policy: Policy, at: datetime
    ) -> dict[str, list[GateStanding]]:
        """Return how far the closed gates of some runs are, by run id; two statements at most.

        Runs that no rule of the policy concerns are left out; without a policy nothing is read.
        """
        needed = {run.run_id: _requirements(run, policy) for run in several}
        ruled = [run for run in several if any(r.rule is not None for r in needed[run.run_id].values())]
        if not ruled:
            return {}
        made = self._decisions_about(ruled)
        names = {d.actor for found in made.values() for d in found}
        owners = self._store.owners_of_keys({*names, *(r.started_by for r in ruled if r.started_by)})
        found = {}
        for run in ruled:
            origin, decided = Origin(started_by=run.started_by, owners=owners), made.get(run.run_id, ())
            found[run.run_id] = [
                standing_of(action, requirement, decided, origin, at)
                for action, requirement in needed[run.run_id].items()
            ]
        return found

    def _decisions_about(self, several: Sequence[RunSummary]) -> dict[str, list[Decision]]:
        """Return the decisions about the current failures of some runs, by run id, in order."""
        current = {run.run_id: run.failure.key for run in several if run.failure is not None}
        query = (
            select(decisions).where(decisions.c.run_id.in_(sorted(current))).order_by(decisions.c.decision_id)
        )
        found: dict[str, list[Decision]] = {}
        with self._store.asking() as conn:
            for row in conn.execute(query):
                if row.failure_key == current[row.run_id]:
                    found.setdefault(row.run_id, []).append(previews.decision(row, self._store.codec))
        return found

    @asked_again
    def load_aftermath(self, run_id: str, sequence: int, since: datetime) -> Aftermath:
        """Return the first resume after `since` and the attempts behind `sequence`; two statements."""
        resumed = (
            select(audit_events)
            .where(audit_events.c.run_id == run_id, audit_events.c.created_at >= since)
            .where(audit_events.c.event_type == EventType.RUN_RESUMED.value)
            .order_by(audit_events.c.event_id)
            .limit(1)
        )
        attempts = (
            select(*STEP_VIEW_COLUMNS)
            .where(step_records.c.run_id == run_id, step_records.c.sequence > sequence)
            .where(step_records.c.kind == StepKind.STEP.value)
            .order_by(step_records.c.sequence)
            .limit(_LATER_ATTEMPTS)
        )
        with self._store.viewing() as conn:
            event = conn.execute(resumed).one_or_none()
            found = conn.execute(attempts).all()
        return Aftermath(
            resumed=previews.event(event, self._store.codec) if event is not None else None,
            attempts=[step_view_from_row(row, self._store.codec) for row in found],
        )

    def decided_since(self, since: datetime, *, limit: int = 50) -> list[Decided]:
        """Return what was decided since then, newest first, with the runs as they stand now."""
        query = (
            select(*run_rows.SUMMARY_COLUMNS, *labelled(decisions.c, _DECISION))
            .join(runs, runs.c.run_id == decisions.c.run_id)
            .where(decisions.c.decided_at >= since)
            .order_by(decisions.c.decided_at.desc(), decisions.c.decision_id.desc())
            .limit(limit)
        )
        with self._store.asking() as conn:
            found = conn.execute(query).all()
        return [
            Decided(
                decision=previews.decision(part(row, _DECISION), self._store.codec),
                run=previews.run(row, self._store.codec),
            )
            for row in found
        ]


def _requirements(run: RunSummary, policy: Policy) -> dict[GateAction, Requirement]:
    return {
        action: policy.requirement(DecisionKind(action.value), run.environment, run.workflow_name)
        for action in run.blocked_by
    }


def case_query(sequence: Any) -> Select[Any]:
    earlier = (
        select(previews.beginning(step_records.c.output_json, PREVIEW_CHARACTERS))
        .where(step_records.c.run_id == runs.c.run_id, step_records.c.sequence < sequence)
        .where(step_records.c.kind == StepKind.STEP.value, step_records.c.status.in_(COMPLETED_STATUSES))
        .order_by(step_records.c.sequence.desc())
        .limit(1)
        .correlate(runs)
    )
    size = earlier.with_only_columns(func.length(step_records.c.output_json))
    return select(
        *run_rows.SUMMARY_COLUMNS,
        *labelled(STEP_VIEW_COLUMNS, _STEP),
        earlier.scalar_subquery().label("last_output"),
        size.scalar_subquery().label("last_output_size"),
    ).select_from(
        runs.outerjoin(
            step_records,
            and_(step_records.c.run_id == runs.c.run_id, step_records.c.sequence == sequence),
        )
    )


def case_from_row(
    row: Any, failure_key: str | None, decided: Sequence[Decision], codec: PayloadCodec
) -> Case:
    run = previews.run(row, codec)
    output, size = previews.json_start(codec, row.last_output, row.last_output_size, PREVIEW_CHARACTERS)
    step = part(row, _STEP)
    return Case(
        run=run,
        failure_key=failure_key or (run.failure.key if run.failure else None),
        failed=step_view_from_row(step, codec) if step.sequence is not None else None,
        last_output=output,
        last_output_size=size,
        decisions=decided,
    )


def labelled(columns: Any, prefix: str) -> list[Any]:
    """Return columns of a joined table under names that begin with `prefix`; `part` reads them."""
    return [column.label(prefix + column.name) for column in columns]


def part(row: Any, prefix: str) -> SimpleNamespace:
    """Return the columns of a joined row that carry `prefix`, under their own names."""
    found = row._mapping
    return SimpleNamespace(
        **{name.removeprefix(prefix): found[name] for name in found if str(name).startswith(prefix)}
    )


def _sequence_of(failure_key: str) -> int:
    if not _FAILURE_KEY.fullmatch(failure_key):
        raise InvalidValueError(
            "failure", f"{failure_key[:40]!r} is no failure key; expected step:sequence, as in 12:13"
        )
    return int(failure_key.partition(":")[2])
