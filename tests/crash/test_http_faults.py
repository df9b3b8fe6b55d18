"""Between runner and control plane the network cuts, repeats and reorders: nothing is lost or doubled."""

from __future__ import annotations

import gzip
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from waitress import create_server

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.failure_classifier import PermanentStepError, TransientStepError
from resume_engine.core.permissions import Role
from resume_engine.core.retry import Backoff, RetryPolicy
from resume_engine.core.run import RunStatus
from resume_engine.core.step import Step
from resume_engine.storage.open_store import open_store
from resume_engine.storage.remote_backend import RemoteCheckpointStore
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.crash.conftest import KINDS
from tests.crash.http_proxy import Fault, HttpProxy
from tests.crash.scale import schedule, tell, times
from webapp import Settings, create_app
from webapp.api import changes

KEY = "key-of-the-fault-tests"
AT_ONCE = RetryPolicy(attempts=3, backoff=Backoff(base_seconds=0, cap_seconds=0))
Story = Callable[[RemoteCheckpointStore, str], Counter[str]]


@dataclass(frozen=True)
class Plane:
    """A control plane, the proxy before it, and its store."""

    kind: str
    store: SqlCheckpointStore
    proxy: HttpProxy

    def remote(self) -> RemoteCheckpointStore:
        """Return a store that goes through the proxy."""
        return RemoteCheckpointStore(self.proxy.url, api_key=KEY, timeout=10)


@pytest.fixture(params=KINDS)
def plane(request: pytest.FixtureRequest, tmp_path: Path, migrated_file: Path) -> Iterator[Plane]:
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    else:
        url = f"sqlite:///{shutil.copyfile(migrated_file, tmp_path / 'plane.db')}"
    with open_store(url) as store:
        app = create_app(Settings(api_keys={KEY: Role.OPERATOR}, api_rate_limit=None), store=store)
        connections: dict[int, Any] = {}
        server = create_server(app, host="127.0.0.1", port=0, threads=4, map=connections)
        running = threading.Thread(target=server.run, daemon=True)
        running.start()
        proxy = HttpProxy(server.effective_port)
        yield Plane(request.param, store, proxy)
        proxy.close()
        server.task_dispatcher.shutdown(timeout=5)
        server.close()
        running.join(10)


def story(store: RemoteCheckpointStore, run_id: str) -> Counter[str]:
    """Start, retry, fail, approve, resume and complete a run; return how often each step was called."""
    calls: Counter[str] = Counter()

    def step(name: str, fail: Callable[[int], Exception | None] = lambda _: None) -> Step:
        def act(_state: dict[str, Any], _key: str) -> dict[str, Any]:
            calls[name] += 1
            error = fail(calls[name])
            if error is not None:
                raise error
            return {name: calls[name]}

        return Step(name, act, retry=AT_ONCE)

    steps = [
        step("fetch"),
        step("flaky", lambda call: TransientStepError("not now") if call == 1 else None),
        step("charge", lambda call: PermanentStepError("no such card") if call == 1 else None),
        step("notify"),
    ]
    engine = ResumeEngine(store, owner="runner")
    engine.start_run("orders", run_id=run_id)
    with pytest.raises(PermanentStepError):
        engine.execute_workflow(run_id, steps)
    engine.grant_human_approval(run_id, "olga@example.com")
    assert engine.resume(run_id, steps).status is RunStatus.COMPLETED
    return calls


def record(plane: Plane, run_id: str) -> list[str]:
    """Return what is recorded of a run: its steps, events and decisions."""
    run = plane.store.get_run(run_id)
    assert run is not None
    found = [f"{s.sequence} {s.step_name} {s.status} {s.attempt} {s.output_data}" for s in run.steps]
    found += [event.event_type for event in plane.store.list_events(run_id)]
    found += [decision.kind for decision in plane.store.list_decisions(run_id)]
    return [*found, str(run.status)]


