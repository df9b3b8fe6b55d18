"""Runs, step records and audit events: their shape as JSON and as lines of a trace."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.audit import AuditEvent, EventType, step_event
from resume_engine.core.audit_export import COLUMNS, csv_lines, formula_safe, jsonl_lines
from resume_engine.core.permissions import Role
from resume_engine.core.run import Environment, Run, RunStatus, open_failures
from resume_engine.core.step_record import StepKind, StepRecord, StepStatus
from tests.stores.changes import NOON, completed, event, failed

STEP_KEYS_OF_0_2_0 = [
    "step_name",
    "step_index",
    "input_data",
    "input_hash",
    "output_data",
    "status",
    "idempotency_key",
    "timestamp",
    "failure_classification",
    "error_message",
    "sequence",
]


def run(*steps: StepRecord, **fields: object) -> Run:
    return Run(run_id="run-1", workflow_name="billing", steps=list(steps), **fields)


def test_a_record_survives_json() -> None:
    for record in (
        completed(0, started_at=NOON, duration_ms=5, worker="w", attempt=3),
        failed(1, classified_by="raised as PermanentStepError"),
    ):
        data = json.loads(json.dumps(record.to_dict()))
        assert StepRecord.from_dict(data) == record
        assert list(data)[: len(STEP_KEYS_OF_0_2_0)] == STEP_KEYS_OF_0_2_0


def test_a_record_of_0_2_0_is_understood() -> None:
    data = {name: completed(0).to_dict()[name] for name in STEP_KEYS_OF_0_2_0}
    assert StepRecord.from_dict(data) == completed(0)
    del data["sequence"], data["output_data"], data["error_message"], data["failure_classification"]
    found = StepRecord.from_dict(data | {"timestamp": "2026-03-01T12:00:00"})
    assert (found.sequence, found.output_data) == (0, None)
    assert found.timestamp == datetime(2026, 3, 1, 12, tzinfo=UTC), "a naive time is UTC"


def test_a_run_survives_json() -> None:
    made = run(completed(0), failed(1), metadata={"a": [1]}, environment=Environment.PROD)
    data = json.loads(json.dumps(made.to_dict()))
    assert Run.from_dict(data) == made
    assert list(data) == [
        "run_id",
        "workflow_name",
        "status",
        "environment",
        "created_at",
        "updated_at",
        "metadata",
        "steps",
    ]


def test_a_run_of_0_2_0_is_understood() -> None:
    data = run(metadata={"environment": "prod"}).to_dict()
    del data["environment"], data["steps"]
    found = Run.from_dict(data)
    assert (found.environment, found.steps) == (Environment.PROD, [])
    elsewhere = datetime(2026, 3, 1, 5, tzinfo=timezone(timedelta(hours=-7)))
    assert Run.from_dict(data | {"created_at": elsewhere.isoformat()}).created_at == elsewhere


def test_a_trace_line_has_seven_keys_in_order_and_no_clock() -> None:
    line = json.loads(failed(1).audit_line())
    assert list(line) == [
        "idempotency_key",
        "input_hash",
        "output_data",
        "sequence",
        "status",
        "step_index",
        "step_name",
    ]
    assert failed(1).audit_line() == failed(1, timestamp=NOON + timedelta(days=1), attempt=9).audit_line()


def test_a_trace_is_in_the_order_of_the_sequences() -> None:
    lines = run(completed(1), completed(0)).audit_trace().split("\n")
    assert lines[:2] == ["run-1", "billing"]
    assert [json.loads(line)["sequence"] for line in lines[2:]] == [0, 1]
    assert run().audit_trace() == "run-1\nbilling"


@pytest.mark.parametrize(
    ("records", "completed_index", "resume_index"),
    [
        ([], None, 0),
        ([completed(0)], 0, 1),
        ([completed(0), completed(1)], 1, 2),
        ([completed(0, index=0), completed(1, index=2)], 2, 1),
        ([failed(0)], None, 0),
        ([failed(0), completed(1, index=0, name="__compensate__step_0")], None, 0),
    ],
)
def test_where_a_run_goes_on(
    records: list[StepRecord], completed_index: int | None, resume_index: int
) -> None:
    made = run(*records)
    assert made.last_completed_step_index() == completed_index
    assert made.resume_from_index() == resume_index


def test_failures_of_a_run() -> None:
    made = run(failed(0), completed(1, index=0), failed(2, index=1), failed(3, index=5))
    assert made.last_failed_step() == failed(3, index=5)
    assert made.open_failure() == failed(3, index=5)
    assert open_failures(made.steps) == [failed(2, index=1), failed(3, index=5)]
    assert run().last_failed_step() is None and run(completed(0)).open_failure() is None


def test_what_a_record_is() -> None:
    assert completed(0).kind is StepKind.STEP
    assert completed(0, name="__compensate__x").kind is StepKind.COMPENSATION
    assert completed(0, status=StepStatus.SKIPPED_REPLAY).is_completed
    assert failed(0).is_failed and not failed(0).is_completed
    assert failed(7, index=3).failure_key == "3:7"


def test_statuses_of_0_2_0_are_all_there() -> None:
    assert {"pending", "running", "completed", "failed", "paused"} <= {str(status) for status in RunStatus}
    assert [str(status) for status in StepStatus] == [
        "pending",
        "running",
        "completed",
        "failed",
        "skipped_replay",
    ]


# Audit events


def test_an_event_says_who_did_what_when() -> None:
    olga = Actor(name="olga@example.com", role=Role.OPERATOR, channel=Channel.CLI)
    made = AuditEvent.by(
        olga, EventType.GATE_APPROVED, NOON, run_id="run-1", failure_key="0:0", note="n", payload={"a": 1}
    )
    assert made.to_dict() == {
        "event_id": None,
        "event_type": "gate.approved",
        "actor": "olga@example.com",
        "role": "operator",
        "channel": "cli",
        "run_id": "run-1",
        "failure_key": "0:0",
        "note": "n",
        "payload": {"a": 1},
        "created_at": NOON.isoformat(),
    }


def test_a_step_event_is_derived_from_its_record() -> None:
    made = step_event("run-1", failed(1, worker="w-1"))
    assert (made.event_type, made.actor, made.created_at, made.failure_key) == (
        "step.recorded",
        "w-1",
        NOON,
        "1:1",
    )
    assert made.payload["failure_classification"] == "permanent"
    assert step_event("run-1", completed(0)).actor == "engine"
    assert step_event("run-1", completed(0)).failure_key is None


EVENTS = [
    event(note='=HYPERLINK("http://x")', actor="+1", event_id=1),
    event(note='line\nline, "quoted" ü', payload={"a": "=1"}, event_id=2),
]


def test_events_as_json_lines() -> None:
    lines = list(jsonl_lines(EVENTS))
    assert [json.loads(line) for line in lines] == [made.to_dict() for made in EVENTS]
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in lines)


def test_events_as_csv_without_formulas() -> None:
    found = list(csv.DictReader(csv_lines(EVENTS)))
    assert list(found[0]) == list(COLUMNS)
    assert (found[0]["note"], found[0]["actor"]) == ('\'=HYPERLINK("http://x")', "'+1")
    assert found[1]["note"] == 'line\nline, "quoted" ü'
    assert json.loads(found[1]["payload"]) == {"a": "=1"}
    assert found[1]["failure_key"] == ""


@pytest.mark.parametrize("cell", ["=1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", "  =1"])
def test_what_a_spreadsheet_would_calculate(cell: str) -> None:
    assert formula_safe(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["", "a=1", "1", "olga@example.com", "2026-03-01"])
def test_what_it_would_not(cell: str) -> None:
    assert formula_safe(cell) == cell
