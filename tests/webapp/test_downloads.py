"""What can be taken away from a run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable

import pytest

from resume_engine.core.audit import EventType
from tests.factories import RunFactory, passing
from tests.provision.app_fixtures import PageClient, Statements
from tests.webapp.helpers import events
from webapp.pages.downloads import safe_name, trace_lines

SignIn = Callable[[str], PageClient]


def test_the_audit_log_is_the_engines_byte_for_byte(runs: RunFactory, sign_in: SignIn) -> None:
    run = runs.blocked("partial", workflow="claims ünï\u2028x", initial_input={"name": "Zoë\n", "n": 1.5})
    runs.engine.execute_compensation(run.run_id, passing({"undone": True}))
    answer = sign_in("alice").get(f"/runs/{run.run_id}/audit-log")
    assert answer.data == runs.engine.get_audit_log(run.run_id).encode()
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="audit-log-{run.run_id}.txt"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_run_without_steps_has_an_audit_log(runs: RunFactory, sign_in: SignIn) -> None:
    run = runs.pending()
    assert (
        sign_in("alice").get(f"/runs/{run.run_id}/audit-log").data == f"{run.run_id}\nclaims_intake".encode()
    )


def test_the_audit_log_of_a_long_run_is_streamed(
    runs: RunFactory, sign_in: SignIn, statements: Statements
) -> None:
    run = runs.with_many_steps(3_000)
    summary = runs.store.load_summary(run.run_id)
    assert summary is not None
    statements.clear()
    lines = trace_lines(runs.store, summary)
    assert next(lines) == run.run_id
    assert next(lines) and next(lines)
    assert len(statements) == 1  # the first few hundred records, not all of them
    answer = sign_in("alice").get(f"/runs/{run.run_id}/audit-log")
    assert answer.data == runs.engine.get_audit_log(run.run_id).encode()


def test_events_as_jsonl_hold_decisions_and_steps(runs: RunFactory, sign_in: SignIn) -> None:
    run = runs.cleared(note='=1+1\n"quoted", ünï')
    answer = sign_in("alice").get(f"/runs/{run.run_id}/events.jsonl")
    found = [json.loads(line) for line in answer.text.splitlines()]
    kinds = [event["event_type"] for event in found]
    assert kinds[0] == "run.started"
    assert kinds.count("step.recorded") == 2
    assert "gate.approved" in kinds
    assert [event["created_at"] for event in found] == sorted(event["created_at"] for event in found)
    assert any(event["note"] == '=1+1\n"quoted", ünï' for event in found)
    assert answer.headers["Content-Disposition"] == f'attachment; filename="events-{run.run_id}.jsonl"'


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1+1"]


@pytest.mark.parametrize("note", FORMULAS)
def test_no_cell_of_the_csv_is_a_formula(runs: RunFactory, sign_in: SignIn, note: str) -> None:
    run = runs.cleared(note=note, workflow="=cmd|' /C calc'!A0")
    answer = sign_in("alice").get(f"/runs/{run.run_id}/events.csv")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    rows = list(csv.reader(io.StringIO(answer.data.decode(), newline="")))
    head, *lines = rows
    assert head[:4] == ["event_id", "created_at", "event_type", "actor"]
    assert f"'{note}" in [line[head.index("note")] for line in lines]
    for line in lines:
        assert len(line) == len(head)
        assert not [cell for cell in line if cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_the_csv_keeps_to_rfc_4180(runs: RunFactory, sign_in: SignIn) -> None:
    run = runs.cleared(note='two\nlines, "quoted"')
    data = sign_in("alice").get(f"/runs/{run.run_id}/events.csv").data.decode()
    assert data.endswith("\r\n")
    assert '"two\nlines, ""quoted"""' in data
    rows = list(csv.reader(io.StringIO(data, newline="")))
    assert 'two\nlines, "quoted"' in [cell for row in rows for cell in row]


@pytest.mark.parametrize("which", ["input", "output"])
def test_a_value_is_sent_as_it_is_stored(runs: RunFactory, sign_in: SignIn, which: str) -> None:
    run = runs.completed(initial_input={"big": "x" * 100_000, "text": "Zoë </script>"})
    answer = sign_in("alice").get(f"/runs/{run.run_id}/steps/0/{which}")
    record = run.steps[0]
    assert json.loads(answer.data) == (record.input_data if which == "input" else record.output_data)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{which}-0-{run.run_id}.json"'


@pytest.mark.parametrize(
    "part", ["steps/1/output", "steps/99/input", "steps/99999999999/input", "steps/0/both", "steps/x/input"]
)
def test_what_was_not_recorded_is_not_found(runs: RunFactory, sign_in: SignIn, part: str) -> None:
    run = runs.blocked()
    assert sign_in("alice").get(f"/runs/{run.run_id}/{part}").status_code == 404


@pytest.mark.parametrize("part", ["audit-log", "events.jsonl", "events.csv", "steps/0/input"])
def test_a_download_is_an_event(runs: RunFactory, sign_in: SignIn, part: str) -> None:
    run = runs.completed()
    alice = sign_in("alice")
    alice.head(f"/runs/{run.run_id}/{part}")
    assert events(runs.store, EventType.AUDIT_EXPORTED) == []
    assert alice.get(f"/runs/{run.run_id}/{part}").status_code == 200
    (event,) = events(runs.store, EventType.AUDIT_EXPORTED)
    assert (event.actor, event.run_id, event.role) == ("alice@example.org", run.run_id, "auditor")


@pytest.mark.parametrize("part", ["audit-log", "events.jsonl", "events.csv", "steps/0/input"])
def test_a_download_needs_a_person_and_is_never_written(
    runs: RunFactory, client: PageClient, sign_in: SignIn, part: str
) -> None:
    run = runs.completed()
    answer = client.get(f"/runs/{run.run_id}/{part}")
    assert answer.status_code == 303
    assert "/login" in answer.location
    assert sign_in("ana").post(f"/runs/{run.run_id}/{part}").status_code == 405


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("audit-log-a b/c\\d.txt", "audit-log-a_b_c_d.txt"),
        ('events-"x"\r\nSet-Cookie: y.csv', "events-_x_Set-Cookie_y.csv"),
        ("../../etc/passwd", "etc_passwd"),
        ("audit-log-مرحبا\u202e.txt", "audit-log-_.txt"),
    ],
)
def test_file_names_are_plain(name: str, expected: str) -> None:
    assert safe_name(name) == expected
