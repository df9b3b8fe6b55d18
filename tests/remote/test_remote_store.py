"""The store over HTTP: one request a step, safe to repeat, clear when it is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from flask import Flask

from resume_engine.core.clock import utc_now
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import (
    InvalidValueError,
    LeaseLostError,
    OutputTooLargeError,
    RemoteAccessError,
    RemoteTooLargeError,
    RemoteUnreachableError,
    ResumeBlockedError,
    RunBusyError,
    RunExistsError,
    StaleRunError,
)
from resume_engine.core.failure_classifier import PartialStepError, PermanentStepError, TransientStepError
from resume_engine.core.permissions import Role
from resume_engine.core.policy_file import parse_policy
from resume_engine.core.retry import Backoff, RetryPolicy
from resume_engine.core.run import RunStatus
from resume_engine.core.step import Step
from resume_engine.storage.remote_backend import RemoteCheckpointStore
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.worker import Worker
from tests.provision.browser_fixtures import LiveServer
from tests.remote.conftest import Caller
from webapp.api import bodies, executor_reads
from webapp.extensions import services

Remote = Callable[..., RemoteCheckpointStore]
AT_ONCE = RetryPolicy(attempts=3, backoff=Backoff(base_seconds=0, cap_seconds=0))
STEPS = [(f"step_{n}", lambda _input, _key, n=n: {f"out_{n}": n}) for n in range(10)]


@pytest.fixture
def remote(app: Flask) -> Iterator[Remote]:
    """Return a store over the application in this process, for somebody's key."""
    made: list[RemoteCheckpointStore] = []

    def make(caller: Caller, **options: Any) -> RemoteCheckpointStore:
        transport = httpx.WSGITransport(app, raise_app_exceptions=False)
        given = {"transport": transport, "retry_seconds": 0.2} | options
        made.append(RemoteCheckpointStore("http://localhost/api", api_key=caller.key, **given))
        return made[-1]

    yield make
    for store in made:
        store.close()


def failing(error: Exception) -> list[tuple[str, Any]]:
    def fail(_input: dict[str, Any], _key: str) -> dict[str, Any]:
        raise error

    return [STEPS[0], ("charge", fail), STEPS[2]]


MENDED = [STEPS[0], ("charge", lambda given, _key: {"charged": given["out_0"]}), STEPS[2]]


def test_people_are_counted_by_the_policy_of_the_control_plane(
    app: Flask, page_store: SqlCheckpointStore, remote: Remote, operator: Caller
) -> None:
    services(app).engine.policy = parse_policy('[[rule]]\nname = "two"\napprovers = 2', "policy.toml")
    engine = ResumeEngine(remote(operator))
    run = engine.start_run("billing")
    with pytest.raises(PermanentStepError):
        engine.execute_workflow(run.run_id, failing(PermanentStepError("refused")))
    engine.grant_human_approval(run.run_id, "ana")
    [told] = engine.get_resume_blockers(run.run_id)
    with pytest.raises(ResumeBlockedError) as here:
        engine.resume(run.run_id, MENDED)
    with pytest.raises(ResumeBlockedError) as there:
        engine.store.update_run(replace(run, status=RunStatus.RUNNING))
    for blocker in (told, *here.value.blockers, *there.value.blockers):
        assert (blocker.approvals_given, blocker.approvals_needed) == (1, 2)


