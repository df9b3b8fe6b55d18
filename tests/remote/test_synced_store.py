"""Recorded here first, forwarded in order: nothing lost, nothing doubled, decisions in both directions."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask

from resume_engine.core.actor import Channel
from resume_engine.core.checkpoint_store import ResumeEngine
from resume_engine.core.errors import ResumeBlockedError, SyncConflictError
from resume_engine.core.failure_classifier import PartialStepError, PermanentStepError, TransientStepError
from resume_engine.core.permissions import Role
from resume_engine.core.retry import Backoff, RetryPolicy
from resume_engine.core.run import RunStatus
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step import Step
from resume_engine.storage.forwarding import Forwarding
from resume_engine.storage.forwarding_marks import Mark
from resume_engine.storage.http_transport import PROTOCOL_HEADER, HttpTransport
from resume_engine.storage.open_store import open_store
from resume_engine.storage.remote_backend import RemoteCheckpointStore
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.synced_store import Pending, SyncedCheckpointStore
from tests.remote.conftest import Caller
from webapp.api import bodies

SECONDS = 20.0
AT_ONCE = RetryPolicy(attempts=3, backoff=Backoff(base_seconds=0, cap_seconds=0))
STEPS = [(f"step_{n}", lambda _input, _key, n=n: {f"out_{n}": n}) for n in range(6)]
MENDED = [STEPS[0], ("charge", lambda given, _key: {"charged": given["out_0"]}), STEPS[2]]


class Network(httpx.BaseTransport):
    """The application in this process, behind a network that can be away or lose answers."""

    def __init__(self, app: Flask) -> None:
        self._app = httpx.WSGITransport(app, raise_app_exceptions=False)
        self.is_away = False
        self.fails_for = ""  # a run
        self.loses = False  # the first answer to each call that changes something
        self._lost: set[tuple[object, ...]] = set()
        self.calls: list[str] = []
        self.answers: list[int] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer, or not."""
        if self.is_away:
            raise httpx.ConnectError("away", request=request)
        if self.fails_for and self.fails_for in request.url.path:
            return httpx.Response(500, json={"detail": "broken"}, request=request)
        response = self._app.handle_request(request)
        self.calls.append(f"{request.method} {request.url.path}")
        self.answers.append(response.status_code)
        if self.loses and request.method != "GET" and self._is_new(request):
            raise httpx.ReadError("the answer is lost", request=request)
        return response

    def _is_new(self, request: httpx.Request) -> bool:
        body = json.loads(request.content)
        change = body.get("change") or {}
        call = (request.url.path, body.get("action"), change.get("version"), body.get("kind"))
        is_new = call not in self._lost
        self._lost.add(call)
        return is_new


@pytest.fixture
def network(app: Flask) -> Network:
    """The way to the control plane."""
    return Network(app)


Synced = Callable[..., SyncedCheckpointStore]


@pytest.fixture
def synced(network: Network, tmp_path: Path, operator: Caller) -> Iterator[Synced]:
    """Return a store that records in one file and forwards with somebody's key, else an operator's."""
    made: list[SyncedCheckpointStore] = []

    def make(caller: Caller = operator, **options: Any) -> SyncedCheckpointStore:
        remote = RemoteCheckpointStore(
            "http://localhost/api", api_key=caller.key, retry_seconds=0, transport=network
        )
        local = open_store(f"sqlite:///{tmp_path / 'here.db'}")
        options = {"poll_seconds": 0.05, "flush_seconds": 0.0} | options
        made.append(SyncedCheckpointStore(local, remote, **options))
        return made[-1]

    yield make
    for store in made:
        store.close()


def failing(error: Exception) -> list[tuple[str, Any]]:
    def fail(_input: dict[str, Any], _key: str) -> dict[str, Any]:
        raise error

    return [STEPS[0], ("charge", fail), STEPS[2]]


def assert_same(page_store: SqlCheckpointStore, store: SyncedCheckpointStore, run_id: str) -> None:
    """Assert that both databases tell the same of a run."""
    assert ResumeEngine(page_store).get_audit_log(run_id) == ResumeEngine(store).get_audit_log(run_id)
    here, there = store.local.load_summary(run_id), page_store.load_summary(run_id)
    assert here is not None and there is not None
    assert (here.status, here.blocked_by) == (there.status, there.blocked_by)
    assert (here.failure and here.failure.key) == (there.failure and there.failure.key)


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.01)


