"""What a page says of a step that is under way, waits for its retry, or was cut off."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from resume_engine.core.clock import utc_now
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.run_change import RunChange
from resume_engine.storage.sql_store import SqlCheckpointStore


def cut_off(_input: dict[str, Any], _key: str) -> dict[str, Any]:
    """Leave as a process does that is told to end in the middle of a step."""
    raise KeyboardInterrupt


def start(engine: ResumeEngine) -> str:
    run_id = engine.start_run("claims_intake").run_id
    with pytest.raises(KeyboardInterrupt):
        engine.execute_workflow(run_id, [("load", lambda _i, _k: {}), ("<b>charge</b>", cut_off)])
    return run_id


def test_an_interrupted_run_says_which_step_and_since_when(
    page_store: SqlCheckpointStore, sign_in: Callable[..., FlaskClient]
) -> None:
    run_id = start(ResumeEngine(page_store, owner="worker-7"))
    page = sign_in("alice").get(f"/runs/{run_id}").text
    assert "worker-7</bdi> went silent" in page
    assert "&lt;b&gt;charge&lt;/b&gt;</bdi></code> was under way since" in page
    assert "outcome unknown" in page
    assert "A worker takes the run over; if none does, no worker knows this workflow." in page


def test_a_running_step_and_a_waiting_retry_are_named(
    page_store: SqlCheckpointStore, sign_in: Callable[..., FlaskClient]
) -> None:
    run_id = start(ResumeEngine(page_store, owner="worker-7"))
    run = page_store.load_summary(run_id)
    assert run is not None
    page_store.renew_lease(run_id, "worker-7", run.lease_token, 60)
    client = sign_in("alice")
    assert "charge&lt;/b&gt;</bdi></code> since" in client.get(f"/runs/{run_id}").text
    page_store.commit(RunChange(before=run, after=run.evolve(retry_at=utc_now() + timedelta(seconds=40))))
    page_store.renew_lease(run_id, "worker-7", run.lease_token, 60)
    assert "is tried again" in client.get(f"/runs/{run_id}").text
