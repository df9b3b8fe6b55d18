"""Decisions on a real store: the first one counts, each is kept once, refusals leave a trace."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from resume_engine.conformance.abilities import Ability, needs
from resume_engine.conformance.samples import (
    change,
    completed,
    failed,
    new_run,
    summary,
)
from resume_engine.core.actor import Actor, Channel
from resume_engine.core.decisions import DecisionKind, DecisionRequest, decide
from resume_engine.core.errors import (
    AlreadyDecidedError,
    DecisionInputError,
    DecisionNotAllowedError,
    FailureMovedOnError,
    NothingToDecideError,
    RunNotFoundError,
)
from resume_engine.core.permissions import Role
from resume_engine.core.policy import NO_POLICY
from resume_engine.core.run import Environment, RunStatus
from resume_engine.core.step_record import FailureClassification
from resume_engine.core.store import CheckpointStore

OLGA = Actor(name="olga@example.com", role=Role.OPERATOR, channel=Channel.DASHBOARD)


APPROVE = DecisionKind.HUMAN_APPROVAL


REJECT = DecisionKind.REJECT


def request(kind: DecisionKind = APPROVE, actor: Actor = OLGA, **fields: Any) -> DecisionRequest:
    note = "the reason" if kind is REJECT else None
    return replace(DecisionRequest(run_id="run-1", kind=kind, actor=actor, note=note), **fields)


def blocked(
    store: CheckpointStore,
    classification: FailureClassification = FailureClassification.PERMANENT,
    environment: Environment = Environment.DEV,
) -> None:
    store.commit(change(new_run(store, environment=environment), failed(0, classification)))


class Decide:
    """The first decision counts, each is kept once, refusals leave a trace."""

    @needs(Ability.WRITES_AS_GIVEN)
    def test_a_decision_is_a_row_and_an_event_and_opens_the_gate(self, store: CheckpointStore) -> None:
        blocked(store)
        run, decided = decide(store, request(note="key rotated", failure_key="0:0"), NO_POLICY)
        assert run == summary(store)
        assert (run.status, run.blocked_by, run.cleared_by) == (RunStatus.PAUSED, (), OLGA.name)
        [stored] = store.list_decisions("run-1")
        assert replace(stored, decision_id=None) == decided
        event = store.list_events("run-1")[-1]
        assert (event.event_type, event.actor, event.role, event.channel, event.failure_key, event.note) == (
            "gate.approved",
            "olga@example.com",
            "operator",
            "dashboard",
            "0:0",
            "key rotated",
        )

    def test_decisions_are_listed_oldest_first_and_by_failure(self, store: CheckpointStore) -> None:
        blocked(store, environment=Environment.PROD)
        decide(store, request(), NO_POLICY)
        decide(store, request(DecisionKind.PROD_RESUME_ACK), NO_POLICY)
        run = store.commit(change(summary(store), failed(1, index=0)))
        assert run.blocked_by
        decide(store, request(failure_key="0:1"), NO_POLICY)
        assert [(d.failure_key, d.kind.value) for d in store.list_decisions("run-1")] == [
            ("0:0", "human_approval"),
            ("0:0", "prod_resume_ack"),
            ("0:1", "human_approval"),
        ]
        assert len(store.list_decisions("run-1", failure_key="0:1")) == 1
        assert store.list_decisions("none") == []

    @needs(Ability.WRITES_AS_GIVEN)
    @pytest.mark.parametrize("round_number", range(3))
    def test_of_fifty_deciding_at_once_the_first_wins(
        self, store: CheckpointStore, round_number: int
    ) -> None:
        blocked(store)
        chance = random.Random(round_number)
        kinds = [chance.choice([APPROVE, REJECT]) for _ in range(50)]
        together = threading.Barrier(50)

        def act(number: int) -> str:
            actor = replace(OLGA, name=f"operator {number}")
            together.wait()
            try:
                decide(store, request(kinds[number], actor), NO_POLICY)
            except AlreadyDecidedError as refusal:
                return f"refused: {refusal.decision.actor} {refusal.decision.kind}"
            return f"won: {actor.name} {kinds[number]}"

        with ThreadPoolExecutor(50) as pool:
            answers = Counter(pool.map(act, range(50)))
        [decided] = store.list_decisions("run-1")
        winner = f"{decided.actor} {decided.kind}"
        assert answers == {f"won: {winner}": 1, f"refused: {winner}": 49}
        expected = RunStatus.CANCELLED if decided.kind is REJECT else RunStatus.PAUSED
        assert summary(store).status is expected
        kinds_of_events = Counter(event.event_type for event in store.list_events("run-1"))
        assert kinds_of_events["gate.refused"] == 49
        assert kinds_of_events["gate.approved"] + kinds_of_events["gate.rejected"] == 1

    def test_of_two_gates_each_is_decided_once_by_many(self, store: CheckpointStore) -> None:
        blocked(store, environment=Environment.PROD)
        kinds = [APPROVE, DecisionKind.PROD_RESUME_ACK] * 20
        together = threading.Barrier(len(kinds))

        def act(number: int) -> str:
            together.wait()
            try:
                decide(store, request(kinds[number], replace(OLGA, name=f"operator {number}")), NO_POLICY)
            except AlreadyDecidedError:
                return "refused"
            return kinds[number].value

        with ThreadPoolExecutor(len(kinds)) as pool:
            answers = Counter(pool.map(act, range(len(kinds))))
        assert answers == {"human_approval": 1, "prod_resume_ack": 1, "refused": 38}
        assert (summary(store).status, summary(store).blocked_by) == (RunStatus.PAUSED, ())

    @needs(Ability.WRITES_AS_GIVEN)
    def test_a_refusal_is_an_event_and_changes_nothing_else(self, store: CheckpointStore) -> None:
        blocked(store)
        before = summary(store)
        with pytest.raises(NothingToDecideError):
            decide(store, request(DecisionKind.COMPENSATION), NO_POLICY)
        assert summary(store) == before and store.list_decisions("run-1") == []
        event = store.list_events("run-1")[-1]
        assert (event.event_type, event.actor) == ("gate.refused", OLGA.name)
        assert event.payload["reason"] == "NothingToDecideError"
        assert event.payload["kind"] == "compensation"

    @pytest.mark.parametrize("role", [Role.AUDITOR, Role.RUNNER])
    def test_a_role_that_may_not_decide_is_refused(self, store: CheckpointStore, role: Role) -> None:
        blocked(store)
        with pytest.raises(DecisionNotAllowedError, match="operator"):
            decide(store, request(actor=replace(OLGA, role=role)), NO_POLICY)
        assert summary(store).blocked_by
        assert store.list_events("run-1")[-1].payload["reason"] == "DecisionNotAllowedError"

    @needs(Ability.WRITES_AS_GIVEN)
    def test_a_page_that_is_out_of_date_decides_nothing(self, store: CheckpointStore) -> None:
        blocked(store)
        decide(store, request(), NO_POLICY)
        run = store.commit(change(summary(store), failed(1, index=0)))
        with pytest.raises(AlreadyDecidedError, match=r"by olga@example.com"):
            decide(store, request(failure_key="0:0"), NO_POLICY)
        with pytest.raises(FailureMovedOnError, match=r"was for failure 0:7, its current failure is 0:1"):
            decide(store, request(failure_key="0:7"), NO_POLICY)
        assert summary(store) == run

    @needs(Ability.WRITES_AS_GIVEN)
    def test_a_decision_after_the_run_went_on_is_refused(self, store: CheckpointStore) -> None:
        blocked(store)
        decide(store, request(), NO_POLICY)
        store.commit(change(summary(store), completed(1, index=0)))
        with pytest.raises(AlreadyDecidedError, match=r"by olga@example.com"):
            decide(store, request(failure_key="0:0"), NO_POLICY)
        with pytest.raises(NothingToDecideError, match="no open failure"):
            decide(store, request(), NO_POLICY)

    def test_an_unknown_run_is_not_found_and_leaves_no_event(self, store: CheckpointStore) -> None:
        for unknown in ("none", "nul\x00", "x" * 5_000):
            with pytest.raises(RunNotFoundError):
                decide(store, request(run_id=unknown), NO_POLICY)
            with pytest.raises(RunNotFoundError):
                decide(store, request(run_id=unknown, actor=replace(OLGA, role=Role.AUDITOR)), NO_POLICY)
        assert store.list_events("none") == []

    @pytest.mark.parametrize(
        ("field", "fields"),
        [
            ("note", {"note": "x" * 2_001}),
            ("note", {"note": "nul\x00"}),
            ("note", {"kind": REJECT, "note": "  "}),
            ("note", {"kind": REJECT, "note": None}),
            ("actor", {"actor": replace(OLGA, name=" ")}),
            ("actor", {"actor": replace(OLGA, name="x" * 256)}),
            ("actor", {"actor": replace(OLGA, name="nul\x00")}),
            ("failure_key", {"failure_key": "x" * 33}),
            ("failure_key", {"failure_key": "nul\x00"}),
            ("result", {"result": {"a": 1}}),
            ("result", {"kind": DecisionKind.COMPENSATION, "result": [1]}),
            ("result", {"kind": DecisionKind.COMPENSATION, "result": {"a": float("nan")}}),
            ("result", {"kind": DecisionKind.COMPENSATION, "result": {"a": object()}}),
            ("result", {"kind": DecisionKind.COMPENSATION, "result": {"a": "x" * 64_001}}),
        ],
    )
    def test_a_request_that_cannot_be_kept_names_its_field(
        self, store: CheckpointStore, field: str, fields: dict[str, Any]
    ) -> None:
        blocked(store)
        before = summary(store)
        with pytest.raises(DecisionInputError, match=f"^{field}: "):
            decide(store, request(**fields), NO_POLICY)
        assert summary(store) == before and store.list_decisions("run-1") == []
        assert store.list_events("run-1")[-1].event_type == "gate.refused"

    @needs(Ability.WRITES_AS_GIVEN)
    def test_the_gates_of_two_branches_are_opened_one_after_the_other(self, store: CheckpointStore) -> None:
        run = store.commit(change(new_run(store), failed(0)))
        run = store.commit(change(run, failed(1, FailureClassification.PARTIAL)))
        assert [action.value for action in run.blocked_by] == ["human_approval"]
        run, _ = decide(store, request(), NO_POLICY)
        assert [action.value for action in run.blocked_by] == ["compensation"]
        assert run.failure is not None and run.failure.key == "1:1"
        assert run.status is RunStatus.FAILED
        run, _ = decide(store, request(DecisionKind.COMPENSATION), NO_POLICY)
        assert (run.status, run.blocked_by) == (RunStatus.PAUSED, ())
