"""Inputs that follow from the record are not stored, and every way to read a record gives them whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from sqlalchemy import select

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import PayloadUnreadableError
from resume_engine.core.failure_classifier import TransientStepError
from resume_engine.core.idempotency import generate_idempotency_key, hash_input
from resume_engine.core.payload import payload_hash
from resume_engine.core.retry import Backoff, RetryPolicy
from resume_engine.core.step import Step
from resume_engine.core.step_record import StepRecord
from resume_engine.storage.encryption import EncryptedCodec
from resume_engine.storage.key_rotation import count_unsealed, rotate_keys
from resume_engine.storage.open_store import open_store
from resume_engine.storage.payload_codec import PLAIN, SEALED_MARK
from resume_engine.storage.revealed import Field, load_revealed
from resume_engine.storage.schema import step_records
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.step_queries import StepQueries
from resume_engine.storage.verification import verify
from tests.guards import unguarded

INITIAL = {"order": 7, "tags": ["a", {"b": None}], "name": "Zoë"}


def growing(count: int, seen: list[dict[str, Any]] | None = None) -> list[Any]:
    """Return steps that each add a field of the same length, and spoil what they were given."""

    def step(index: int) -> Any:
        def work(state: dict[str, Any], key: str) -> dict[str, Any]:
            if seen is not None:
                seen.append(json.loads(json.dumps(state)))
            state["tags"].clear()
            state["spoilt"] = True
            return {f"field_{index:04}": {"list": [1, 2.5, True, None]}, "last": f"{index:04}"}

        return work

    return [(f"step_{index:04}", step(index)) for index in range(count)]


def expected(index: int) -> dict[str, Any]:
    """Return what the step at `index` of such a workflow is given."""
    state: dict[str, Any] = dict(INITIAL)
    for earlier in range(index):
        state[f"field_{earlier:04}"] = {"list": [1, 2.5, True, None]}
        state["last"] = f"{earlier:04}"
    return state


def stored_inputs(store: SqlCheckpointStore, run_id: str) -> list[str]:
    """Return what the input columns of a run hold, by sequence."""
    columns = select(step_records.c.input_json).where(step_records.c.run_id == run_id)
    with store.reading() as conn:
        return list(conn.execute(columns.order_by(step_records.c.sequence)).scalars())


def assert_whole(store: SqlCheckpointStore, run_id: str) -> list[StepRecord]:
    """Assert that all ways to read the records of a run agree, and that inputs are what their hashes say."""
    run = store.get_run(run_id)
    assert run is not None
    for record in run.steps:
        assert payload_hash(record.input_data) == record.input_hash
        key = generate_idempotency_key(run_id, record.step_name, record.step_index, record.input_hash)
        assert record.idempotency_key == key
        assert store.load_step(run_id, record.sequence) == record
        if record.is_completed:
            assert store.get_step_by_idempotency_key(key) == record
    assert list(store.iter_steps(run_id)) == run.steps
    assert list(store.iter_steps(run_id, completed_only=True)) == [r for r in run.steps if r.is_completed]
    return run.steps


def test_stored_bytes_stay_constant_while_the_state_grows(store: SqlCheckpointStore) -> None:
    seen: list[dict[str, Any]] = []
    engine = ResumeEngine(store)
    run_id = engine.start_run("w").run_id
    engine.execute_workflow(run_id, growing(40, seen), initial_input=INITIAL)
    first, *others = stored_inputs(store, run_id)
    assert json.loads(first) == INITIAL
    assert {len(text) for text in others} == {2}, "a mark, whatever the state holds"
    records = assert_whole(store, run_id)
    assert seen == [expected(index) for index in range(40)], "steps are given all of it"
    assert [record.input_data for record in records] == seen
    assert [record.input_hash for record in records] == [hash_input(state) for state in seen]
    assert engine.replay_run(run_id, growing(40), initial_input=INITIAL)[0].steps == records


def test_pages_and_reveals_show_it_whole(store: SqlCheckpointStore) -> None:
    engine = ResumeEngine(store)
    run_id = engine.start_run("w").run_id
    engine.execute_workflow(run_id, growing(5), initial_input=INITIAL)
    queries, text = StepQueries(store), json.dumps(expected(4))
    view = queries.load_step_view(run_id, 4)
    assert view is not None and json.loads(view.input_preview) == expected(4) and view.input_size == len(text)
    assert json.loads(queries.load_step_json(run_id, 4, "input") or "") == expected(4)
    assert load_revealed(store, run_id, Field.INPUT, 4) == text
    listed = queries.list_steps(run_id)[0]
    assert [step.sequence for step in listed] == [0, 1, 2, 3, 4]
    assert json.loads(listed[4].input_preview).keys() == {"follows"}


def failing_once(count: int, at: int, retry: bool) -> list[Any]:
    """Return such steps, of which one fails at its first attempt."""
    calls: list[int] = []
    steps = growing(count)

    def fails_once(state: dict[str, Any], key: str) -> dict[str, Any]:
        calls.append(at)
        if len(calls) == 1:
            raise TransientStepError("not yet")
        output: dict[str, Any] = steps[at][1](state, key)
        return output

    policy = RetryPolicy(attempts=2 if retry else 1, backoff=Backoff(base_seconds=0.001))
    return [Step(n, fails_once, retry=policy) if i == at else Step(n, f) for i, (n, f) in enumerate(steps)]


def test_a_failed_attempt_keeps_its_input(store: SqlCheckpointStore) -> None:
    engine = ResumeEngine(store)
    run_id = engine.start_run("w").run_id
    steps = failing_once(6, 3, retry=False)
    with pytest.raises(TransientStepError):
        engine.execute_workflow(run_id, steps, initial_input=INITIAL)
    engine.resume(run_id, steps)
    texts = stored_inputs(store, run_id)
    assert [text if text.startswith("=") else "kept" for text in texts] == [
        "kept", "=0", "=0", "kept", "kept", "=4", "=4",
    ]  # fmt: skip
    assert [r.input_data for r in assert_whole(store, run_id)] == [expected(i) for i in (0, 1, 2, 3, 3, 4, 5)]


def test_a_retry_within_the_run_does_not_interrupt_it(store: SqlCheckpointStore) -> None:
    engine = ResumeEngine(store)
    run_id = engine.start_run("w").run_id
    engine.execute_workflow(run_id, failing_once(4, 2, retry=True), initial_input=INITIAL)
    texts = stored_inputs(store, run_id)
    assert [text if text.startswith("=") else "kept" for text in texts] == ["kept", "=0", "kept", "=0", "=0"]
    assert [r.input_data for r in assert_whole(store, run_id)] == [expected(i) for i in (0, 1, 2, 2, 3)]


def test_steps_out_of_order(store: SqlCheckpointStore) -> None:
    engine = ResumeEngine(store)
    run_id = engine.start_run("w").run_id
    steps = [Step(name, fn) for name, fn in growing(5)]
    engine.execute_step(run_id, steps[2].name, 2, INITIAL, steps[2].fn)
    engine.resume(run_id, steps, initial_input=INITIAL)
    records = assert_whole(store, run_id)
    assert [record.step_index for record in records] == [2, 0, 1, 3, 4]
    assert records[3].input_data == expected(3), "behind a step that was done before"
    assert [text[:1] for text in stored_inputs(store, run_id)] == ["{", "{", "=", "{", "="]


def test_single_steps_keep_what_they_were_given(store: SqlCheckpointStore) -> None:
    engine = ResumeEngine(store)
    run_id = engine.start_run("w").run_id
    for index in range(3):
        engine.execute_step(run_id, "same", index, {"n": index}, lambda data, key: {"out": data["n"]})
    assert [json.loads(text) for text in stored_inputs(store, run_id)] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert_whole(store, run_id)


@pytest.mark.parametrize(
    "odd",
    [
        {"due": date(2026, 11, 25)},
        {"$type": "dict"},
        {"$codec": 1, "value": 2},
        {"text": "\ud83d\ude00 \ud83d"},  # halves of a character, two of which become one
        {"text": "$type", 3: "a key that is no text"},
        {"big": 10**30, "nested": {"$codec": [1]}},
        {},
    ],
    ids=lambda odd: next(map(str, odd), "nothing"),
)
def test_what_is_not_plain_reads_back_all_the_same(store: SqlCheckpointStore, odd: dict[Any, Any]) -> None:
    given: list[dict[str, Any]] = []

    def record(state: dict[str, Any], key: str) -> dict[str, Any]:
        given.append(state)
        return {f"plain_{len(given)}": 1}

    steps = [("a", record), ("odd", lambda data, key: odd), ("b", record), ("c", record)]
    engine = ResumeEngine(store)
    run_id = engine.start_run("w").run_id
    engine.execute_workflow(run_id, steps, initial_input={"x": 1})
    records = assert_whole(store, run_id)
    assert [records[n].input_data for n in (0, 2, 3)] == given
    engine.replay_run(run_id, steps)


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[str]:
    """A fresh database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'x.db'}"
    else:
        yield request.getfixturevalue("postgres_url")


@pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True)
def test_sealed_and_rotated(url: str) -> None:
    old, new = EncryptedCodec.generate_key(), EncryptedCodec.generate_key()
    with open_store(url, codec=EncryptedCodec([old])) as store:
        engine = ResumeEngine(store)
        run_id = engine.start_run("w").run_id
        engine.execute_workflow(run_id, growing(4), initial_input=INITIAL)
        records = assert_whole(store, run_id)
        assert stored_inputs(store, run_id)[0].startswith(SEALED_MARK)
    with open_store(url, codec=EncryptedCodec([new, old])) as store:
        rotate_keys(store)
        assert count_unsealed(store) == 0 and verify(store) == []
        assert stored_inputs(store, run_id)[1:] == ["=0"] * 3
    with open_store(url, codec=EncryptedCodec([new])) as store:
        assert assert_whole(store, run_id) == records
    with open_store(url, codec=PLAIN) as store:
        view = StepQueries(store).load_step_view(run_id, 3)
        assert view is not None and "encrypted" in view.input_preview


def test_a_mark_without_its_record_is_refused(store: SqlCheckpointStore) -> None:
    engine = ResumeEngine(store)
    run_id = engine.start_run("w").run_id
    engine.execute_workflow(run_id, growing(3), initial_input=INITIAL)
    with unguarded(store) as conn:
        conn.execute(step_records.delete().where(step_records.c.sequence == 0))
    with pytest.raises(PayloadUnreadableError, match="follows from record 0"):
        store.get_run(run_id)
    with pytest.raises(PayloadUnreadableError, match="follows from record 0"):
        store.load_step(run_id, 2)
