"""Any order of executions, failures, decisions, lapses and late writes, against a model in memory.

Executors are threads of this process that stop in every step and wait to be told how it ends; so one can be
overtaken in the middle of its work, and come back late.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.decisions import DecisionKind
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import (
    AlreadyDecidedError,
    InvalidValueError,
    LeaseLostError,
    NothingToDecideError,
    ResumeBlockedError,
    RunBusyError,
    RunFinishedError,
    StaleRunError,
)
from resume_engine.core.failure_classifier import PartialStepError, PermanentStepError, TransientStepError
from resume_engine.core.permissions import Role
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.store import CheckpointStore
from resume_engine.storage.chain_verification import ChainVerifier
from resume_engine.storage.signing import NoKey
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.verification import verify
from tests.crash.broken import taken_out
from tests.crash.scale import tell, times
from tests.stores.conftest import wipe
from tests.stores.over_http import StoreOverHttp

STEPS = ("reserve", "charge", "ship")
OWNERS = ("worker-1", "worker-2", "worker-3")
ERRORS = {"transient": TransientStepError, "permanent": PermanentStepError, "partial": PartialStepError}
GATE_OF_CLASS = {"transient": (), "permanent": ("human_approval",), "partial": ("compensation",)}
PATIENCE_SECONDS = 30
MAX_LOST = 5
OLGA = Actor(name="olga", role=Role.OPERATOR, channel=Channel.LIBRARY)


@dataclass
class ModelRun:
    """What a run is, in the simplest words."""

    environment: str
    status: str = "running"
    records: list[tuple[str, str]] = field(default_factory=list)  # name, status
    done: int = 0
    failure_key: str | None = None
    gates: list[str] = field(default_factory=list)
    decided: dict[str, list[str]] = field(default_factory=dict)  # by failure key
    token: int = 0
    owner: str | None = None
    holder: Executor | None = None  # who may write: the last who took the run
    live: bool = False
    lost: int = 0

    @property
    def in_doubt(self) -> bool:
        return self.owner is not None and not self.live

    def close_gates(self, key: str, classification: str) -> None:
        self.status, self.failure_key = "failed", key
        acknowledged = ["prod_resume_ack"] if self.environment == "prod" else []
        self.gates = [*GATE_OF_CLASS[classification], *acknowledged]
        self.release()

    def release(self) -> None:
        self.owner, self.holder, self.live = None, None, False


class Executor:
    """One call of `resume`, held in each of its steps until it is told what comes of it."""

    def __init__(self, store: CheckpointStore, owner: str, run_id: str) -> None:
        self.owner, self.run_id = owner, run_id
        self.news: queue.Queue[Any] = queue.Queue()
        self._orders: queue.Queue[Exception | None] = queue.Queue()
        self._engine = ResumeEngine(store, owner=owner, lease_seconds=3_600)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._engine.resume(self.run_id, [(name, self._step(name)) for name in STEPS])
            self.news.put(("ended", None))
        except Exception as error:
            self.news.put(("ended", error))

    def _step(self, name: str) -> Any:
        def act(_state: dict[str, Any], _key: str) -> dict[str, Any]:
            self.news.put(("in", name))
            error = self._orders.get(timeout=PATIENCE_SECONDS)
            if error is not None:
                raise error
            return {name: True}

        return act

    def end_step(self, error: Exception | None) -> tuple[str, Any]:
        """End the step it is in; return what it says next."""
        self._orders.put(error)
        return self.next()

    def abandon(self) -> None:
        """End it, wherever it is."""
        while self._thread.is_alive():
            self._orders.put(PermanentStepError("the test is over"))
            self._thread.join(0.01)

    def next(self) -> tuple[str, Any]:
        """Return ("in", step) or ("ended", error or None)."""
        found: tuple[str, Any] = self.news.get(timeout=PATIENCE_SECONDS)
        if found[0] == "ended":
            self._thread.join(PATIENCE_SECONDS)
        return found


class StoreAgainstModel(RuleBasedStateMachine):
    """Drive a store through the engine, and a model beside it."""

    store: SqlCheckpointStore | StoreOverHttp  # set by the test
    number = 0

    def __init__(self) -> None:
        super().__init__()
        self.engine = ResumeEngine(self.store, owner="client")
        self.runs: dict[str, ModelRun] = {}
        self.executors: list[Executor] = []
        self.at_work: list[Executor] = []
        self.seen: list[RunSummary] = []

    # What may happen

    @precondition(lambda self: len(self.runs) < 3)
    @rule(environment=st.sampled_from(["dev", "staging", "prod"]))
    def start(self, environment: str) -> None:
        type(self).number += 1
        run_id = f"run-{self.number}"
        self.engine.start_run("orders", run_id=run_id, environment=environment)
        self.runs[run_id] = ModelRun(environment)

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), owner=st.sampled_from(OWNERS))
    def resume(self, data: st.DataObject, owner: str) -> None:
        run_id, run = self._choose(data)
        executor = Executor(self.store, owner, run_id)
        self.executors.append(executor)
        kind, what = executor.next()
        refusal = self._refusal(run)
        if refusal is not None:
            assert kind == "ended" and isinstance(what, refusal), (kind, what, refusal)
        elif run.status == "completed":
            assert (kind, what) == ("ended", None)
        else:
            self._taken(run, executor)
            assert (kind, what) == ("in", STEPS[run.done])

    def _refusal(self, run: ModelRun) -> type[Exception] | None:
        if run.status == "cancelled":
            return RunFinishedError
        if run.gates:
            return ResumeBlockedError
        if run.live:
            return RunBusyError
        if run.in_doubt and (run.environment == "prod" or run.lost + 1 >= MAX_LOST):
            classification = "permanent" if run.lost + 1 >= MAX_LOST else "transient"
            run.close_gates(f"{run.done}:{len(run.records)}:{run.token}", classification)
            run.lost = 0
            return ResumeBlockedError
        return None

    def _taken(self, run: ModelRun, executor: Executor) -> None:
        run.lost += run.in_doubt
        run.token += 1
        run.status, run.owner, run.holder, run.live = "running", executor.owner, executor, True
        self.at_work.append(executor)

    @precondition(lambda self: self.at_work)
    @rule(data=st.data(), outcome=st.sampled_from(["ok", "ok", "transient", "permanent", "partial"]))
    def a_step_ends(self, data: st.DataObject, outcome: str) -> None:
        executor = data.draw(st.sampled_from(self.at_work))
        run = self.runs[executor.run_id]
        error = None if outcome == "ok" else ERRORS[outcome]("as the test wants it")
        kind, what = executor.end_step(error)
        if run.holder is not executor:
            assert kind == "ended" and isinstance(what, LeaseLostError), (kind, what)
            self.at_work.remove(executor)
        elif outcome == "ok":
            self._completed(run, executor, kind, what)
        else:
            assert (kind, what) == ("ended", error)
            self.at_work.remove(executor)
            run.records.append((STEPS[run.done], "failed"))
            run.close_gates(f"{run.done}:{len(run.records) - 1}", outcome)

    def _completed(self, run: ModelRun, executor: Executor, kind: str, what: Any) -> None:
        run.records.append((STEPS[run.done], "completed"))
        run.done, run.lost, run.failure_key, run.live = run.done + 1, 0, None, True
        if run.done < len(STEPS):
            assert (kind, what) == ("in", STEPS[run.done])
            return
        assert (kind, what) == ("ended", None)
        self.at_work.remove(executor)
        run.status = "completed"
        run.release()

    @precondition(lambda self: any(run.live for run in self.runs.values()))
    @rule(data=st.data())
    def a_lease_ends(self, data: st.DataObject) -> None:
        """Its owner does not notice: it is stopped, or cut off."""
        run_id = data.draw(st.sampled_from([r for r, run in self.runs.items() if run.live]))
        run = self.runs[run_id]
        assert run.owner is not None
        assert self.store.renew_lease(run_id, run.owner, run.token, 0)
        run.live = False

    @precondition(lambda self: self.at_work)
    @rule(data=st.data())
    def a_heart_beats(self, data: st.DataObject) -> None:
        executor = data.draw(st.sampled_from(self.at_work))
        run = self.runs[executor.run_id]
        mine = run.holder is executor
        token = run.token if mine else run.token - 1
        assert self.store.renew_lease(executor.run_id, executor.owner, token, 3_600) == mine
        run.live |= mine

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), kind=st.sampled_from(list(DecisionKind)))
    def decide(self, data: st.DataObject, kind: DecisionKind) -> None:
        run_id, run = self._choose(data)
        refusal = self._decision_refused(run, kind.value)
        if refusal is not None:
            with pytest.raises(refusal):
                self.engine.decide(run_id, kind, OLGA, note="because")
            return
        self.engine.decide(run_id, kind, OLGA, note="because")
        run.decided.setdefault(run.failure_key or "", []).append(kind.value)
        if kind is DecisionKind.REJECT:
            run.status, run.gates = "cancelled", []
        else:
            run.status = "paused"
            run.gates.remove(kind.value)

    def _decision_refused(self, run: ModelRun, kind: str) -> type[Exception] | None:
        earlier = run.decided.get(run.failure_key or "", [])
        if run.failure_key is not None and (kind in earlier or "reject" in earlier):
            return AlreadyDecidedError
        if run.failure_key is None or run.status in ("completed", "cancelled"):
            return NothingToDecideError
        if kind != "reject":
            return None if kind in run.gates else NothingToDecideError
        if run.gates or run.status == "failed":
            return None
        return AlreadyDecidedError if earlier else NothingToDecideError

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def complete_by_hand(self, data: st.DataObject) -> None:
        run_id, run = self._choose(data)
        refusal: type[Exception] | None = None
        if run.status == "cancelled":
            refusal = RunFinishedError
        elif run.gates:
            refusal = ResumeBlockedError
        elif run.live:
            refusal = RunBusyError
        elif run.status != "completed" and (run.in_doubt or run.failure_key is not None):
            refusal = InvalidValueError
        if refusal is not None:
            with pytest.raises(refusal):
                self.engine.complete_run(run_id)
            return
        self.engine.complete_run(run_id)
        run.status = "completed"

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def somebody_looks(self, data: st.DataObject) -> None:
        run_id, _ = self._choose(data)
        found = self.store.load_summary(run_id)
        assert found is not None
        self.seen.append(found)

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def somebody_writes_what_he_saw_then(self, data: st.DataObject) -> None:
        seen = data.draw(st.sampled_from(self.seen))
        now = self.store.load_summary(seen.run_id)
        assert now is not None
        if now.version == seen.version:
            return  # that would be no late write
        late = seen.evolve(lease_owner="late", lease_token=seen.lease_token + 1, steps_completed=99)
        with pytest.raises(StaleRunError):
            self.store.commit(RunChange(before=seen, after=late, lease_seconds=30))

    # What must hold after each

    @invariant()
    def the_store_says_what_the_model_says(self) -> None:
        for run_id, run in self.runs.items():
            found = self.store.load_summary(run_id)
            assert found is not None
            assert (found.status.value, found.environment.value) == (run.status, run.environment)
            assert [gate.value for gate in found.blocked_by] == run.gates
            assert (found.lease_token, found.lease_owner) == (run.token, run.owner)
            assert found.lease_live == run.live
            assert (found.failure.key if found.failure else None) == run.failure_key
            assert (found.steps_completed, found.resume_from_index) == (run.done, run.done)
            assert (found.next_sequence, found.takeovers) == (len(run.records), run.lost)
            in_flight = [STEPS[run.done]] if run.owner is not None else []
            if run.owner is not None or not run.failure_key or run.failure_key.count(":") == 1:
                assert [step.step_name for step in found.in_flight] == in_flight
            records = list(self.store.iter_steps(run_id))
            assert [(r.step_name, r.status.value) for r in records] == run.records
            for name in STEPS:
                attempts = [r.attempt for r in records if r.step_name == name]
                assert attempts == sorted(set(attempts)), "no two attempts of a step have one number"
                assert len({r.idempotency_key for r in records if r.step_name == name}) <= 1

    def teardown(self) -> None:
        for executor in self.executors:
            executor.abandon()
        behind = self.store.behind if isinstance(self.store, StoreOverHttp) else self.store
        assert verify(behind) == []
        # Whatever the order was, what the rows say must follow from the entries.
        assert ChainVerifier(behind, key=NoKey()).verify_all().findings == []

    def _choose(self, data: st.DataObject) -> tuple[str, ModelRun]:
        run_id = data.draw(st.sampled_from(list(self.runs)))
        return run_id, self.runs[run_id]


DISAGREEMENT = (AssertionError, pytest.fail.Exception)
EXAMPLES = {"sqlite_file": 6, "sqlite_memory": 15, "postgres": 6, "http_sqlite": 4, "http_postgres": 3}
KINDS = tuple(EXAMPLES)


def drive(
    store: SqlCheckpointStore | StoreOverHttp, examples: int, *, phases: Sequence[Phase] = tuple(Phase)
) -> None:
    """Let so many random stories happen in a store."""
    chosen = settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(type("Machine", (StoreAgainstModel,), {"store": store}), settings=chosen)


def test_the_store_agrees_with_the_model(
    store: SqlCheckpointStore | StoreOverHttp, request: pytest.FixtureRequest
) -> None:
    short = EXAMPLES[request.node.callspec.params["store"]]
    examples = times(short=short, long=25 * short)
    drive(store, examples)
    tell(f"state machine, {request.node.callspec.params['store']}: {examples} stories")


@pytest.mark.parametrize("broken", ["no_version_check", "no_intent", "no_lease"])
def test_the_model_sees_what_a_broken_engine_does(
    sqlite_memory_store: SqlCheckpointStore, broken: str
) -> None:
    wipe(sqlite_memory_store)
    with taken_out(broken), pytest.raises(DISAGREEMENT):
        drive(sqlite_memory_store, 200, phases=[Phase.generate])
