"""Forwarding through a network that loses, repeats and delays what is sent, by two processes at once."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.failure_classifier import PartialStepError, PermanentStepError, TransientStepError
from resume_engine.core.retry import Backoff, RetryPolicy
from resume_engine.core.run import RunStatus
from resume_engine.core.step import Step
from resume_engine.storage.forwarding import Forwarding
from resume_engine.storage.forwarding_marks import ForwardingMarks
from resume_engine.storage.open_store import open_store
from resume_engine.storage.remote_backend import RemoteCheckpointStore
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.synced_store import SyncedCheckpointStore
from tests.crash.scale import schedule, tell, times
from tests.remote.conftest import Caller

SECONDS = 60.0
AT_ONCE = RetryPolicy(attempts=3, backoff=Backoff(base_seconds=0, cap_seconds=0))


class FaultyNetwork(httpx.BaseTransport):
    """The application in this process, behind a network that hurts a part of what is sent."""

    def __init__(self, app: Flask, chance: random.Random, share: float = 0.3) -> None:
        self._app = httpx.WSGITransport(app, raise_app_exceptions=False)
        self._chance, self.share = chance, share
        self._lock = threading.Lock()
        self._late: list[threading.Thread] = []
        self.faults: Counter[str] = Counter()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer, or not; what nobody waits for any more may still be done, later."""
        request.read()
        fault = self._fault()
        if fault == "lost on the way":
            raise httpx.ConnectError("lost", request=request)
        if fault == "done later":
            self._later(request)
            raise httpx.ReadError("cut", request=request)
        if fault == "sent twice":
            self._done(request)
        response = self._done(request)
        if fault == "answer lost":
            raise httpx.ReadError("lost", request=request)
        return response

    def _done(self, request: httpx.Request) -> httpx.Response:
        again = httpx.Request(request.method, request.url, headers=request.headers, content=request.content)
        return self._app.handle_request(again)

    def _fault(self) -> str | None:
        with self._lock:
            if self._chance.random() >= self.share:
                return None
            fault = self._chance.choice(["lost on the way", "done later", "sent twice", "answer lost"])
            self.faults[fault] += 1
            return fault

    def _later(self, request: httpx.Request) -> None:
        wait = self._chance.uniform(0, 0.03)
        thread = threading.Thread(target=lambda: (time.sleep(wait), self._done(request)), daemon=True)
        self._late.append(thread)
        thread.start()

    def settle(self) -> None:
        """Wait until nothing is under way any more."""
        for thread in self._late:
            thread.join(10)


@pytest.fixture
def network(app: Flask) -> Iterator[FaultyNetwork]:
    made = FaultyNetwork(app, schedule("forwarding faults"))
    yield made
    made.settle()


def steps_of(calls: Counter[str]) -> list[Step]:
    def step(name: str, *errors: Exception) -> Step:
        def act(_state: dict[str, Any], _key: str) -> dict[str, Any]:
            calls[name] += 1
            if calls[name] <= len(errors):
                raise errors[calls[name] - 1]
            return {name: calls[name]}

        return Step(name, act, retry=AT_ONCE)

    return [
        step("fetch"),
        step("flaky", TransientStepError("not now")),
        step("charge", PermanentStepError("no such card")),
        step("mail", PartialStepError("half")),
        step("notify"),
    ]


def live_through(engine: ResumeEngine, number: int) -> str:
    """Take a run through two failures and their decisions to its end."""
    run_id, calls = f"run-{number}", Counter[str]()
    engine.start_run("orders", run_id=run_id)
    steps = steps_of(calls)
    with pytest.raises(PermanentStepError):
        engine.execute_workflow(run_id, steps, initial_input={"n": number})
    engine.grant_human_approval(run_id, "olga@example.com")
    with pytest.raises(PartialStepError):
        engine.resume(run_id, steps)
    engine.record_compensation(run_id, result={"undone": True})
    assert engine.resume(run_id, steps).status is RunStatus.COMPLETED
    return run_id


def test_nothing_is_lost_doubled_or_given_up(
    page_store: SqlCheckpointStore, network: FaultyNetwork, tmp_path: Path, operator: Caller
) -> None:
    url = f"sqlite:///{tmp_path / 'here.db'}"

    def opened() -> SyncedCheckpointStore:
        remote = RemoteCheckpointStore(
            "http://localhost/api", api_key=operator.key, retry_seconds=0.05, transport=network
        )
        return SyncedCheckpointStore(open_store(url), remote, poll_seconds=0.02, flush_seconds=0)

    runs = times(short=6, long=100)
    with opened() as store, opened() as other:  # two processes forward one database
        engine = ResumeEngine(store)
        done = [live_through(engine, number) for number in range(runs)]
        other.wait_until_synced(0.01)
        assert store.wait_until_synced(SECONDS), store.pending()
        assert store.conflicts() == {}
        network.share = 0.0
        for run_id in done:
            here, there = ResumeEngine(store), ResumeEngine(page_store)
            assert here.get_audit_log(run_id) == there.get_audit_log(run_id)
            assert len(page_store.list_decisions(run_id)) == 2
            assert there.get_run_status(run_id).status is RunStatus.COMPLETED  # type: ignore[union-attr]
    tell(f"forwarding: {runs} runs, {sum(network.faults.values())} faults {dict(network.faults)}")
    assert len(network.faults) == 4 and min(network.faults.values()) > 0


class Overtaken:
    """A forwarder that stops before its n-th call that changes something, until another has done it all."""

    def __init__(
        self, local: SqlCheckpointStore, operator: Caller, app: Flask, run_id: str, call: int
    ) -> None:
        self.left, self.run_id = call, run_id
        self._local, self._key, self._app = local, operator.key, app
        self.forwarding = self._made()
        remote: Any = self.forwarding._remote
        for name in ("create_run", "commit"):
            setattr(remote, name, self._late(getattr(remote, name)))

    def _made(self) -> Forwarding:
        network = httpx.WSGITransport(self._app, raise_app_exceptions=False)
        remote = RemoteCheckpointStore("http://localhost/api", api_key=self._key, transport=network)
        return Forwarding(self._local, remote, ForwardingMarks(self._local))

    def _late(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def late(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                self._made().forward(self.run_id)
            return call(*args, **kwargs)

        return late


def _is_overtaken_at_each_call(
    page_store: SqlCheckpointStore, tmp_path: Path, operator: Caller, app: Flask
) -> int:
    """Forward one run again and again, each time overtaken one call later; return how many calls it takes."""
    for call in range(1, 100):
        with open_store(f"sqlite:///{tmp_path / f'here-{call}.db'}") as local:
            run_id = live_through(ResumeEngine(local), call)
            overtaken = Overtaken(local, operator, app, run_id, call)
            overtaken.forwarding.forward(run_id)
            assert ForwardingMarks(local).conflicts() == {}
            here, there = ResumeEngine(local), ResumeEngine(page_store)
            assert here.get_audit_log(run_id) == there.get_audit_log(run_id)
            if overtaken.left > 0:
                return call - 1
    raise AssertionError("it never came to an end")


def test_two_that_forward_one_run_are_in_nobody_s_way(
    page_store: SqlCheckpointStore, tmp_path: Path, operator: Caller, app: Flask
) -> None:
    assert _is_overtaken_at_each_call(page_store, tmp_path, operator, app) > 8
