"""A run as text is what its records say, put together without reading payloads and writing them again."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from resume_engine.core import clock
from resume_engine.core.clock import ManualClock
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import PayloadLockedError, PayloadUnreadableError
from resume_engine.core.failure_classifier import PartialStepError, PermanentStepError, TransientStepError
from resume_engine.core.masking import MASK, mask_text, mask_value
from resume_engine.core.run_summary import RunSummary
from resume_engine.storage.audit_queries import AuditQueries
from resume_engine.storage.encryption import EncryptedCodec
from resume_engine.storage.event_texts import event_texts
from resume_engine.storage.open_store import open_store
from resume_engine.storage.payload_codec import PLAIN
from resume_engine.storage.run_text import load_run_text
from resume_engine.storage.schema import step_records
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.guards import unguarded
from tests.stores.query_plans import statements_of

SECRETS = {"apiKey": "k-5e5e5e5e", "nested": [{"password": "hunter2"}], "text": "Bearer abcdef123456"}
ODD = {"name": 'Zoë "q" \\ \n\t', "list": [1, 2.5, True, None, {"a": []}], "big": 10**30, "none": None}


def the_text(store: SqlCheckpointStore, run_id: str, *, masked: bool) -> Any:
    found = load_run_text(store, run_id, masked=masked)
    assert found is not None and found.text is not None
    return json.loads(found.text)


def assert_same(store: SqlCheckpointStore, run_id: str) -> dict[str, Any]:
    """Assert that the text says what the records say, in the same order, as it is and masked."""
    run = store.get_run(run_id)
    assert run is not None
    expected = run.to_dict()
    assert json.dumps(the_text(store, run_id, masked=False)) == json.dumps(expected)
    for step in expected["steps"]:
        step["input_data"], step["output_data"] = (
            mask_value(step["input_data"]),
            mask_value(step["output_data"]),
        )
        if step["error_message"]:
            step["error_message"] = mask_text(step["error_message"])
    expected["metadata"] = mask_value(expected["metadata"])
    assert json.dumps(the_text(store, run_id, masked=True)) == json.dumps(expected)
    return expected


def giving(*outputs: Any) -> list[Any]:
    """Return steps that give these out, or raise them."""

    def step(output: Any) -> Callable[[dict[str, Any], str], dict[str, Any]]:
        def work(state: dict[str, Any], key: str) -> dict[str, Any]:
            if isinstance(output, Exception):
                raise output
            return dict(output)

        return work

    return [(f"step_{at}", step(output)) for at, output in enumerate(outputs)]


def workflow(store: SqlCheckpointStore, initial: dict[str, Any], *outputs: Any, **start: Any) -> str:
    engine = ResumeEngine(store)
    run_id = engine.start_run("w", **start).run_id
    with suppress(TransientStepError, PartialStepError, PermanentStepError):
        engine.execute_workflow(run_id, giving(*outputs), initial_input=initial)
    return run_id


def test_inputs_that_follow_are_put_together(store: SqlCheckpointStore) -> None:
    run_id = workflow(store, {"a": 1}, {"b": 2, "a": "x"}, {}, ODD, {"b": {"deep": [1]}}, {"list": False})
    expected = assert_same(store, run_id)
    assert len(expected["steps"]) == 5
    assert list(expected["steps"][4]["input_data"]) == ["a", "b", *ODD]


def test_secrets_are_masked_wherever_they_stand(store: SqlCheckpointStore) -> None:
    failure = PermanentStepError("refused: password=hunter2")
    run_id = workflow(store, SECRETS, {"token": "t-1"}, {"plain": 1}, failure, metadata=SECRETS)
    assert "hunter2" in json.dumps(the_text(store, run_id, masked=False))
    shown = json.dumps(assert_same(store, run_id), ensure_ascii=False)
    assert "hunter2" not in shown and "k-5e5e5e5e" not in shown and shown.count(MASK) > 12


def test_letters_written_as_escapes_hide_nothing(store: SqlCheckpointStore) -> None:
    run_id = workflow(store, {}, {"field": "hunter2"}, {"b": 1})
    with unguarded(store) as conn:
        hidden = r'{"\u0070assw\u006frd": "hunter2"}'
        conn.execute(update(step_records).where(step_records.c.sequence == 0).values(output_json=hidden))
    assert "hunter2" not in json.dumps(assert_same(store, run_id))


@pytest.mark.parametrize(
    "failure", [TransientStepError("later"), PartialStepError("half é"), PermanentStepError("no")]
)
def test_failures_decisions_and_what_goes_on(store: SqlCheckpointStore, failure: Exception) -> None:
    engine = ResumeEngine(store)
    run_id = workflow(store, {"a": 1}, {"b": 2}, failure, {"c": 3}, environment="prod", metadata={"z": [1]})
    assert_same(store, run_id)
    if isinstance(failure, PartialStepError):
        engine.execute_compensation(run_id, lambda _i, _k: {"undone": True})
    if isinstance(failure, PermanentStepError):
        engine.grant_human_approval(run_id, "ana", note="go")
    engine.ack_prod_resume(run_id, "ana")
    engine.resume(run_id, giving({"b": 2}, {"b": 4}, {"c": 3}), initial_input={"a": 1})
    assert assert_same(store, run_id)["status"] == "completed"


def test_values_that_json_lacks(store: SqlCheckpointStore) -> None:
    engine = ResumeEngine(store)
    run_id = workflow(store, {"a": 1}, {"day": date(2026, 1, 2)}, {"b": 2}, {"$type": "x"})
    assert_same(store, run_id)
    run_id = engine.start_run("single").run_id  # no input follows there: everything stays text
    engine.execute_step(run_id, "s", 0, {"day": date(2026, 1, 2)}, lambda _i, _k: {"$codec": 1, "value": 2})
    assert_same(store, run_id)


def test_a_run_without_records_and_none_at_all(store: SqlCheckpointStore) -> None:
    assert assert_same(store, ResumeEngine(store).start_run("w").run_id)["steps"] == []
    assert load_run_text(store, "nobody", masked=True) is None
    assert load_run_text(store, "no\0body", masked=True) is None


@pytest.mark.parametrize("microsecond", [0, 1, 120_000])
def test_moments_are_written_as_python_writes_them(store: SqlCheckpointStore, microsecond: int) -> None:
    with clock.replaced_by(ManualClock(datetime(2026, 1, 2, 3, 4, 5, microsecond, tzinfo=UTC))):
        assert_same(store, workflow(store, {}, {"a": 1}))


def test_moments_are_in_utc_whatever_the_clock_of_a_session_says(postgres_store: SqlCheckpointStore) -> None:
    run_id = workflow(postgres_store, {}, {"a": 1}, PermanentStepError("no"))
    odd = {"options": "-c TimeZone=Asia/Kolkata -c DateStyle=German"}
    url = postgres_store.engine.url.update_query_dict(odd)
    with open_store(url.render_as_string(hide_password=False)) as there:
        with there.asking() as conn:
            assert conn.exec_driver_sql("SHOW TimeZone").scalar_one() == "Asia/Kolkata"
        expected = assert_same(there, run_id)
        assert_same_events(there, run_id)
    assert expected["steps"] == assert_same(postgres_store, run_id)["steps"]


def test_who_does_not_want_the_records_reads_the_run_alone(store: SqlCheckpointStore) -> None:
    run_id = workflow(store, {}, {"a": 1})
    seen: list[RunSummary] = []

    def refuse(run: RunSummary) -> bool:
        seen.append(run)
        return False

    with statements_of(store) as sent:
        found = load_run_text(store, run_id, masked=True, wanted=refuse)
    assert found == (seen[0], None) and seen == [store.load_summary(run_id)]
    assert len(sent) == 1 and "step_records" not in sent[0].sql


def test_a_mark_that_leads_nowhere_is_told(store: SqlCheckpointStore) -> None:
    run_id = workflow(store, {}, {"a": 1}, {"b": 1})
    with unguarded(store) as conn:
        conn.execute(update(step_records).where(step_records.c.sequence == 1).values(input_json="=7"))
    with pytest.raises(PayloadUnreadableError):
        load_run_text(store, run_id, masked=False)


def test_sealed_payloads_are_opened_or_refused(tmp_path: Path) -> None:
    keys = [EncryptedCodec.generate_key()]
    url = f"sqlite:///{tmp_path / 'run.db'}"
    with open_store(url, codec=EncryptedCodec(keys)) as store:
        run_id = workflow(store, SECRETS, {"b": 2}, PermanentStepError("password=hunter2"))
        assert_same(store, run_id)
    with open_store(url, codec=PLAIN) as store, pytest.raises(PayloadLockedError):
        load_run_text(store, run_id, masked=False)


def test_payloads_stay_text(store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = workflow(store, {"a": 1}, *[{f"f{at % 7}": at, "s": "x", "t": True} for at in range(60)])
    seen: list[str] = []
    decode, encode = json.JSONDecoder.decode, json.JSONEncoder.encode
    monkeypatch.setattr(json.JSONDecoder, "decode", lambda *a: seen.append("read") or decode(*a))
    monkeypatch.setattr(json.JSONEncoder, "encode", lambda *a: seen.append("written") or encode(*a))
    load_run_text(store, run_id, masked=True)
    assert len(seen) <= 6, "once for all records, not once for each"


# Events


def assert_same_events(store: SqlCheckpointStore, run_id: str) -> list[dict[str, Any]]:
    expected = [event.to_dict() for event in AuditQueries(store).stream_run(run_id)]
    found = [json.loads(text) for text in event_texts(store, run_id)]
    assert json.dumps(found) == json.dumps(expected)
    return found


def test_events_as_text_are_those_of_the_records(
    store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ResumeEngine(store)
    failure = PermanentStepError("refused: password=hunter2 é\n")
    run_id = workflow(store, SECRETS, {"token": "t-1"}, failure, {"c": 1}, environment="prod")
    engine.grant_human_approval(run_id, "ana", note="go")
    engine.ack_prod_resume(run_id, "ana")
    engine.resume(run_id, giving({"b": 2}, {"b": 4}, {"c": 3}))
    found = assert_same_events(store, run_id)
    kinds = [event["event_type"] for event in found]
    assert kinds.count("step.recorded") == 4 and kinds[0] == "run.started" and len(kinds) > 7
    assert "hunter2" not in json.dumps(found)
    monkeypatch.setattr("resume_engine.storage.event_texts._ROWS_PER_FETCH", 2)
    assert assert_same_events(store, run_id) == found
    assert list(event_texts(store, "nobody")) == []
