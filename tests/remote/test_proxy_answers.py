"""What a proxy answers in the place of a control plane is nobody's answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import RemoteError, RemoteTooLargeError, RemoteUnreachableError
from resume_engine.core.run import RunStatus
from resume_engine.storage.forwarding import Forwarding
from resume_engine.storage.forwarding_marks import ForwardingMarks
from resume_engine.storage.http_transport import HttpTransport
from resume_engine.storage.open_store import open_store
from resume_engine.storage.remote_backend import RemoteCheckpointStore
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.synced_store import SyncedCheckpointStore
from tests.remote.conftest import Caller

HTML = {"content-type": "text/html"}
ANSWERS = {
    "of no such place": httpx.Response(404, text="default backend - 404"),
    "of maintenance": httpx.Response(200, text="<html>maintenance</html>", headers=HTML),
    "to sign in": httpx.Response(302, headers={"location": "https://sso.example.org/"}),
    "that forbids": httpx.Response(403, text="forbidden"),
    "that conflicts": httpx.Response(409, json={"detail": "not now"}),
}
either = pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)


class Proxied(httpx.BaseTransport):
    """The application in this process, behind a proxy that may answer in its place."""

    def __init__(self, app: Flask) -> None:
        self._app = httpx.WSGITransport(app, raise_app_exceptions=False)
        self.instead: list[httpx.Response] = []
        self.always: httpx.Response | None = None
        self.refused: tuple[str, ...] = ()  # runs

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Pass a request on, or answer it."""
        own = self.instead.pop() if self.instead else self.always
        if any(f"/runs/{run_id}" in request.url.path for run_id in self.refused):
            own = httpx.Response(403, text="looks like an attack")
        if own is None:
            return self._app.handle_request(request)
        return httpx.Response(own.status_code, headers=own.headers, content=own.content, request=request)


@pytest.fixture
def network(app: Flask) -> Proxied:
    """The way to the control plane."""
    return Proxied(app)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[SqlCheckpointStore]:
    """The database of a machine."""
    with open_store(f"sqlite:///{tmp_path / 'here.db'}") as store:
        yield store


def _remote(network: Proxied, caller: Caller, retry_seconds: float = 0) -> RemoteCheckpointStore:
    return RemoteCheckpointStore(
        "http://localhost/api", api_key=caller.key, retry_seconds=retry_seconds, transport=network
    )


def _calls(network: Proxied, caller: Caller, retry_seconds: float = 0) -> HttpTransport:
    return HttpTransport(
        "http://localhost/api",
        api_key=caller.key,
        timeout=5,
        retry_seconds=retry_seconds,
        transport=network,
    )


def _step(engine: ResumeEngine, run_id: str, index: int) -> None:
    engine.execute_step(run_id, f"step_{index}", index, {"n": index}, lambda *_: {})


@either
def test_it_is_no_conflict(
    here: SqlCheckpointStore, network: Proxied, operator: Caller, answer: httpx.Response
) -> None:
    marks, engine = ForwardingMarks(here), ResumeEngine(here)
    forwarding = Forwarding(here, _remote(network, operator), marks)
    run_id = engine.start_run("billing").run_id
    for index in range(2):
        _step(engine, run_id, index)
        forwarding.forward(run_id)
    _step(engine, run_id, 2)
    network.always = answer
    again = Forwarding(here, _remote(network, operator), marks)  # of a process that has yet to hear anything
    for one in (forwarding, again):
        with pytest.raises(RemoteUnreachableError, match=f"unreachable for 0 s .{answer.status_code}"):
            one.forward(run_id)
    assert marks.conflicts() == {} and marks.load(run_id).records == 2
    network.always = None
    again.forward(run_id)
    assert marks.load(run_id).records == 3 and marks.behind() == {}


@either
def test_it_stops_no_executor(
    here: SqlCheckpointStore, network: Proxied, operator: Caller, answer: httpx.Response
) -> None:
    remote = _remote(network, operator)
    with SyncedCheckpointStore(here, remote, poll_seconds=0.05, flush_seconds=0) as store:
        engine = ResumeEngine(store)

        def cut(_input: dict[str, Any], _key: str) -> dict[str, Any]:
            assert store.wait_until_synced(20)
            network.always = answer
            return {}

        steps = [("a", lambda *_: {}), ("b", cut), ("c", lambda *_: {}), ("d", lambda *_: {})]
        run_id = engine.start_run("billing").run_id
        assert engine.execute_workflow(run_id, steps).status is RunStatus.COMPLETED
        assert not store.wait_until_synced(0.3)
        network.always = None
        assert store.wait_until_synced(20)


def test_runs_that_a_proxy_refuses_hold_up_no_other(
    here: SqlCheckpointStore, network: Proxied, operator: Caller
) -> None:
    network.refused = ("first", "second")
    engine = ResumeEngine(here)
    for run_id in ("first", "second", "third", "fourth"):
        engine.start_run("billing", run_id=run_id)
        _step(engine, run_id, 0)
    remote = _remote(network, operator)
    with SyncedCheckpointStore(here, remote, poll_seconds=0.05, flush_seconds=0) as store:
        give_up = time.monotonic() + 20
        while set(store.pending()) != {"first", "second"}:
            assert time.monotonic() < give_up, store.pending()
            time.sleep(0.01)
        network.refused = ()
        assert store.wait_until_synced(20)


@either
def test_the_call_is_repeated(
    page_store: SqlCheckpointStore, network: Proxied, operator: Caller, answer: httpx.Response
) -> None:
    run_id = ResumeEngine(page_store).start_run("billing").run_id
    calls = _calls(network, operator, retry_seconds=5)
    assert calls.call("GET", "/runs/none").status == 404 and calls.requests == 1
    network.instead = [answer, answer]
    assert calls.call("GET", f"/runs/{run_id}").body["run_id"] == run_id
    assert calls.requests == 4


def test_that_a_body_is_too_large_a_proxy_may_say(network: Proxied, operator: Caller) -> None:
    calls = _calls(network, operator)
    calls.expect_protocol()
    network.always = httpx.Response(413, text="<html>Request Entity Too Large</html>", headers=HTML)
    with pytest.raises(RemoteTooLargeError):
        calls.call("POST", "/runs/one/steps", {})


def test_what_fails_is_the_matter_of_one_call(network: Proxied, operator: Caller) -> None:
    calls = _calls(network, operator)
    calls.expect_protocol()
    network.always = httpx.Response(500, text="broken")
    with pytest.raises(RemoteError, match="answered 500") as failed:
        calls.call("GET", "/runs/one")
    assert not isinstance(failed.value, RemoteUnreachableError)
