"""A rollback over HTTP: an operator begins it, a runner undoes; nothing that is sent leaves its one way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from flask import Flask

from resume_engine.core import runner_roll_back
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import (
    RemoteAccessError,
    ResumeBlockedError,
    RunBusyError,
)
from resume_engine.core.failure_classifier import PermanentStepError
from resume_engine.core.permissions import Role
from resume_engine.core.run import Environment, RunStatus
from resume_engine.core.step import Step
from resume_engine.core.step_record import StepKind
from resume_engine.storage.remote_backend import RemoteCheckpointStore
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.worker import Worker
from tests.factories import failing, passing
from tests.remote.conftest import Caller
from tests.stores.changes import summary
from webapp.api import changes

RUN = "run-1"
NOTE = "the customer withdrew"


@dataclass
class Network(httpx.BaseTransport):
    """The application in this process, behind a network that lets a test change or lose what is sent."""

    app: Flask
    change: Callable[[str, dict[str, Any]], None] = lambda *_: None
    loses: bool = False  # the first answer to each call that changes something
    lost: set[tuple[Any, ...]] = field(default_factory=set)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer, or not."""
        if request.method == "POST":
            request = self._changed(request)
        response = httpx.WSGITransport(self.app, raise_app_exceptions=False).handle_request(request)
        if request.method == "POST" and self.loses:
            body = json.loads(request.content)
            call = (request.url.path, body.get("action"), (body.get("change") or {}).get("version"))
            if call not in self.lost:
                self.lost.add(call)
                raise httpx.ReadError("the answer is lost", request=request)
        return response

    def _changed(self, request: httpx.Request) -> httpx.Request:
        body = json.loads(request.content)
        self.change(request.url.path.rpartition("/")[2], body)
        headers = [pair for pair in request.headers.items() if pair[0] != "content-length"]
        return httpx.Request(request.method, request.url, headers=headers, content=json.dumps(body))


@pytest.fixture
def network(app: Flask) -> Network:
    return Network(app)


Engine = Callable[[Caller], ResumeEngine]


@pytest.fixture
def engine_of(network: Network) -> Engine:
    """Return an engine over HTTP with somebody's key."""

    def make(caller: Caller) -> ResumeEngine:
        store = RemoteCheckpointStore(
            "http://localhost/api", api_key=caller.key, retry_seconds=0.5, transport=network
        )
        return ResumeEngine(store, owner=f"executor of {caller.name}")

    return make