@pytest.mark.parametrize("alone", [True, False])
def test_an_output_that_is_too_large_fails_the_step_whose_effects_may_stand(
    page_store: SqlCheckpointStore, remote: Remote, operator: Caller, alone: bool
) -> None:
    engine, keys, size = ResumeEngine(remote(operator)), [], bodies.MAX_PAYLOAD_BYTES + 1

    def export(_input: dict[str, Any], key: str) -> dict[str, Any]:
        keys.append(key)
        return {"rows": "x" * size}

    def go_on() -> Any:
        if alone:
            return engine.execute_step(run.run_id, "export", 0, {}, export)
        return engine.resume(run.run_id, [("export", export), STEPS[1]])

    run = engine.start_run("billing")
    with pytest.raises(
        OutputTooLargeError, match=r"Step 0 'export' .* 10,000,013 characters .*413 the control"
    ):
        go_on()
    left = page_store.load_summary(run.run_id)
    assert left is not None and left.failure is not None
    assert (left.status, left.blocked_by, left.in_flight) == (RunStatus.FAILED, ("compensation",), ())
    assert (left.lease_owner, left.failure.error_type) == (None, "OutputTooLargeError")
    engine.record_compensation(run.run_id, note="the export was deleted")
    size = 3
    go_on()
    assert len(keys) == 2 and len(set(keys)) == 1
    assert page_store.load_step(run.run_id, 1).output_data == {"rows": "xxx"}  # type: ignore[union-attr]


def test_an_input_that_is_too_large_is_told_before_anything_runs(
    page_store: SqlCheckpointStore, remote: Remote, runner: Caller
) -> None:
    engine = ResumeEngine(remote(runner))
    run = engine.start_run("billing")
    given = {"rows": "x" * bodies.MAX_PAYLOAD_BYTES}
    with pytest.raises(
        RemoteTooLargeError,
        match=r"^Step 0 'step_0' of run .* was not called: .* no input of 10,000,\d+ char",
    ):
        engine.execute_workflow(run.run_id, STEPS, initial_input=given)
    assert page_store.load_summary(run.run_id).next_sequence == 0  # type: ignore[union-attr]


def test_a_run_of_several_pages_is_read_whole(
    page_store: SqlCheckpointStore, remote: Remote, runner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_reads, "STEPS_PER_PAGE", 3)
    engine = ResumeEngine(page_store)
    run = engine.start_run("billing")
    done = engine.execute_workflow(run.run_id, STEPS, initial_input={"order": 7})
    assert list(remote(runner).iter_steps(run.run_id)) == done.steps
    for after in range(-1, len(STEPS)):
        assert list(page_store.iter_steps(run.run_id, after=after)) == done.steps[after + 1 :]


def test_a_step_costs_one_request(page_store: SqlCheckpointStore, remote: Remote, runner: Caller) -> None:
    costs = []
    for steps in (STEPS[:1], STEPS):
        store = remote(runner)
        engine = ResumeEngine(store)
        run = engine.start_run("billing")
        before = store.requests
        assert engine.execute_workflow(run.run_id, steps).status is RunStatus.COMPLETED
        costs.append(store.requests - before)
        assert page_store.get_run(run.run_id) == store.get_run(run.run_id)
    assert costs[1] - costs[0] == 9, "each of nine more steps costs exactly one request"


def test_every_class_of_failure(remote: Remote, runner: Caller, operator: Caller) -> None:
    engine, boss = ResumeEngine(remote(runner)), ResumeEngine(remote(operator))
    for error in (TransientStepError("a"), PermanentStepError("b"), PartialStepError("c")):
        run = engine.start_run("billing", environment="prod")
        with pytest.raises(type(error)):
            engine.execute_workflow(run.run_id, failing(error))
        with pytest.raises(ResumeBlockedError, match="prod_resume_ack"):
            engine.resume(run.run_id, MENDED)
        if isinstance(error, PermanentStepError):
            boss.grant_human_approval(run.run_id, "olga@example.com")
        if isinstance(error, PartialStepError):
            boss.execute_compensation(run.run_id, lambda *_: {"undone": True})
        boss.ack_prod_resume(run.run_id, "olga@example.com")
        done = engine.resume(run.run_id, MENDED)
        assert done.status is RunStatus.COMPLETED
        assert done.steps[-1].input_data["charged"] == 0


