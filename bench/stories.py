"""Runs that the engine itself wrote, one for each way in which a run can go: they are stamped many times.

Every workflow is run in every environment to every outcome, on a store in memory and with a clock that the
steps move on; what the store then holds is the story. So a benchmark database holds nothing that the engine
would not have written.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Table, select

from bench.workflows import BACKFILL, ENVIRONMENTS, EXECUTORS, PEOPLE, WORKFLOWS, Workflow, failure
from resume_engine.core import clock
from resume_engine.core.decisions import DecisionKind, DecisionRequest, decide
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.idempotency import hash_input
from resume_engine.core.policy import NO_POLICY
from resume_engine.core.resume_gates import required_actions
from resume_engine.core.run import Environment, Run, RunStatus
from resume_engine.core.step import Step
from resume_engine.core.step_record import FailureClassification
from resume_engine.storage.schema import audit_events, decisions, runs, step_records
from resume_engine.storage.sqlite_backend import SQLiteCheckpointStore

Row = dict[str, Any]
LEASE_SECONDS = 30
STORY_TIME = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


class Outcome(StrEnum):
    """How a run of the benchmark goes."""

    COMPLETED = "completed"  # without any failure
    RETRIED = "retried"  # failed as transient, resumed, completed
    MENDED = "mended"  # failed, decided by a person, resumed, completed
    FAILED = "failed"  # a transient failure that waits for its retry
    BLOCKED = "blocked"  # waits for a person
    HALF_DECIDED = "half_decided"  # one of two decisions is made
    CLEARED = "cleared"  # decided, not yet resumed
    REJECTED = "rejected"
    RUNNING = "running"  # its executor is at work
    INTERRUPTED = "interrupted"  # its executor vanished
    PENDING = "pending"


@dataclass(frozen=True, kw_only=True)
class Story:
    """The rows of one run; `key` names workflow, environment and outcome."""

    key: tuple[str, Environment, Outcome]
    run: Row
    steps: Sequence[Row]
    decisions: Sequence[Row]
    events: Sequence[Row]
    in_flight_hash: str | None = None  # of the input of the step at which the executor is


class _Vanish(BaseException):
    """Leave a workflow the way a killed process does: nothing is recorded."""


class StoryTeller:
    """Tell stories on a store in memory."""

    def __init__(self, seed: int = 2) -> None:
        self._rng = random.Random(seed)
        self._clock = clock.ManualClock(STORY_TIME)
        self._store = SQLiteCheckpointStore("sqlite:///:memory:")
        self._input_hash = ""

    def tell_all(self, workflows: Sequence[Workflow] = WORKFLOWS) -> list[Story]:
        """Return a story for every workflow, environment and outcome that can happen there."""
        with clock.replaced_by(self._clock):
            return [
                self._tell(workflow.name, workflow.steps, environment, outcome)
                for workflow in workflows
                for environment, _ in ENVIRONMENTS
                for outcome in possible(environment)
            ]

    def tell_long(self, steps: int, outcome: Outcome) -> Story:
        """Return the story of a run with very many steps."""
        with clock.replaced_by(self._clock):
            names = tuple(f"load_part_{number:05d}" for number in range(1, steps + 1))
            return self._tell(BACKFILL, names, Environment.PROD, outcome, fail_at=steps - 1)

    def _tell(
        self,
        name: str,
        steps: Sequence[str],
        environment: Environment,
        outcome: Outcome,
        *,
        fail_at: int | None = None,
    ) -> Story:
        self._clock.move_to(STORY_TIME)
        engine = ResumeEngine(self._store, owner=self._rng.choice(EXECUTORS), lease_seconds=LEASE_SECONDS)
        metadata = {"tenant": self._rng.choice(["north", "south", "west"]), "model": "m-large-3"}
        if outcome is Outcome.PENDING:
            pending = Run(
                run_id=self._next_id(), workflow_name=name, metadata=metadata, environment=environment,
                status=RunStatus.PENDING,
            )  # fmt: skip
            self._store.create_run(pending)
            return self._read(pending.run_id, (name, environment, outcome))
        run = engine.start_run(name, run_id=self._next_id(), metadata=metadata, environment=environment)
        where = self._rng.randrange(len(steps)) if fail_at is None else fail_at
        self._play(engine, run.run_id, steps, where, environment, outcome)
        return self._read(run.run_id, (name, environment, outcome))

    def _play(
        self,
        engine: ResumeEngine,
        run_id: str,
        steps: Sequence[str],
        fail_at: int,
        environment: Environment,
        outcome: Outcome,
    ) -> None:
        initial = {"case": self._rng.randrange(10**8), "amount": f"{self._rng.uniform(5, 9000):.2f}"}
        smooth = [Step(step, self._work(None)) for step in steps]
        if outcome is Outcome.COMPLETED:
            engine.execute_workflow(run_id, smooth, initial_input=initial)
            return
        problem: BaseException = _Vanish()
        if outcome not in (Outcome.RUNNING, Outcome.INTERRUPTED):
            problem = failure(self._class_of(outcome, environment), self._rng)
        rough = [Step(s, self._work(problem if at == fail_at else None)) for at, s in enumerate(steps)]
        try:
            engine.execute_workflow(run_id, rough, initial_input=initial)
        except (Exception, _Vanish):
            self._aftermath(engine, run_id, smooth, outcome)

    def _class_of(self, outcome: Outcome, environment: Environment) -> FailureClassification:
        if outcome in (Outcome.RETRIED, Outcome.FAILED) and environment is not Environment.PROD:
            return FailureClassification.TRANSIENT
        gated = [FailureClassification.PERMANENT, FailureClassification.PARTIAL]
        if environment is Environment.PROD and outcome is not Outcome.HALF_DECIDED:
            gated.append(FailureClassification.TRANSIENT)
        return self._rng.choice(gated)

    def _aftermath(self, engine: ResumeEngine, run_id: str, steps: Sequence[Step], outcome: Outcome) -> None:
        self._clock.advance(self._rng.uniform(30, 6 * 3600))
        if outcome in (Outcome.MENDED, Outcome.CLEARED, Outcome.RETRIED):
            self._decide(run_id, all_of_them=True)
        if outcome is Outcome.HALF_DECIDED:
            self._decide(run_id, all_of_them=False)
        if outcome is Outcome.REJECTED:
            self._decide_one(run_id, DecisionKind.REJECT)
        if outcome in (Outcome.MENDED, Outcome.RETRIED):
            self._clock.advance(self._rng.uniform(1, 20))
            engine.resume(run_id, steps)

    def _decide(self, run_id: str, *, all_of_them: bool) -> None:
        run = self._store.load_summary(run_id)
        assert run is not None and run.failure is not None
        actions = required_actions(run.failure.classification, run.environment)
        for action in actions if all_of_them else actions[:1]:
            if action in run.blocked_by:
                self._decide_one(run_id, DecisionKind(action.value))
                self._clock.advance(self._rng.uniform(5, 600))

    def _decide_one(self, run_id: str, kind: DecisionKind) -> None:
        result = {"refund_id": "r-20931"} if kind is DecisionKind.COMPENSATION else None
        note = "Checked with the team; see the case file."
        actor = self._rng.choice(PEOPLE)
        decide(
            self._store,
            DecisionRequest(run_id=run_id, kind=kind, actor=actor, note=note, result=result),
            NO_POLICY,
        )

    def _work(self, problem: BaseException | None) -> Any:
        def work(state: Row, key: str) -> Row:
            self._clock.advance(self._rng.lognormvariate(-0.5, 1.2))
            self._input_hash = hash_input(state)
            if problem is not None:
                raise problem
            return {"cursor": key[:8], "items": self._rng.randrange(1, 500), "checked": True}

        return work

    def _next_id(self) -> str:
        return f"{self._rng.getrandbits(64):016x}"

    def _read(self, run_id: str, key: tuple[str, Environment, Outcome]) -> Story:
        with self._store.reading() as conn:

            def rows_of(table: Table, order: str) -> list[Row]:
                found = conn.execute(select(table).where(table.c.run_id == run_id).order_by(table.c[order]))
                return [dict(row) for row in found.mappings()]

            run = rows_of(runs, "run_id")[0]
            if run["lease_owner"] is not None:
                # A step that is left by an error gives its lease back; one at work, or killed, has it still.
                run["lease_expires_at"] = run["updated_at"] + timedelta(seconds=LEASE_SECONDS)
            return Story(
                key=key,
                run=run,
                steps=rows_of(step_records, "sequence"),
                decisions=rows_of(decisions, "decision_id"),
                events=rows_of(audit_events, "event_id"),
                in_flight_hash=self._input_hash if run["in_flight_json"] else None,
            )


def possible(environment: Environment) -> list[Outcome]:
    """Return the outcomes that an environment allows: in prod every failure waits for a person."""
    unheard = Outcome.FAILED if environment is Environment.PROD else Outcome.HALF_DECIDED
    return [outcome for outcome in Outcome if outcome is not unheard]


def duration(story: Story) -> timedelta:
    """Return the time from the start of a story to its last change."""
    return max(story.run["updated_at"], *(e["created_at"] for e in story.events)) - STORY_TIME
