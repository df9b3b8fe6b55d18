"""How the audit stands, on its page and on that of a run; the thread that seals."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import text, update

from resume_engine.core.audit import EventType
from resume_engine.core.clock import utc_now
from resume_engine.storage.audit_state import load_audit_state
from resume_engine.storage.schema import audit_events
from resume_engine.storage.sealing import Sealer, seal
from resume_engine.storage.signing import NoKey, SecretKey
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory
from tests.guards import unguarded
from tests.provision.app_fixtures import PageClient
from webapp import sealer as sealer_module
from webapp.sealer import AuditSealer

KEY = SecretKey("a secret of the tests, long enough")


@pytest.fixture
def alice(sign_in: Callable[[str], PageClient]) -> PageClient:
    return sign_in("alice")


def test_the_page_says_that_nothing_is_sealed(runs: RunFactory, alice: PageClient) -> None:
    runs.completed()
    page = alice.get("/audit").text
    assert "No checkpoint seals the audit yet." in page and "It has not been verified yet." in page
    assert "integrity" not in alice.get("/audit?kind=gate.").text


def test_the_page_says_up_to_where_it_is_sealed_and_verified(
    runs: RunFactory, alice: PageClient, page_store: SqlCheckpointStore
) -> None:
    runs.completed()
    AuditSealer(page_store, KEY).turn()
    page = alice.get("/audit").text
    assert "Sealed up to checkpoint 1" in page and "; 1 event since" in page
    assert "up to checkpoint 1, intact." in page


def test_without_a_key_the_log_says_what_it_knows(
    runs: RunFactory, alice: PageClient, page_store: SqlCheckpointStore
) -> None:
    runs.completed()
    AuditSealer(page_store, NoKey()).turn()
    page = alice.get("/audit").text
    assert "entries fit together; " in page and "cannot tell" not in page


def test_tampering_is_said_in_red(
    runs: RunFactory, alice: PageClient, page_store: SqlCheckpointStore
) -> None:
    run = runs.completed()
    seal(page_store, KEY)
    with unguarded(page_store) as conn:
        conn.execute(text("UPDATE step_records SET worker = '<b>mallory</b>'"))
    AuditSealer(page_store, KEY).turn()
    page = alice.get("/audit").text
    assert "The audit was tampered with" in page
    assert f"{run.run_id} #2: it is not what was recorded" in page


def test_a_late_sealer_is_a_warning(
    runs: RunFactory, alice: PageClient, page_store: SqlCheckpointStore
) -> None:
    runs.completed()
    assert not load_audit_state(page_store).is_late
    with unguarded(page_store) as conn:
        conn.execute(update(audit_events).values(created_at=utc_now() - timedelta(hours=1)))
    assert load_audit_state(page_store).is_late
    assert "Events wait for their seal since" in alice.get("/audit").text


def test_a_run_is_verified_on_demand(
    runs: RunFactory, alice: PageClient, page_store: SqlCheckpointStore
) -> None:
    run = runs.completed()
    page = alice.get(f"/runs/{run.run_id}?tab=events").text
    assert f'href="/runs/{run.run_id}/integrity"' in page
    assert "fit together" in alice.get(f"/runs/{run.run_id}/integrity").text
    with unguarded(page_store) as conn:
        conn.execute(text("UPDATE step_records SET worker = 'mallory'"))
    found = alice.get(f"/runs/{run.run_id}/integrity").text
    assert "This run was tampered with" in found and "#2: it is not what was recorded" in found


def test_the_export_of_a_run_is_taken_from_its_page(
    runs: RunFactory, alice: PageClient, page_store: SqlCheckpointStore
) -> None:
    run = runs.cleared()
    answer = alice.get(f"/runs/{run.run_id}/compliance.json")
    assert "attachment" in answer.headers["Content-Disposition"]
    assert json.loads(answer.text)["run"]["run_id"] == run.run_id
    kinds = [event.event_type for event in page_store.list_events(run.run_id)]
    assert kinds[-1] == EventType.AUDIT_EXPORTED.value


# The thread


def test_a_turn_seals_what_is_due_and_verifies_once_a_day(
    runs: RunFactory, page_store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.completed()
    thread = AuditSealer(page_store, KEY)
    thread.turn()
    state = load_audit_state(page_store)
    assert state.checkpoint is not None and state.checkpoint.number == 1
    assert state.verified is not None and state.verified.verdict == "intact"
    runs.completed()
    thread.turn()
    again = load_audit_state(page_store)
    assert again.checkpoint == state.checkpoint and again.verified == state.verified, "a minute has to pass"
    monkeypatch.setattr(sealer_module, "SEAL_AFTER_ENTRIES", 3)
    thread.turn()
    last = load_audit_state(page_store).checkpoint
    assert last is not None and last.number == 2, "many entries do not wait for the minute"


def test_of_two_sealers_at_once_one_writes_the_checkpoint(
    runs: RunFactory, page_store: SqlCheckpointStore
) -> None:
    for _ in range(3):
        runs.completed()
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda _: Sealer(page_store, KEY).seal(), range(4)))
        assert len([one for one in made if one is not None]) == 1


def test_what_goes_wrong_is_logged_and_tried_again(
    page_store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []
    thread = AuditSealer(page_store, KEY)

    def fails() -> None:
        calls.append(1)
        if len(calls) == 2:
            thread._stopped.set()
        raise RuntimeError("away")

    monkeypatch.setattr(sealer_module, "LOOK_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(thread, "turn", fails)
    thread.start()
    thread.join(timeout=5)
    assert len(calls) == 2 and "it is tried again" in caplog.text