def assert_same_record(plane: Plane, run_id: str, expected: list[str]) -> None:
    """Play a story: the same calls and the same record as of one that nobody disturbed."""
    with plane.remote() as remote:
        calls = story(remote, run_id)
    plane.proxy.settle()
    assert calls == {"fetch": 1, "flaky": 2, "charge": 2, "notify": 1}
    assert record(plane, run_id) == expected


def undisturbed(plane: Plane) -> tuple[list[str], int]:
    """Return the record of a story that nobody disturbs, and how many requests it takes."""
    plane.proxy.begin(lambda _: None)
    with plane.remote() as remote:
        story(remote, "calm")
    return record(plane, "calm"), plane.proxy.requests


def test_no_fault_at_any_boundary_loses_or_doubles_anything(plane: Plane) -> None:
    expected, requests = undisturbed(plane)
    chance = schedule(f"http faults on {plane.kind}")
    calls_by_fault = [chance.sample(range(1, requests + 1), requests) for _ in Fault]
    # Every kind of fault in turn, each at another call than the time before.
    every = [
        (n, fault) for turn in zip(*calls_by_fault, strict=True) for n, fault in zip(turn, Fault, strict=True)
    ]
    wanted = times(short=20, long=1_000)  # of each database
    cases = (every * (wanted // len(every) + 1))[:wanted]
    for case, (number, fault) in enumerate(cases):
        plane.proxy.begin(lambda n, number=number, fault=fault: fault if n == number else None)  # type: ignore[misc]
        assert_same_record(plane, f"case-{case}", expected)
    faults = plane.proxy.faults
    tell(
        f"http faults on {plane.kind}: {len(cases)} cases, {requests} calls each, "
        f"{dict(faults)}, 0 lost, 0 doubled"
    )
    assert faults.total() == len(cases) and set(faults) == set(Fault)
    plane.proxy.begin(lambda _: Fault.TWICE)  # whatever chance chose: each call of one story
    assert_same_record(plane, "all-twice", expected)
    assert_same_answers(plane)
    assert_alive(plane, expected)


def assert_same_answers(plane: Plane) -> None:
    """A write that is delivered two times is answered with the same bytes."""
    writes = [found for found in plane.proxy.answers_to_twice if not found[0].startswith(b"GET")]
    assert writes
    for head, first, second in writes:
        assert _unpacked(first) == _unpacked(second), head


def _unpacked(answer: bytes) -> bytes:
    """Return the body of an answer; a compressed one is padded by chance.

    When the lease ends is left out: the answer to a write tells it by the clock of the server, any other by
    the one of the database.
    """
    head, _, body = answer.partition(b"\r\n\r\n")
    plain = gzip.decompress(body) if b"content-encoding: gzip" in head.lower() else body
    return re.sub(rb'"lease_expires_at":"[^"]*"', b"", plain)


def assert_alive(plane: Plane, expected: list[str]) -> None:
    """After the last fault everything goes on as before."""
    plane.proxy.begin(lambda _: None)
    assert_same_record(plane, "after-all", expected)


def test_a_bad_network_all_the_time(plane: Plane) -> None:
    expected, _ = undisturbed(plane)
    chance = schedule(f"bad network on {plane.kind}")
    rounds = times(short=2, long=50)
    for number in range(rounds):
        plane.proxy.begin(lambda _: chance.choice([*Fault]) if chance.random() < 0.3 else None)
        assert_same_record(plane, f"bad-{number}", expected)
    tell(
        f"bad network on {plane.kind}: {rounds} stories, {plane.proxy.faults.total()} faults, "
        "0 lost, 0 doubled"
    )
    assert plane.proxy.faults.total() >= rounds
    assert_alive(plane, expected)


def test_without_the_protection_of_repeats_it_fails(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, requests = undisturbed(plane)
    monkeypatch.setattr(changes, "repeated", lambda *_: False)
    hurt = 0
    for number in range(1, requests + 1, 2):
        plane.proxy.begin(lambda n, number=number: Fault.BEFORE_STATUS if n == number else None)  # type: ignore[misc]
        try:
            assert_same_record(plane, f"bare-{number}", expected)
        except Exception:
            hurt += 1
    assert hurt >= 3, "claims, steps and the completion are written by calls that may come again"
