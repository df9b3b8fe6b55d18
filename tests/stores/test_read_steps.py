"""iter_steps, load_step, list_open_failures, get_step_by_idempotency_key: records, read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import insert

from resume_engine.core.step_record import FailureClassification, StepRecord
from resume_engine.core.store import CheckpointStore
from resume_engine.storage import step_rows
from resume_engine.storage.payload_codec import PLAIN
from resume_engine.storage.schema import step_records
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.guards import unguarded
from tests.stores.changes import completed, failed, new_run

MANY = 1_200

OPEN_FAILURES: dict[str, tuple[list[StepRecord], list[int]]] = {
    "none": ([completed(0)], []),
    "one": ([completed(0), failed(1)], [1]),
    "mended": ([failed(0), completed(1, index=0)], []),
    "failed again": ([failed(0), failed(1, index=0)], [1]),
    "failed in a loop": ([completed(0), failed(1, index=0, input_data={"round": 2})], [1]),
    "side by side": ([failed(0), failed(1), completed(2), failed(3)], [0, 1, 3]),
    "one of two mended": ([failed(0), failed(1), completed(2, index=0)], [1]),
    "compensations aside": (
        [
            failed(0, FailureClassification.PARTIAL),
            completed(1, index=0, name="__compensate__step_0"),
            failed(2, index=5, name="__compensate__step_5"),
        ],
        [0],
    ),
}


@pytest.fixture
def many(store: SqlCheckpointStore) -> list[StepRecord]:
    """1,200 records, every third a failure, more than two fetches hold."""
    made = [failed(n) if n % 3 == 2 else completed(n) for n in range(MANY)]
    new_run(store)
    with unguarded(store) as conn:
        conn.execute(insert(step_records), [step_rows.step_values("run-1", record, PLAIN) for record in made])
    return made


def test_every_record_comes_once_and_in_order(store: SqlCheckpointStore, many: list[StepRecord]) -> None:
    assert list(store.iter_steps("run-1")) == many


def test_only_completed_ones_on_request(store: SqlCheckpointStore, many: list[StepRecord]) -> None:
    wanted = [record for record in many if record.is_completed]
    assert list(store.iter_steps("run-1", completed_only=True)) == wanted


def test_nothing_is_held_open_between_records(store: SqlCheckpointStore, many: list[StepRecord]) -> None:
    """A consumer may write to the store, or stop, while it reads."""
    steps: Iterator[StepRecord] = store.iter_steps("run-1")
    assert next(steps) == many[0]
    new_run(store, "run-2")
    assert next(steps) == many[1]
    steps.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("case", OPEN_FAILURES)
def test_open_failures(store: SqlCheckpointStore, case: str) -> None:
    records, expected = OPEN_FAILURES[case]
    new_run(store)
    with unguarded(store) as conn:
        conn.execute(
            insert(step_records), [step_rows.step_values("run-1", record, PLAIN) for record in records]
        )
    assert [record.sequence for record in store.list_open_failures("run-1")] == expected
    # The contract's own way to find them, for stores that have no better one.
    assert [r.sequence for r in CheckpointStore.list_open_failures(store, "run-1")] == expected