def test_the_record_is_what_the_database_would_hold(
    page_store: SqlCheckpointStore, remote: Remote, runner: Caller
) -> None:
    calls = [0]

    def flaky(given: dict[str, Any], _key: str) -> dict[str, Any]:
        calls[0] += 1
        if calls[0] == 1:
            raise TransientStepError("busy \x00 \ud800")
        return {"text": "a\x00b ✓ \ud83d", "given": given}

    steps = [*STEPS[:2], Step("flaky", flaky, retry=AT_ONCE), STEPS[3]]
    engine, local = ResumeEngine(remote(runner)), ResumeEngine(page_store)
    there = engine.start_run("billing", run_id="r" * 36)
    engine.execute_workflow(there.run_id, steps, initial_input={"order": "ü"})
    over_http = page_store.get_run(there.run_id)
    calls[0] = 0
    here = local.start_run("billing", run_id="s" * 36)
    local.execute_workflow(here.run_id, steps, initial_input={"order": "ü"})
    directly = page_store.get_run(here.run_id)
    assert over_http is not None and directly is not None
    for one, other in zip(over_http.steps, directly.steps, strict=True):
        assert (one.input_data, one.output_data, one.attempt) == (
            other.input_data,
            other.output_data,
            other.attempt,
        )
        assert (one.input_hash, one.status, one.error_message) == (
            other.input_hash,
            other.status,
            other.error_message,
        )
    kinds = [[event.event_type for event in page_store.list_events(run)] for run in ("r" * 36, "s" * 36)]
    assert kinds[0] == kinds[1]


def test_what_happens_to_a_run_is_in_the_name_of_the_key(
    page_store: SqlCheckpointStore, remote: Remote, runner: Caller
) -> None:
    engine = ResumeEngine(remote(runner))
    run = engine.start_run("billing")
    with pytest.raises(TransientStepError):
        engine.execute_workflow(run.run_id, failing(TransientStepError("a")), initial_input={"a": 1})
    engine.resume(run.run_id, MENDED, initial_input={"a": 2}, allow_input_change=True)
    events = page_store.list_events(run.run_id)
    assert {event.actor for event in events} == {runner.name}
    kinds = [event.event_type for event in events]
    assert kinds == ["run.started", "run.input_changed", "run.resumed", "run.completed"]


def test_one_executor_at_a_time(remote: Remote, runner: Caller) -> None:
    first = ResumeEngine(remote(runner), owner="one")
    second = ResumeEngine(remote(runner), owner="two")
    run = first.start_run("billing")

    def intrude(_input: dict[str, Any], _key: str) -> dict[str, Any]:
        with pytest.raises(RunBusyError) as refused:
            second.resume(run.run_id, steps)
        assert refused.value.owner == "one" and refused.value.until is not None
        return {}

    steps = [("a", intrude)]
    assert first.execute_workflow(run.run_id, steps).status is RunStatus.COMPLETED


def test_a_late_executor_writes_nothing(
    page_store: SqlCheckpointStore, remote: Remote, runner: Caller
) -> None:
    late = ResumeEngine(remote(runner), owner="late", lease_seconds=30)
    quick = ResumeEngine(remote(runner), owner="quick")
    run = late.start_run("billing")

    def be_overtaken(_input: dict[str, Any], _key: str) -> dict[str, Any]:
        held = page_store.load_summary(run.run_id)
        assert held is not None and held.lease_owner == "late"
        page_store.renew_lease(run.run_id, "late", held.lease_token, 0)
        quick.resume(run.run_id, [("a", lambda *_: {"by": "quick"})])
        return {"by": "late"}

    with pytest.raises(LeaseLostError):
        late.execute_workflow(run.run_id, [("a", be_overtaken)])
    [record] = page_store.iter_steps(run.run_id)
    assert (record.output_data, record.worker) == ({"by": "quick"}, "quick")