def test_it_works_while_the_control_plane_is_away_and_catches_up(
    page_store: SqlCheckpointStore, network: Network, synced: Synced
) -> None:
    network.is_away = True
    store = synced()
    engine = ResumeEngine(store)
    run = engine.start_run("billing", metadata={"order": 7})
    assert engine.execute_workflow(run.run_id, STEPS, initial_input={"a": 1}).status is RunStatus.COMPLETED
    assert store.pending() == {run.run_id: Pending(local=6, remote=0)}
    assert store.synced_through(run.run_id) is None
    assert not store.wait_until_synced(0.05)
    network.is_away = False
    assert store.wait_until_synced(SECONDS)
    assert store.pending() == {} and store.synced_through(run.run_id) == 5
    assert_same(page_store, store, run.run_id)
    there, here = page_store.get_run(run.run_id), store.get_run(run.run_id)
    assert there is not None and here is not None
    assert there.metadata == here.metadata and there.metadata["order"] == 7
    moments = [[(s.timestamp, s.started_at, s.duration_ms) for s in r.steps] for r in (there, here)]
    assert moments[0] == moments[1]
    assert page_store.load_initial_input(run.run_id) == {"a": 1}
    assert list(page_store.load_workflow(run.run_id)) == [name for name, _ in STEPS]
    sent = [call for call in network.calls if call.endswith("/steps")]
    assert len(sent) == 6, "one request a record"


def test_another_process_goes_on_with_the_backlog(
    page_store: SqlCheckpointStore, network: Network, synced: Synced, caplog: pytest.LogCaptureFixture
) -> None:
    store = synced()
    engine = ResumeEngine(store)
    run = engine.start_run("billing")
    engine.execute_step(run.run_id, "a", 0, {"n": 1}, lambda *_: {})
    assert store.wait_until_synced(SECONDS)
    network.is_away = True
    for index, name in enumerate("bcd", 1):
        engine.execute_step(run.run_id, name, index, {"n": index}, lambda *_: {})
    store.close()
    assert "1 runs with 3 step records are only here" in caplog.text
    network.is_away = False
    again = synced()
    assert again.wait_until_synced(SECONDS)
    ResumeEngine(again).complete_run(run.run_id)
    assert again.wait_until_synced(SECONDS)
    assert_same(page_store, again, run.run_id)
    assert [step.step_name for step in page_store.iter_steps(run.run_id)] == list("abcd")


def _lose_each_answer_once(page_store: SqlCheckpointStore, network: Network, synced: Synced) -> None:
    network.loses = True
    store = synced()
    engine = ResumeEngine(store)
    run = engine.start_run("billing")
    with pytest.raises(PermanentStepError):
        engine.execute_workflow(run.run_id, failing(PermanentStepError("no")))
    engine.grant_human_approval(run.run_id, "ana@example.com")
    assert engine.resume(run.run_id, MENDED).status is RunStatus.COMPLETED
    assert store.wait_until_synced(SECONDS)
    assert len(network._lost) == 9, "start, two claims, four records, a decision and the end were lost once"
    assert_same(page_store, store, run.run_id)
    names = [step.step_name for step in page_store.iter_steps(run.run_id)]
    assert names == ["step_0", "charge", "charge", "step_2"]
    assert len(page_store.list_decisions(run.run_id)) == 1
    kinds = [event.event_type for event in page_store.list_events(run.run_id)]
    assert kinds == ["run.started", "gate.approved", "run.resumed", "run.completed"]


def test_lost_answers_double_nothing(
    page_store: SqlCheckpointStore, network: Network, synced: Synced
) -> None:
    _lose_each_answer_once(page_store, network, synced)


