"""Decisions that end and are given again on a control plane, recorded in the database of a machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask

from resume_engine.core import clock
from resume_engine.core.chain_report import Verdict
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.failure_classifier import PermanentStepError
from resume_engine.core.run import RunStatus
from resume_engine.storage.chain_verification import ChainVerifier
from resume_engine.storage.forwarding import Forwarding
from resume_engine.storage.forwarding_marks import ForwardingMarks
from resume_engine.storage.open_store import open_store
from resume_engine.storage.remote_backend import RemoteCheckpointStore
from resume_engine.storage.sealing import seal
from resume_engine.storage.signing import SecretKey
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.provision.app_fixtures import with_policy
from tests.remote.conftest import Caller
from webapp import Settings

KEY = SecretKey("a secret of the tests, long enough")


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """Settings of a control plane whose decisions hold for an hour."""
    return with_policy(settings, tmp_path, '[[rule]]\nname = "the rule"\nexpires_after = "1h"')


@pytest.fixture
def manual_clock() -> Iterator[clock.ManualClock]:
    """A clock that stands still, here and there."""
    made = clock.ManualClock(clock.utc_now())
    with clock.replaced_by(made):
        yield made


@pytest.fixture
def here(tmp_path: Path) -> Iterator[SqlCheckpointStore]:
    """The database of the machine."""
    with open_store(f"sqlite:///{tmp_path / 'here.db'}") as store:
        yield store


@pytest.fixture
def forwarding(here: SqlCheckpointStore, app: Flask, operator: Caller) -> Forwarding:
    """What brings its runs to the control plane, and decisions back."""
    network = httpx.WSGITransport(app, raise_app_exceptions=False)
    remote = RemoteCheckpointStore("http://localhost/api", api_key=operator.key, transport=network)
    return Forwarding(here, remote, ForwardingMarks(here))


def _failed_in_prod(engine: ResumeEngine, forwarding: Forwarding) -> str:
    def fail(_input: dict[str, Any], _key: str) -> dict[str, Any]:
        raise PermanentStepError("no")

    run_id = engine.start_run("billing", environment="prod").run_id
    with pytest.raises(PermanentStepError):
        engine.execute_workflow(run_id, [("charge", fail)])
    forwarding.forward(run_id)
    return run_id


def _decide_there(operator: Caller, run_id: str, *kinds: str) -> None:
    for kind in kinds:
        answer = operator.call("POST", f"/runs/{run_id}/decisions", {"kind": kind, "failure_key": "0:0"})
        assert answer.status_code < 300, answer.text


def _decided_again(
    engine: ResumeEngine, forwarding: Forwarding, operator: Caller, manual_clock: clock.ManualClock
) -> str:
    """Return a run whose approval ended after it was adopted, and that was approved and acknowledged anew."""
    run_id = _failed_in_prod(engine, forwarding)
    _decide_there(operator, run_id, "human_approval")
    forwarding.forward(run_id)
    manual_clock.advance(7200)
    _decide_there(operator, run_id, "human_approval", "prod_resume_ack")
    forwarding.forward(run_id)
    return run_id


def _assert_intact(store: SqlCheckpointStore) -> None:
    assert seal(store, KEY) is not None
    assert ChainVerifier(store, key=KEY).verify_all().verdict is Verdict.INTACT


def test_what_ended_and_was_decided_again_there_lets_the_run_go_on_here(
    here: SqlCheckpointStore, forwarding: Forwarding, operator: Caller, manual_clock: clock.ManualClock
) -> None:
    engine = ResumeEngine(here)
    run_id = _decided_again(engine, forwarding, operator, manual_clock)
    assert engine.resume(run_id, [("charge", lambda *_: {"charged": 1})]).status is RunStatus.COMPLETED
    kinds = [event.event_type for event in here.list_events(run_id)]
    assert kinds == [
        "run.started",
        "gate.approved",
        "gate.expired",
        "gate.approved",
        "gate.prod_resume_ack",
        "run.resumed",
        "run.completed",
    ]
    _assert_intact(here)


def test_what_ends_after_it_was_adopted_closes_the_gates_here(
    here: SqlCheckpointStore, forwarding: Forwarding, operator: Caller, manual_clock: clock.ManualClock
) -> None:
    engine = ResumeEngine(here)
    run_id = _decided_again(engine, forwarding, operator, manual_clock)
    manual_clock.advance(7200)
    blockers = [blocker.required_action for blocker in engine.get_resume_blockers(run_id)]
    assert blockers == ["human_approval", "prod_resume_ack"]
    _assert_intact(here)
