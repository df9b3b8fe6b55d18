"""Secrets are masked on every page, in every export and in the log; revealing one leaves an event."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.audit import EventType
from resume_engine.core.failure_classifier import PermanentStepError
from resume_engine.core.masking import MASK
from resume_engine.core.permissions import Permission, Role, role_allows
from resume_engine.core.run import Run
from resume_engine.storage.encryption import KEYS_VARIABLE, EncryptedCodec
from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory, failing, passing
from tests.provision.app_fixtures import PageClient, add_person, signed_in_client
from tests.webapp.helpers import events
from webapp import Settings, create_app, logs
from webapp.extensions import services

SignIn = Callable[[str], PageClient]

CANARY = "c4nary9x"
MESSAGE = f"login with password={CANARY} failed at postgres://u:{CANARY}@h/db"


@pytest.fixture
def run(runs: RunFactory) -> Run:
    """A run with the canary in metadata, inputs, outputs, message and traceback."""
    made = runs.engine.start_run("billing", metadata={"apiKey": CANARY, "team": "claims"})
    plan = [
        ("first", passing({"session_token": CANARY, "ok": True, "long": "x" * 3_000})),
        ("second", failing(PermanentStepError(MESSAGE))),
    ]
    with pytest.raises(PermanentStepError):
        runs.engine.execute_workflow(
            made.run_id, plan, initial_input={"secrets": {"a": [CANARY]}, "url": f"https://u:{CANARY}@h/"}
        )
    return runs.reload(made)


def addresses(run: Run) -> Iterator[str]:
    """Yield everything that shows something of a run."""
    page = f"/runs/{run.run_id}"
    yield from (
        "/",
        "/runs",
        "/gates",
        f"/gates?run={run.run_id}",
        "/gates/decided",
        "/audit",
        "/audit/export.csv",
    )
    yield from ("/audit/export.jsonl", f"/runs?q={run.run_id[:8]}", "/gates/approvals", page)
    yield from ("/overview/need", "/overview/figures", "/gates/queue", f"/gates/{run.run_id}/decision")
    yield from (f"{page}?tab={tab}" for tab in ("steps", "decisions", "events", "trace", "metadata"))
    yield from (f"{page}/{part}" for part in ("header", "case", "audit-log", "events.jsonl", "events.csv"))
    yield f"{page}/compliance.json"
    for sequence in (0, 1):
        yield f"{page}?tab=steps&open={sequence}"
        yield f"{page}/steps/{sequence}"
        yield f"{page}/steps/{sequence}/input"
        yield f"{page}/steps/{sequence}/output"


def test_no_page_and_no_export_shows_a_secret(
    app: Flask, run: Run, runs: RunFactory, sign_in: SignIn
) -> None:
    browsers = {"alice": sign_in("alice"), "ana": sign_in("ana")}
    seen = 0
    for note in (None, f"used token={CANARY}"):
        if note:
            key = Actor(name="key ci", role=Role.OPERATOR, channel=Channel.API)
            said = f"password={CANARY}"
            runs.engine.decide(run.run_id, "human_approval", key, note=note, display_name=said)
        for address in addresses(run):
            # An auditor may not see the approvals, an operator gets the engine's own audit log.
            client = browsers["alice" if address.endswith("/audit-log") else "ana"]
            for htmx in (False, True):
                answer = client.get(address, htmx=htmx, follow_redirects=True)
                assert answer.status_code in (200, 286, 404), (address, answer.status_code)
                assert CANARY not in answer.text, (address, htmx)
                seen += MASK in answer.text
    assert seen > 30, "the pages do show where something is masked"
    late = {"failure_key": "1:1", "note": "looked"}
    refused = browsers["ana"].post(f"/runs/{run.run_id}/decisions/human_approval", data=late, htmx=True)
    assert refused.status_code == 409 and f"password={MASK} approved this" in refused.text
    assert CANARY not in refused.text


def test_every_get_route_of_a_run_is_looked_at(app: Flask, run: Run, sign_in: SignIn) -> None:
    """A page that is added later is held to the same."""
    ana = sign_in("ana")
    for rule in app.url_map.iter_rules():
        if "GET" not in (rule.methods or ()) or "run_id" not in rule.arguments:
            continue
        values: dict[str, Any] = {"run_id": run.run_id, "sequence": 1, "which": "input"}
        address = rule.build({name: values[name] for name in rule.arguments})
        assert address is not None
        shown = ana.get("".join(address), follow_redirects=True)
        if rule.endpoint == "downloads.audit_log":
            continue  # is the engine's own trace for those who may see it
        assert CANARY not in shown.text, rule.rule


def test_who_may_reveal_is_one_table() -> None:
    may = {role for role in Role if role_allows(role, Permission.PAYLOADS_REVEAL)}
    assert may == {Role.OPERATOR, Role.ADMIN}


@pytest.mark.parametrize(
    ("field", "sequence", "expected"),
    [
        ("input", 0, f'{{"secrets": {{"a": ["{CANARY}"]}}, "url": "https://u:{CANARY}@h/"}}'),
        ("output", 0, f'"session_token": "{CANARY}"'),
        ("error", 1, MESSAGE),
        ("traceback", 1, f"PermanentStepError: {MESSAGE}"),
        ("metadata", None, f'"apiKey": "{CANARY}"'),
    ],
)
def test_an_operator_reveals_and_leaves_an_event(
    run: Run, sign_in: SignIn, page_store: SqlCheckpointStore, field: str, sequence: int | None, expected: str
) -> None:
    ana = sign_in("ana")
    data = {"field": field} | ({} if sequence is None else {"sequence": str(sequence)})
    address = f"/runs/{run.run_id}/reveal"
    page = ana.post(address, data=data)
    assert page.status_code == 200 and CANARY in page.text
    assert page.headers["Cache-Control"] == "no-store"
    part = ana.post(address, data=data, htmx=True)
    assert CANARY in part.text and "<html" not in part.text
    file = ana.post(address, data=data | {"download": "1"})
    assert expected in file.text
    assert file.headers["Content-Disposition"].startswith("attachment")
    found = events(page_store, EventType.PAYLOAD_REVEALED)
    assert len(found) == 3
    for event in found:
        assert (event.actor, event.role, event.run_id) == ("ana@example.org", "operator", run.run_id)
        assert event.payload == {"field": field} | ({} if sequence is None else {"sequence": sequence})


def test_an_auditor_is_refused_and_sees_no_button(
    run: Run, sign_in: SignIn, page_store: SqlCheckpointStore
) -> None:
    alice, ana = sign_in("alice"), sign_in("ana")
    answer = alice.post(f"/runs/{run.run_id}/reveal", data={"field": "input", "sequence": "0"})
    assert answer.status_code == 403 and CANARY not in answer.text
    assert not events(page_store, EventType.PAYLOAD_REVEALED)
    assert events(page_store, EventType.ACCESS_DENIED)
    for address in (f"/runs/{run.run_id}/steps/1", "/gates", f"/runs/{run.run_id}?tab=metadata"):
        assert "/reveal" not in alice.get(address, htmx=address.endswith("/1")).text
        assert "/reveal" in ana.get(address, htmx=address.endswith("/1")).text


def test_nothing_to_reveal_no_button(runs: RunFactory, sign_in: SignIn) -> None:
    run = runs.blocked()
    assert "/reveal" not in sign_in("ana").get(f"/runs/{run.run_id}/steps/1", htmx=True).text


@pytest.mark.parametrize(
    ("data", "status"),
    [
        ({}, 400),
        ({"field": "password"}, 400),
        ({"field": "input"}, 400),
        ({"field": "input", "sequence": "-1"}, 400),
        ({"field": "input", "sequence": "9" * 30}, 400),
        ({"field": "input", "sequence": "77"}, 404),
        ({"field": "output", "sequence": "1"}, 404),
    ],
)
def test_what_makes_no_sense_is_refused(
    run: Run, sign_in: SignIn, page_store: SqlCheckpointStore, data: dict[str, str], status: int
) -> None:
    assert sign_in("ana").post(f"/runs/{run.run_id}/reveal", data=data).status_code == status
    assert not events(page_store, EventType.PAYLOAD_REVEALED)


def test_revealing_needs_the_form_token(run: Run, sign_in: SignIn) -> None:
    answer = sign_in("ana").post(f"/runs/{run.run_id}/reveal", data={"field": "metadata"}, token=False)
    assert answer.status_code == 403 and CANARY not in answer.text


def test_the_audit_log_is_whole_for_those_who_may_see_it(
    run: Run, runs: RunFactory, sign_in: SignIn, page_store: SqlCheckpointStore
) -> None:
    trace = runs.engine.get_audit_log(run.run_id)
    assert CANARY in trace
    whole = sign_in("ana").get(f"/runs/{run.run_id}/audit-log")
    assert whole.data == trace.encode()
    (look,) = events(page_store, EventType.PAYLOAD_REVEALED)
    assert look.payload == {"field": "audit log"}
    masked = sign_in("alice").get(f"/runs/{run.run_id}/audit-log")
    assert "audit-log-masked-" in masked.headers["Content-Disposition"]
    assert masked.text == trace.replace(f'"{CANARY}"', f'"{MASK}"')


def test_a_run_without_secrets_is_the_same_for_everybody(
    runs: RunFactory, sign_in: SignIn, page_store: SqlCheckpointStore
) -> None:
    run = runs.completed()
    for name in ("alice", "ana"):
        answer = sign_in(name).get(f"/runs/{run.run_id}/audit-log")
        assert answer.data == runs.engine.get_audit_log(run.run_id).encode()
        assert "masked" not in answer.headers["Content-Disposition"]
    assert not events(page_store, EventType.PAYLOAD_REVEALED)


def test_a_masked_download_says_so_in_its_name(run: Run, sign_in: SignIn) -> None:
    answer = sign_in("ana").get(f"/runs/{run.run_id}/steps/0/output")
    assert "output-masked-0-" in answer.headers["Content-Disposition"]
    assert answer.get_json()["session_token"] == MASK


def test_the_log_of_the_server_is_masked(run: Run, sign_in: SignIn, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    try:
        logs.configure("info")
        monkeypatch.setattr(
            "webapp.pages.reveal.load_revealed", lambda *args: failing(RuntimeError(MESSAGE))({}, "")
        )
        answer = sign_in("ana").post(f"/runs/{run.run_id}/reveal", data={"field": "metadata"})
        logging.getLogger("some.library").warning("retrying with %s", f"token={CANARY}")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert answer.status_code == 500 and CANARY not in answer.text
    said = stream.getvalue()
    assert "RuntimeError" in said and "retrying with token=" in said
    assert CANARY not in said


# Encrypted payloads


@pytest.fixture
def sealed(settings: Settings) -> str:
    """A database whose runs were sealed with a key; returns the key."""
    key = EncryptedCodec.generate_key()
    with open_store(settings.database_url, codec=EncryptedCodec([key])) as store:
        factory = RunFactory(store)
        factory.blocked(message="plain words", run_id="blocked", initial_input={"customer": "Zoë"})
        factory.completed(run_id="completed", initial_input={"customer": "Zoë"})
    return key


@pytest.fixture
def operator(sealed: str, settings: Settings) -> Iterator[Callable[[], PageClient]]:
    """Signs an operator in to a dashboard that opens the sealed database by itself."""
    opened: list[SqlCheckpointStore] = []

    def signed_in() -> PageClient:
        app = create_app(settings)
        app.test_client_class = PageClient
        opened.append(services(app).store)
        return signed_in_client(app, opened[-1], add_person(opened[-1], "ana", Role.OPERATOR))

    yield signed_in
    for store in opened:
        store.close()


def test_pages_read_sealed_runs_with_the_key(
    sealed: str, operator: Callable[[], PageClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEYS_VARIABLE, sealed)
    client = operator()
    assert "plain words" in client.get("/gates").text
    assert client.get("/runs/blocked/steps/0/input").get_json() == {"customer": "Zoë"}
    answer = client.post("/runs/blocked/reveal", data={"field": "input", "sequence": "0", "download": "1"})
    assert answer.get_json() == {"customer": "Zoë"}


def test_pages_without_the_key_say_encrypted(operator: Callable[[], PageClient]) -> None:
    client = operator()
    for address in ("/", "/runs", "/gates", "/audit", "/runs/blocked", "/runs/completed"):
        answer = client.get(address)
        assert answer.status_code == 200, address
        assert "Zoë" not in answer.text and "plain words" not in answer.text
    for tab in ("steps", "decisions", "events", "trace", "metadata"):
        assert client.get(f"/runs/blocked?tab={tab}").status_code == 200, tab
    assert "encrypted" in client.get("/gates").text
    for address in ("steps/0/input", "audit-log", "events.jsonl"):
        answer = client.get(f"/runs/blocked/{address}")
        assert answer.status_code == 409, address
        assert KEYS_VARIABLE in answer.text
    answer = client.post("/runs/blocked/reveal", data={"field": "input", "sequence": "0"})
    assert answer.status_code == 409 and KEYS_VARIABLE in answer.text


def test_failures_that_cannot_be_read_are_not_marked_together(
    sealed: str, settings: Settings, operator: Callable[[], PageClient]
) -> None:
    client = operator()
    assert client.get("/gates/approvals").text.count(" checked>") == 1
    with open_store(settings.database_url, codec=EncryptedCodec([sealed])) as store:
        RunFactory(store).blocked(message="other words")
    text = client.get("/gates/approvals").text
    assert text.count('name="item"') == 2
    assert " checked>" not in text
    assert "cannot be read here and may differ, so none is marked" in text
