"""Decisions that a policy refuses, on a real store: who is left out, and what is asked of the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.decisions import decide
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import DecisionError, DecisionInputError, PolicyRefusalError
from resume_engine.core.failure_classifier import PermanentStepError
from resume_engine.core.permissions import Role
from resume_engine.core.policy import Policy
from resume_engine.core.run import RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.stores.changes import change, event, failed, summary
from tests.stores.under_policy import ANA, BOB, REJECT, blocked, compensated, key_of, rule, wanted

# Who is left out


def refused(store: SqlCheckpointStore, policy: Policy, actor: Actor, **fields: object) -> str:
    with pytest.raises(DecisionError) as caught:
        decide(store, wanted(actor=actor, **fields), policy)
    last = store.list_events("run-1")[-1]
    assert (last.event_type, last.actor) == ("gate.refused", actor.name)
    assert last.payload["message"] == str(caught.value)
    assert summary(store).blocked_by and not store.list_decisions("run-1")
    return f"{type(caught.value).__name__}: {caught.value}"


def test_the_starter_may_not_decide(store: SqlCheckpointStore) -> None:
    policy = rule("not_starter = true")
    ResumeEngine(store, policy=policy).start_run("billing", run_id="run-1", actor=ANA)
    store.commit(change(summary(store), failed(0)))
    for actor in (ANA, key_of(store, "aaaaaaaa", "ana")):
        assert "PolicyRefusalError" in refused(store, policy, actor)
    assert decide(store, wanted(actor=BOB), policy)[0].blocked_by == ()


def test_whoever_changed_the_input_may_not_decide(store: SqlCheckpointStore) -> None:
    policy = rule("not_input_editor = true")
    blocked(store)
    changed = event(event_type="run.input_changed", actor="ana")
    run = summary(store)
    store.commit(RunChange(before=run, after=run, events=(changed,)))
    assert "changed the input of the run" in refused(store, policy, ANA)
    assert decide(store, wanted(actor=BOB), policy)[0].blocked_by == ()


def test_a_note_may_be_required(store: SqlCheckpointStore) -> None:
    policy = rule("note_required = true")
    blocked(store)
    for note in (None, "", "  "):
        said = refused(store, policy, ANA, note=note)
        assert said == "DecisionInputError: note: the policy asks for a note here (rule 'the rule')"
    assert decide(store, wanted(note="checked"), policy)[0].blocked_by == ()


def test_keys_and_roles_may_be_left_out(store: SqlCheckpointStore) -> None:
    blocked(store)
    assert "a person must" in refused(store, rule("api_keys = false"), replace(ANA, channel=Channel.API))
    admins = rule('roles = ["admin"]')
    assert "it takes admin (policy rule 'the rule')" in refused(store, admins, ANA)
    assert decide(store, wanted(actor=replace(ANA, role=Role.ADMIN)), admins)[0].blocked_by == ()


def test_a_rejection_obeys_its_rule(store: SqlCheckpointStore) -> None:
    policy = rule('decisions = ["reject"]\nroles = ["admin"]')
    blocked(store)
    assert "PolicyRefusalError" in refused(store, policy, ANA, kind=REJECT, note="no")
    assert decide(store, wanted(REJECT, replace(ANA, role=Role.ADMIN)), policy)[0].status is (
        RunStatus.CANCELLED
    )


def fail(_: dict[str, object], __: str) -> dict[str, object]:
    raise PermanentStepError("boom")


def test_a_rollback_obeys_the_rule_for_rejections(store: SqlCheckpointStore) -> None:
    policy = rule('decisions = ["reject"]\nnot_starter = true')
    engine = ResumeEngine(store, policy=policy)
    engine.start_run("billing", run_id="run-1", actor=ANA)
    with pytest.raises(PermanentStepError):
        engine.execute_workflow("run-1", [("a", fail)], initial_input={})
    with pytest.raises(PolicyRefusalError, match="ana did"):
        engine.roll_back("run-1", [("a", fail)], requested_by="ana", note="undo it")
    assert engine.roll_back("run-1", [("a", fail)], requested_by="bob", note="undo it").status is (
        RunStatus.CANCELLED
    )


# Compensations that the engine runs


def test_a_compensation_is_not_run_when_the_policy_would_not_take_it(store: SqlCheckpointStore) -> None:
    engine, calls = compensated(store, rule("note_required = true"))

    def undo(_: dict[str, object], key: str) -> dict[str, object]:
        calls.append(key)
        return {"undone": 1}

    with pytest.raises(DecisionInputError, match="asks for a note"):
        engine.execute_compensation("run-1", undo)
    assert calls == []
    engine.execute_compensation("run-1", undo, note="refunded")
    assert len(calls) == 1 and summary(store).blocked_by == ()
