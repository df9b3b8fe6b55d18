"""The chain of the audit: headers, their canonical form, hashes that never change again."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from resume_engine.core.actor import ENGINE_ACTOR
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.audit_chain import (
    canonical,
    completed_text,
    digest,
    entry_hash,
    event_header,
    event_link,
    input_digest,
    links_of,
    moment_text,
    record_hash,
    step_header,
)
from resume_engine.core.payload import encode
from resume_engine.core.run import Environment, RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step_record import FailureClassification, StepRecord, StepStatus

NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
RUN = "0f0e0d0c-0000-4000-8000-000000000001"

GOLDEN_STEP = "b4cbdb7e070c26f623ea16fd5c62e332ad651a7e1480954a908e9399e4f754f7"
GOLDEN_FAILURE = "2a50a099ffbdb5fe39feb48745134cd62f62067e2d9ea441df1fe7bdcc373e69"
GOLDEN_EVENT = "42d105e3ab5983647323412468d4a9dd9d4426fb6a23d21673db1ac2c731fad2"
GOLDEN_NOTED = "d80224249400b2fe189adcfb54d8b3bed6e2c9003e3a44b08036ed0e2428f3aa"


def record(**given: Any) -> StepRecord:
    made = StepRecord(
        step_name="charge",
        step_index=1,
        input_data={"order": "A-17"},
        input_hash="80c9c03d8ba47d02bb8f5ef80ac2c1a50ac6dcdf8ae56d0d3d9ecbd8d3c9ac12",
        output_data={"paid": "ü"},
        status=StepStatus.COMPLETED,
        idempotency_key="b" * 64,
        timestamp=NOON,
        sequence=1,
        worker="host:1:ab",
    )
    return replace(made, **given)


def event(**given: Any) -> AuditEvent:
    made = AuditEvent.by(ENGINE_ACTOR, EventType.RUN_UPDATED, NOON, run_id=RUN, payload={"status": "running"})
    return replace(made, **given)


# Golden values: a release that changes one of them could not verify what an earlier one wrote.


def test_the_hash_of_a_step_never_changes() -> None:
    failed = record(
        status=StepStatus.FAILED,
        output_data=None,
        failure_classification=FailureClassification.PARTIAL,
        error_message="paid – twice",
        error_traceback="Traceback\x00",
        error_type="PartialStepError",
        classified_by="exception",
        started_at=NOON - timedelta(seconds=1),
        duration_ms=1000,
    )
    assert record_hash(RUN, 2, "a" * 64, record()) == GOLDEN_STEP
    assert record_hash(RUN, 3, "c" * 64, failed) == GOLDEN_FAILURE


def test_the_hash_of_an_event_never_changes() -> None:
    first = event_link(RUN, 0, None, event())
    assert (first.seq, first.prev_hash, first.hash) == (1, None, GOLDEN_EVENT)
    noted = event(note="because", failure_key="1:1", actor="Zoë\x00" + "x" * 300)
    assert event_link(RUN, 1, first.hash, noted).hash == GOLDEN_NOTED


def test_a_header_is_what_the_golden_hash_is_made_of() -> None:
    text = canonical(event_header(RUN, 1, None, event(), payload_digest=digest('{"status": "running"}')))
    assert text == (
        '{"actor":"engine","channel":"library","entry":"event","event_type":"run.updated","failure_key":null,'
        f'"note":null,"payload":"{digest(encode({"status": "running"}))}","prev":null,"role":"runner",'
        f'"run_id":"{RUN}","seq":1,"stream":"{RUN}","time":"2026-03-01T12:00:00.123456+00:00","v":1}}'
    )


# What is covered

# The last is no part of a record: it goes with the intent of its attempt.
_NOT_HASHED_THEMSELVES = {"input_text", "output_text", "input_data", "asks_if_interrupted"}


@pytest.mark.parametrize(
    "name", [field.name for field in fields(StepRecord) if field.name not in _NOT_HASHED_THEMSELVES]
)
def test_every_field_of_a_record_is_covered(name: str) -> None:
    other: dict[str, Any] = {
        "output_data": {"paid": "u"},
        "status": StepStatus.FAILED,
        "failure_classification": FailureClassification.TRANSIENT,
        "timestamp": NOON + timedelta(microseconds=1),
        "started_at": NOON,
        **dict.fromkeys(("step_index", "sequence", "attempt", "duration_ms"), 99),
    }
    changed = record(**{name: other.get(name, "other")})
    assert record_hash(RUN, 2, "a" * 64, changed) != record_hash(RUN, 2, "a" * 64, record())


@pytest.mark.parametrize("name", [field.name for field in fields(AuditEvent) if field.name != "event_id"])
def test_every_field_of_an_event_is_covered(name: str) -> None:
    other: dict[str, Any] = {"payload": {"status": "failed"}, "created_at": NOON + timedelta(microseconds=1)}
    changed = event(**{name: other.get(name, "other")})
    assert event_link(RUN, 2, "a" * 64, changed) != event_link(RUN, 2, "a" * 64, event())


def test_place_and_predecessor_are_covered() -> None:
    hashes = {
        record_hash(stream, seq, prev, record())
        for stream in (RUN, "other")
        for seq in (2, 3)
        for prev in (None, "a" * 64, "b" * 64)
    }
    assert len(hashes) == 12


def test_an_input_is_covered_by_its_hash_or_by_a_digest() -> None:
    """A hash that another client sent may be of anything; then the text itself is covered."""
    honest = record(input_hash=_hash_of({"order": "A-17"}))
    assert input_digest(honest, encode(honest.input_data)) is None
    assert input_digest(record(input_hash="0" * 64), "text") == digest("text")
    by_engine = replace(honest, input_text=encode(honest.input_data))
    assert record_hash(RUN, 1, None, by_engine) == record_hash(RUN, 1, None, honest)


def _hash_of(data: dict[str, Any]) -> str:
    from resume_engine.core.payload import payload_hash

    return payload_hash(data)


def test_a_moment_is_written_the_same_whatever_zone_it_was_read_in() -> None:
    there = NOON.astimezone(timezone(timedelta(hours=5)))
    assert {moment_text(NOON), moment_text(there), moment_text(NOON.replace(tzinfo=None))} == {
        "2026-03-01T12:00:00.123456+00:00"
    }
    assert moment_text(NOON.replace(microsecond=0)) == "2026-03-01T12:00:00.000000+00:00"
    assert moment_text(None) is None


# The canonical form

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_HEADER = st.dictionaries(
    st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12),
    st.none() | st.integers(-(2**53) + 1, 2**53 - 1) | _TEXT,
    max_size=12,
)


@given(_HEADER)
def test_headers_are_written_as_rfc_8785_says(header: dict[str, Any]) -> None:
    assert canonical(header).encode() == rfc8785.dumps(header)


@given(_TEXT, _TEXT, st.integers(0, 2**31), st.integers(0, 2**31))
def test_headers_of_steps_stand_inside_the_agreed_domain(
    name: str, worker: str, index: int, duration: int
) -> None:
    made = record(step_name=name, worker=worker, step_index=index, duration_ms=duration)
    header = step_header(RUN, 1, None, made, input_digest=None, output_digest=None)
    assert canonical(header).encode() == rfc8785.dumps(header)
    assert list(header) == sorted(header)


@given(_HEADER, _HEADER)
def test_different_headers_have_different_hashes(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (entry_hash(one) == entry_hash(other)) == (canonical(one) == canonical(other))


# Changes


def test_a_change_chains_its_record_before_its_events() -> None:
    before = RunSummary(
        run_id=RUN,
        workflow_name="billing",
        status=RunStatus.RUNNING,
        environment=Environment.DEV,
        created_at=NOON,
        updated_at=NOON,
        chain_seq=4,
        chain_head="d" * 64,
    )
    change = RunChange(
        before=before, after=before, record=record(), events=(event(note="1"), event(note="2"))
    )
    links = list(links_of(change))
    assert [link.seq for link in links] == [5, 6, 7]
    assert [link.prev_hash for link in links] == ["d" * 64, links[0].hash, links[1].hash]
    assert links[0].hash == record_hash(RUN, 5, "d" * 64, record())
    assert list(links_of(RunChange(before=before, after=before))) == []


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"started_at": None, "duration_ms": None, "worker": None},
        {"step_name": 'odd "name" \\ ü 😀 \x1f\u2028', "worker": "höst:1:a", "attempt": 3},
        {"classified_by": "reconciled after an interruption"},
    ],
    ids=["plain", "nulls", "odd texts", "reconciled"],
)
@pytest.mark.parametrize("ends", [(None, None), ("a" * 64, "b" * 64)], ids=["first", "later"])
def test_the_short_way_to_a_header_writes_the_same(
    fields: dict[str, Any], ends: tuple[str | None, str | None]
) -> None:
    made = record(status=StepStatus.COMPLETED, **fields)
    before, output = ends
    header = step_header(RUN, 7, before, made, input_digest=None, output_digest=output)
    assert completed_text(RUN, 7, before, made, output) == canonical(header)