def test_a_worker_takes_what_was_cleared(remote: Remote, runner: Caller, operator: Caller) -> None:
    engine = ResumeEngine(remote(runner))
    run = engine.start_run("billing")
    with pytest.raises(PermanentStepError):
        engine.execute_workflow(run.run_id, failing(PermanentStepError("b")))
    worker = Worker(engine, {"billing": MENDED})
    assert worker.run_once() == 0
    ResumeEngine(remote(operator)).grant_human_approval(run.run_id, "olga@example.com")
    assert worker.run_once() == 1
    found = engine.get_run_status(run.run_id)
    assert found is not None and found.status is RunStatus.COMPLETED


def test_a_worker_for_many_workflows_asks_in_short_addresses(
    app: Flask, remote: Remote, runner: Caller, operator: Caller
) -> None:
    lengths: list[int] = []

    class Noting(httpx.WSGITransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            lengths.append(len(request.url.raw_path))
            return super().handle_request(request)

    store = remote(runner, transport=Noting(app))
    engine, boss = ResumeEngine(store), ResumeEngine(remote(operator))
    names = [f"{number:02}{'ö' * 58}" for number in range(60)]
    cleared = []
    for name in (names[59], names[0], names[30]):
        run = engine.start_run(name)
        with pytest.raises(PermanentStepError):
            engine.execute_workflow(run.run_id, failing(PermanentStepError("b")))
        boss.grant_human_approval(run.run_id, "olga@example.com")
        cleared.append(run.run_id)
    for limit in (1, 2, 3, 20):
        found = store.find_resumable(names * 2, failed_before=utc_now(), max_attempts=5, limit=limit)
        assert [run.run_id for run in found] == cleared[:limit]
    assert store.find_resumable([], failed_before=utc_now(), max_attempts=5, limit=1) == []
    assert max(lengths) < 3_500


def test_refusals_are_clear(
    app: Flask, remote: Remote, runner: Caller, caller: Callable[..., Caller]
) -> None:
    wrong = Caller(runner.client, "re_aaaaaaaa_" + "x" * 43, "nobody")
    with pytest.raises(RemoteAccessError, match="^401 the key is wrong"):
        ResumeEngine(remote(wrong)).start_run("billing")
    with pytest.raises(RemoteAccessError, match="^403 needs runner"):
        ResumeEngine(remote(caller(Role.AUDITOR))).start_run("billing")
    engine = ResumeEngine(remote(runner))
    run = engine.start_run("billing")
    with pytest.raises(PermanentStepError):
        engine.execute_workflow(run.run_id, failing(PermanentStepError("b")))
    with pytest.raises(RemoteAccessError, match="^403 needs operator"):
        engine.grant_human_approval(run.run_id, "mallory@example.com")
    with pytest.raises(RunExistsError):
        engine.start_run("billing", run_id=run.run_id)
    with pytest.raises(RemoteAccessError, match="^403 needs operator"):
        steps = [Step(name, fn, compensate=fn) for name, fn in MENDED]
        engine.roll_back(run.run_id, steps, requested_by="olga@example.com", note="wrong order")


def test_nobody_there_is_said_with_how_long_it_was_tried(runner: Caller) -> None:
    with (
        RemoteCheckpointStore("http://127.0.0.1:9", api_key=runner.key, retry_seconds=0.1) as store,
        pytest.raises(RemoteUnreachableError, match=r"127.0.0.1:9 is unreachable for 0.1 s"),
    ):
        ResumeEngine(store).start_run("billing")


def test_address_and_key_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, live_server: LiveServer, runner: Caller
) -> None:
    with pytest.raises(InvalidValueError, match="ORCHESTRATEOS_API_URL"):
        RemoteCheckpointStore()
    monkeypatch.setenv("ORCHESTRATEOS_API_URL", f"{live_server.url}/api/")
    monkeypatch.setenv("ORCHESTRATEOS_API_KEY", runner.key)
    with RemoteCheckpointStore() as store:
        assert ResumeEngine(store).start_run("billing").status is RunStatus.RUNNING


# Nothing a runner sends opens a gate