def test_without_asking_what_is_there_the_test_before_fails(
    page_store: SqlCheckpointStore, network: Network, synced: Synced, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trusting(self: Forwarding, here: RunSummary, _: Mark) -> RunSummary:
        return self._remote.load_summary(here.run_id) or self._started(here)

    monkeypatch.setattr(Forwarding, "_looked_up", trusting)
    with pytest.raises(SyncConflictError):
        _lose_each_answer_once(page_store, network, synced)


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_attempts_that_are_tried_again_close_no_gate_there(
    page_store: SqlCheckpointStore, network: Network, synced: Synced, environment: str
) -> None:
    calls = [0]

    def flaky(_input: dict[str, Any], _key: str) -> dict[str, Any]:
        calls[0] += 1
        if calls[0] < 3:
            raise TransientStepError("busy")
        return {"text": "a\x00b \ud83d"}

    network.is_away = True
    store = synced()
    engine = ResumeEngine(store)
    run = engine.start_run("billing", environment=environment)
    engine.execute_workflow(run.run_id, [STEPS[0], Step("flaky", flaky, retry=AT_ONCE), STEPS[2]])
    network.is_away = False
    assert store.wait_until_synced(SECONDS)
    assert_same(page_store, store, run.run_id)
    assert [step.attempt for step in page_store.iter_steps(run.run_id)] == [1, 1, 2, 3, 1]


def test_what_is_decided_there_lets_the_run_go_on_here(
    page_store: SqlCheckpointStore, synced: Synced, runner: Caller, operator: Caller
) -> None:
    store = synced(runner)
    engine = ResumeEngine(store)
    run = engine.start_run("billing", environment="prod")
    with pytest.raises(PermanentStepError):
        engine.execute_workflow(run.run_id, failing(PermanentStepError("no")))
    assert store.wait_until_synced(SECONDS)
    assert_same(page_store, store, run.run_id)
    with pytest.raises(ResumeBlockedError, match="human_approval"):
        engine.resume(run.run_id, MENDED)
    for kind in ("human_approval", "prod_resume_ack"):
        body = {"kind": kind, "note": f"fine: {kind}", "failure_key": "1:1", "display_name": "Olga"}
        answer = operator.call("POST", f"/runs/{run.run_id}/decisions", body)
        assert answer.status_code < 300, answer.text
    assert engine.get_resume_blockers(run.run_id) == []
    assert engine.resume(run.run_id, MENDED).status is RunStatus.COMPLETED
    assert store.wait_until_synced(SECONDS)
    assert_same(page_store, store, run.run_id)
    made = [page_store.list_decisions(run.run_id), store.list_decisions(run.run_id)]
    assert made[0] == made[1] and len(made[1]) == 2
    [event] = [e for e in store.list_events(run.run_id) if e.event_type == "gate.approved"]
    assert (event.actor, event.role, event.channel) == (operator.name, Role.OPERATOR, Channel.API)
    assert event.payload["made_on"] == "http://localhost/api" and event.note == "fine: human_approval"


def test_a_rejection_there_cancels_the_run_here(
    page_store: SqlCheckpointStore, synced: Synced, operator: Caller
) -> None:
    store = synced()
    engine = ResumeEngine(store)
    run = engine.start_run("billing")
    with pytest.raises(TransientStepError):
        engine.execute_workflow(run.run_id, failing(TransientStepError("busy")))
    assert store.wait_until_synced(SECONDS)
    body = {"kind": "reject", "note": "wrong order", "failure_key": "1:1"}
    assert operator.call("POST", f"/runs/{run.run_id}/decisions", body).status_code < 300
    until(lambda: store.local.load_summary(run.run_id).status is RunStatus.CANCELLED)  # type: ignore[union-attr]
    assert store.wait_until_synced(SECONDS)
    assert_same(page_store, store, run.run_id)


def test_what_is_decided_here_is_decided_there(
    page_store: SqlCheckpointStore, network: Network, synced: Synced
) -> None:
    network.is_away = True
    store = synced()
    engine = ResumeEngine(store)
    runs = [engine.start_run("billing", environment="prod").run_id for _ in range(3)]
    for run_id, error in zip(runs, (PermanentStepError, PartialStepError, PermanentStepError), strict=True):
        with pytest.raises(error):
            engine.execute_workflow(run_id, failing(error("no")))
    engine.grant_human_approval(runs[0], "ana@example.com", note="key rotated")
    engine.execute_compensation(runs[1], lambda *_: {"undone": True})
    for run_id in runs[:2]:
        engine.ack_prod_resume(run_id, "otto@example.com")
        assert engine.resume(run_id, MENDED).status is RunStatus.COMPLETED
    engine.reject_run(runs[2], "ana@example.com", note="wrong order")
    network.is_away = False
    assert store.wait_until_synced(SECONDS)
    for run_id in runs:
        assert_same(page_store, store, run_id)
    [approved, _] = page_store.list_decisions(runs[0])
    assert (approved.display_name, approved.note) == ("ana@example.com", "key rotated")


def test_a_run_that_fails_there_holds_up_no_other(
    page_store: SqlCheckpointStore, network: Network, synced: Synced
) -> None:
    store = synced()
    engine = ResumeEngine(store)
    network.fails_for = "first"
    for run_id in ("first", "second"):
        engine.start_run("billing", run_id=run_id)
        engine.execute_workflow(run_id, STEPS)
    until(lambda: set(store.pending()) == {"first"})
    assert_same(page_store, store, "second")
    network.fails_for = ""
    assert store.wait_until_synced(SECONDS)
    assert_same(page_store, store, "first")


def _let_a_proxy_answer(page_store: SqlCheckpointStore, network: Network, synced: Synced) -> None:
    """Before each look at a run that the forwarder holds, another run gets an answer of no control plane."""
    store = synced()
    engine = ResumeEngine(store)
    network.fails_for = "other"
    for run_id in ("other", "held"):
        engine.start_run("billing", run_id=run_id)
    for index, name in enumerate("abc"):
        engine.execute_step("held", name, index, {"n": index}, lambda *_: {})
        until(lambda: bool(store.conflicts()) or set(store.pending()) == {"other"})
    network.fails_for = ""
    assert store.wait_until_synced(SECONDS)
    for run_id in ("other", "held"):
        assert_same(page_store, store, run_id)
    assert 409 not in network.answers, "it was in its own way"


def test_an_answer_of_a_proxy_does_not_make_the_control_plane_an_old_one(
    page_store: SqlCheckpointStore, network: Network, synced: Synced
) -> None:
    _let_a_proxy_answer(page_store, network, synced)


def test_with_that_mistake_the_forwarder_is_in_its_own_way(
    page_store: SqlCheckpointStore, network: Network, synced: Synced, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(self: HttpTransport, response: httpx.Response) -> None:
        self.protocol = int(response.headers.get(PROTOCOL_HEADER, "0"))

    monkeypatch.setattr(HttpTransport, "_learn_protocol", mistaken)
    with pytest.raises(AssertionError, match="it was in its own way"):
        _let_a_proxy_answer(page_store, network, synced)


def test_a_conflict_stops_its_run_and_says_so(
    page_store: SqlCheckpointStore, network: Network, synced: Synced
) -> None:
    network.is_away = True
    store = synced()
    engine = ResumeEngine(store)
    run, other = engine.start_run("billing"), engine.start_run("billing")
    engine.execute_step(run.run_id, "a", 0, {}, lambda *_: {"by": "here"})
    there = ResumeEngine(page_store)
    there.start_run("billing", run_id=run.run_id)
    there.execute_step(run.run_id, "b", 0, {}, lambda *_: {"by": "there"})
    network.is_away = False
    until(lambda: bool(store.conflicts()))
    with pytest.raises(SyncConflictError, match="another record is there at sequence 0"):
        store.wait_until_synced(SECONDS)
    until(lambda: run.run_id in store._conflicts)
    called: list[str] = []
    with pytest.raises(SyncConflictError):
        engine.execute_step(run.run_id, "c", 1, {}, lambda _, key: called.append(key) or {})
    assert not called, "no step begins in a run with a conflict"
    until(lambda: set(store.pending()) == {run.run_id})
    again = synced()
    assert set(again.conflicts()) == {run.run_id}
    with pytest.raises(SyncConflictError, match="retry_conflict"):
        ResumeEngine(again).execute_step(run.run_id, "c", 1, {}, lambda *_: {})
    assert [s.output_data for s in page_store.iter_steps(run.run_id)] == [{"by": "there"}]
    assert page_store.load_summary(other.run_id) is not None


def test_a_key_that_is_refused_is_a_conflict_until_it_works(
    page_store: SqlCheckpointStore, synced: Synced, caller: Callable[..., Caller], operator: Caller
) -> None:
    store = synced(caller(Role.AUDITOR))
    run = ResumeEngine(store).start_run("billing")
    until(lambda: run.run_id in store.conflicts())
    assert "403 needs runner" in store.conflicts()[run.run_id]
    store.close()
    again = synced(operator)
    again.retry_conflict(run.run_id)
    assert again.wait_until_synced(SECONDS)
    assert_same(page_store, again, run.run_id)


def test_a_record_that_is_too_large_for_the_control_plane_is_a_conflict(
    network: Network, synced: Synced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "MAX_PAYLOAD_BYTES", 20_000)
    store = synced()
    engine = ResumeEngine(store)
    run = engine.start_run("billing")
    done = engine.execute_workflow(run.run_id, [("export", lambda *_: {"rows": "x" * 20_000})])
    assert done.status is RunStatus.COMPLETED, "here it is no conflict"
    with pytest.raises(SyncConflictError, match="RemoteTooLargeError: 413 the control plane"):
        store.wait_until_synced(SECONDS)
    assert network.answers.count(413) == 2, "and it is not sent again"
    assert store.pending() == {run.run_id: Pending(local=1, remote=0)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_writes_here_and_its_parent_forwards(
    page_store: SqlCheckpointStore, synced: Synced
) -> None:
    store = synced()
    engine = ResumeEngine(store)
    run = engine.start_run("billing")
    assert store.wait_until_synced(SECONDS)
    child = os.fork()
    if child == 0:
        try:
            engine.execute_step(run.run_id, "a", 0, {}, lambda *_: {"by": "the child"})
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    until(lambda: store.synced_through(run.run_id) == 0)
    assert_same(page_store, store, run.run_id)