class Undone:
    """Three steps and one that fails; `trouble` is what the compensation of a step raises next."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.trouble: dict[int, BaseException] = {}

    @property
    def steps(self) -> list[Step]:
        made = [Step(f"step_{n}", passing({f"out_{n}": n}), compensate=self._undo(n)) for n in range(3)]
        return [*made, Step("last", failing(PermanentStepError("declined")))]

    def _undo(self, index: int) -> Any:
        def call(_state: dict[str, Any], _key: str) -> dict[str, Any]:
            self.order.append(index)
            if index in self.trouble:
                raise self.trouble.pop(index)
            return {"undone": index}

        return call


@pytest.fixture
def undone(engine_of: Engine, runner: Caller) -> Undone:
    """A run that failed and waits for an approval."""
    made = Undone()
    engine = engine_of(runner)
    engine.start_run("billing", run_id=RUN)
    with pytest.raises(PermanentStepError):
        engine.execute_workflow(RUN, made.steps)
    return made


def roll_back(engine: ResumeEngine, undone: Undone) -> Any:
    return engine.roll_back(RUN, undone.steps, requested_by="olga@example.com", note=NOTE)


def interrupted(engine: ResumeEngine, undone: Undone, at: int) -> None:
    undone.trouble[at] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        roll_back(engine, undone)


def records(store: SqlCheckpointStore) -> list[tuple[int, str]]:
    return [(r.step_index, r.status.value) for r in store.iter_steps(RUN) if r.kind is StepKind.COMPENSATION]


def test_a_runner_cannot_begin_one(
    page_store: SqlCheckpointStore, engine_of: Engine, undone: Undone, runner: Caller, caller: Any
) -> None:
    before = summary(page_store, RUN)
    for somebody in (runner, caller(Role.AUDITOR), caller(Role.OPERATOR, [Environment.PROD])):
        with pytest.raises(RemoteAccessError):
            roll_back(engine_of(somebody), undone)
    assert summary(page_store, RUN) == before and undone.order == []


def test_the_key_is_the_actor_and_a_runner_goes_on(
    page_store: SqlCheckpointStore, engine_of: Engine, undone: Undone, runner: Caller, operator: Caller
) -> None:
    interrupted(engine_of(operator), undone, 1)
    worker = Worker(engine_of(runner), {"billing": undone.steps})
    assert worker.run_once() == 1
    assert summary(page_store, RUN).status is RunStatus.CANCELLED
    assert undone.order == [2, 1, 1, 0] and records(page_store) == [(n, "completed") for n in (2, 1, 0)]
    begun, resumed, ended = page_store.list_events(RUN)[-3:]
    assert [e.event_type for e in (begun, resumed, ended)] == [
        "run.rolling_back",
        "run.resumed",
        "run.rolled_back",
    ]
    assert (begun.actor, resumed.actor, ended.actor) == (operator.name, runner.name, runner.name)
    for event in (begun, ended):
        assert (event.note, event.payload["display_name"]) == (NOTE, "olga@example.com")
        assert event.payload["requested_by"] == operator.name


def test_a_runner_does_not_pass_the_gate_of_a_compensation_that_failed(
    page_store: SqlCheckpointStore, engine_of: Engine, undone: Undone, runner: Caller, operator: Caller
) -> None:
    interrupted(engine_of(operator), undone, 1)
    undone.trouble[1] = ValueError("no such order")
    with pytest.raises(ValueError, match="no such order"):
        engine_of(runner).resume(RUN, undone.steps)
    before = summary(page_store, RUN)
    assert before.blocked_by and before.lease_owner is None
    with pytest.raises(ResumeBlockedError):
        engine_of(runner).resume(RUN, undone.steps)
    with pytest.raises(RemoteAccessError, match="403 needs operator"):
        engine_of(runner).grant_human_approval(RUN, "mallory@example.com")
    assert summary(page_store, RUN) == before
    engine_of(operator).grant_human_approval(RUN, "olga@example.com")
    assert engine_of(runner).resume(RUN, undone.steps).status is RunStatus.CANCELLED
    assert undone.order == [2, 1, 1, 1, 0]


def test_lost_answers_undo_nothing_twice(
    page_store: SqlCheckpointStore, engine_of: Engine, undone: Undone, network: Network, operator: Caller
) -> None:
    network.loses = True
    assert roll_back(engine_of(operator), undone).status is RunStatus.CANCELLED
    assert len(network.lost) == 4, "the beginning and each record were lost once"
    assert undone.order == [2, 1, 0] and records(page_store) == [(n, "completed") for n in (2, 1, 0)]
    kinds = [event.event_type for event in page_store.list_events(RUN)]
    assert kinds.count("run.rolling_back") == kinds.count("run.rolled_back") == 1


def test_without_looking_whether_a_call_came_before_the_test_above_fails(
    engine_of: Engine,
    undone: Undone,
    network: Network,
    operator: Caller,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(changes, "repeated", lambda *_: False)
    network.loses = True
    with pytest.raises(RunBusyError):  # by itself: it does not know its own call again
        roll_back(engine_of(operator), undone)


# What is sent otherwise than it should be


def _begin(lie: Callable[[dict[str, Any]], None]) -> Callable[[str, dict[str, Any]], None]:
    return lambda call, body: lie(body) if call == "roll_back" else None


FALSE_BEGINNINGS: dict[str, tuple[int, Callable[[dict[str, Any]], None]]] = {
    "no reason": (422, lambda body: body.update(note="  ")),
    "an unknown step": (400, lambda body: body.update(compensated=[*body["compensated"], 7])),
    "another first step": (400, lambda body: body.update(compensated=[0, 1])),
    "no intent": (400, lambda body: body["change"].update(in_flight=[])),
    "two intents": (400, lambda body: body["change"].update(in_flight=body["change"]["in_flight"] * 2)),
    "another key": (400, lambda body: body["change"]["in_flight"][0].update(idempotency_key="0" * 64)),
    "nobody": (400, lambda body: body["change"].update(lease=None)),
    "an endless lease": (400, lambda body: body["change"]["lease"].update(seconds=None)),
    "an old term": (409, lambda body: body["change"]["lease"].update(token=1)),
    "an old view": (409, lambda body: body["change"].update(version=1)),
}


@pytest.mark.parametrize("lie", FALSE_BEGINNINGS)
def test_a_false_beginning_changes_nothing(
    page_store: SqlCheckpointStore,
    engine_of: Engine,
    undone: Undone,
    network: Network,
    operator: Caller,
    lie: str,
) -> None:
    expected, change = FALSE_BEGINNINGS[lie]
    before = summary(page_store, RUN)
    sent: list[dict[str, Any]] = []
    network.change = _begin(lambda body: (change(body), sent.append(body))[0])
    with pytest.raises(Exception, match=r".+"):
        roll_back(engine_of(operator), undone)
    [body] = sent
    answer = operator.call("POST", f"/runs/{RUN}/roll_back", body)
    assert answer.status_code == expected, answer.text
    assert summary(page_store, RUN) == before and undone.order == []
    network.change = lambda *_: None
    assert roll_back(engine_of(operator), undone).status is RunStatus.CANCELLED


def _record(lie: Callable[[dict[str, Any]], None]) -> Callable[[str, dict[str, Any]], None]:
    return lambda call, body: lie(body) if call == "steps" else None


def _another_step(body: dict[str, Any]) -> None:
    body.update(step_name="step_9", step_index=9)


FALSE_RECORDS: dict[str, Callable[[dict[str, Any]], None]] = {
    "another step": _another_step,
    "a later compensation": lambda body: body.update(step_index=0, step_name="__compensate__step_0"),
    "another input": lambda body: body["change"].update(input_text='{"x":1}'),
    "another key": lambda body: body.update(idempotency_key="0" * 64),
    "no hold": lambda body: body["change"].update(held=None),
    "another's hold": lambda body: body["change"]["held"].update(token=9),
    "the run let go": lambda body: body["change"].update(lease=None),
    "no next intent": lambda body: body["change"].update(in_flight=[]),
    "another next intent": lambda body: body["change"]["in_flight"][0].update(step_index=0),
    "skipped": lambda body: body.update(status="skipped_replay"),
    "running": lambda body: body.update(status="running"),
    "a failure that is no more than transient": lambda body: body.update(
        status="failed", failure_classification="transient"
    ),
    "a failure without a class": lambda body: body.update(status="failed", failure_classification=None),
    "a permanent failure that is tried again": lambda body: (
        body.update(status="failed", failure_classification="permanent"),
        body["change"].update(retry_at="2030-01-01T00:00:00+00:00"),
    )[0],
}


@pytest.mark.parametrize("lie", FALSE_RECORDS)
def test_a_false_record_changes_nothing(
    page_store: SqlCheckpointStore,
    engine_of: Engine,
    undone: Undone,
    network: Network,
    operator: Caller,
    runner: Caller,
    lie: str,
) -> None:
    interrupted(engine_of(operator), undone, 2)
    network.change = _record(FALSE_RECORDS[lie])
    with pytest.raises(Exception, match=r".+"):
        engine_of(runner).resume(RUN, undone.steps)
    found = summary(page_store, RUN)
    assert found.status is RunStatus.RUNNING and records(page_store) == []
    assert [step.step_name for step in found.in_flight] == ["__compensate__step_2"]
    network.change = lambda *_: None
    assert engine_of(runner).resume(RUN, undone.steps).status is RunStatus.CANCELLED
    assert undone.order == [2, 2, 2, 1, 0]


def test_without_comparing_with_the_plan_a_compensation_is_skipped(
    page_store: SqlCheckpointStore,
    engine_of: Engine,
    undone: Undone,
    network: Network,
    operator: Caller,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner_roll_back, "_assert_intent", lambda *_: None)
    network.change = _record(FALSE_RECORDS["no next intent"])
    interrupted(engine_of(operator), undone, 1)
    assert summary(page_store, RUN).in_flight == (), "nothing tells any more that it is rolling back"


@pytest.mark.parametrize("state", ["interrupted", "approved"])
def test_no_other_call_leaves_a_rollback(
    page_store: SqlCheckpointStore,
    engine_of: Engine,
    undone: Undone,
    operator: Caller,
    runner: Caller,
    state: str,
) -> None:
    if state == "interrupted":
        interrupted(engine_of(operator), undone, 2)
    else:
        undone.trouble[2] = ValueError("no such order")
        with pytest.raises(ValueError, match="no such order"):
            roll_back(engine_of(operator), undone)
        engine_of(operator).grant_human_approval(RUN, "olga@example.com")
    before = summary(page_store, RUN)
    lease = {"owner": "mallory", "token": before.lease_token + 1, "seconds": 30}
    change = {"change_id": "a" * 16, "version": before.version, "lease": lease}
    held = change | {"lease": {"owner": before.lease_owner or "x", "token": before.lease_token}}
    calls = (
        ("POST", "lease", {"action": "claim", "steps_total": 4, "change": change}),
        ("POST", "lease", {"action": "complete", "change": change}),
        ("POST", "lease", {"action": "complete", "change": held}),
        ("POST", "roll_back", {"change": change, "note": "again", "compensated": []}),
    )
    for method, call, body in calls:
        for somebody in (runner, operator):
            answer = somebody.call(method, f"/runs/{RUN}/{call}", body)
            assert 400 <= answer.status_code < 500, (call, answer.text)
    for status in ("completed", "running", "pending", "cancelled"):
        answer = runner.call("PATCH", f"/runs/{RUN}", {"status": status})
        assert answer.status_code in (400, 409) or status == before.status.value, answer.text
    assert summary(page_store, RUN) == before
    assert engine_of(runner).resume(RUN, undone.steps).status is RunStatus.CANCELLED