@contextmanager
def with_changed_bodies(
    store: RemoteCheckpointStore, change: Callable[[dict[str, Any]], None]
) -> Iterator[None]:
    """Let a store send other bodies than it would: a runner that lies."""
    call = store._http.call

    def lying(method: str, path: str, body: Any = None, **options: Any) -> Any:
        if isinstance(body, dict):
            change(body)
        return call(method, path, body, **options)

    store._http.call = lying  # type: ignore[method-assign]
    try:
        yield
    finally:
        store._http.call = call  # type: ignore[method-assign]


LIES: dict[str, Callable[[dict[str, Any]], None]] = {
    "no failure": lambda body: body.get("change", {}).update(follows_failure=False),
    "it is tried again": lambda body: (
        body.get("change", {}).update(retry_at="2030-01-01T00:00:00+00:00") if "step_name" in body else None
    ),
    "it goes on": lambda body: (
        body.get("change", {}).update(lease=body["change"]["held"])
        if body.get("status") == "failed"
        else None
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_no_lie_keeps_a_gate_open(
    page_store: SqlCheckpointStore, remote: Remote, runner: Caller, lie: str
) -> None:
    store = remote(runner)
    engine = ResumeEngine(store)
    run = engine.start_run("billing")
    with (
        with_changed_bodies(store, LIES[lie]),
        pytest.raises((PermanentStepError, InvalidValueError, LeaseLostError)),
    ):
        engine.execute_workflow(run.run_id, failing(PermanentStepError("b")))
    now = page_store.load_summary(run.run_id)
    assert now is not None
    recorded = [step.status.value for step in page_store.iter_steps(run.run_id)]
    assert now.blocked_by or "failed" not in recorded, "a failure that is recorded closes its gate"
    if now.blocked_by:
        for body in (
            {"action": "claim", "steps_total": 3, "change": _claim(now.version, now.lease_token + 1)},
            {"action": "complete", "change": _claim(now.version, now.lease_token)},
        ):
            answer = runner.call("POST", f"/runs/{run.run_id}/lease", body)
            assert (answer.status_code, answer.json["code"]) == (409, "resume_blocked")
        assert page_store.load_summary(run.run_id) == now


def _claim(version: int, token: int) -> dict[str, Any]:
    lease = {"owner": "mallory", "token": token, "seconds": 30}
    return {"change_id": "a" * 16, "version": version, "lease": lease}


def test_a_claim_that_is_asked_for_again_gives_the_same_term(
    page_store: SqlCheckpointStore, remote: Remote, runner: Caller
) -> None:
    run = ResumeEngine(remote(runner)).start_run("billing")
    body = {"action": "claim", "change": _claim(0, 1)}
    first = runner.call("POST", f"/runs/{run.run_id}/lease", body)
    again = runner.call("POST", f"/runs/{run.run_id}/lease", body)
    assert first.status_code == again.status_code == 200
    assert first.json["run"]["lease_token"] == again.json["run"]["lease_token"] == 1
    other = body | {"change": _claim(0, 1) | {"change_id": "b" * 16}}
    answer = runner.call("POST", f"/runs/{run.run_id}/lease", other)
    assert (answer.status_code, answer.json["code"]) == (409, "stale_run")


def test_a_step_of_an_outdated_view_is_refused(remote: Remote, runner: Caller) -> None:
    store = remote(runner)
    engine = ResumeEngine(store)
    run = engine.start_run("billing")
    old = store.load_summary(run.run_id)
    assert old is not None
    engine.execute_step(run.run_id, "a", 0, {}, lambda *_: {})
    with pytest.raises(StaleRunError, match="expected version 0"):
        engine.complete_run(run.run_id) and store.commit(_completion(old))


def _completion(run: Any) -> Any:
    from resume_engine.core.clock import utc_now
    from resume_engine.core.executor import completed
    from resume_engine.core.run_change import RunChange

    return RunChange(before=run, after=completed(run, utc_now()))
