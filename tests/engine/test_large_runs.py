"""A long run is executed, returned and resumed without holding its records in memory."""

from __future__ import annotations

import copy
import json
import pickle
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import RunNotFoundError
from resume_engine.core.run import Run
from resume_engine.core.run_summary import RunSummary
from resume_engine.storage import step_rows
from resume_engine.storage.open_store import open_store
from resume_engine.storage.schema import step_records
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.guards import unguarded


def counting(length: int) -> list[Any]:
    """Return steps whose state stays of one size."""
    return [(f"step_{n}", lambda state, key: {"n": state["n"] + 1}) for n in range(length)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlCheckpointStore]:
    """A store on a file, which outlives its connections."""
    with open_store(f"sqlite:///{tmp_path / 'x.db'}") as opened:
        yield opened


@pytest.fixture
def engine(store: SqlCheckpointStore) -> ResumeEngine:
    return ResumeEngine(store)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the records that are made of rows."""
    seen: list[int] = []
    make = step_rows.step_from_row

    def counted(row: Any, *given: Any) -> Any:
        seen.append(row.sequence)
        return make(row, *given)

    monkeypatch.setattr(step_rows, "step_from_row", counted)
    return seen


def executed(engine: ResumeEngine, length: int) -> Run:
    started = engine.start_run("w")
    return engine.execute_workflow(started.run_id, counting(length), initial_input={"n": 0})


def test_records_are_read_when_they_are_asked_for(engine: ResumeEngine, read: list[int]) -> None:
    run = executed(engine, 30)
    assert read == [], "nobody asked"
    assert run.status == "completed" and read == []
    assert [step.sequence for step in run.steps] == list(range(30)) == read
    assert run.steps is run.steps and len(read) == 30, "once"


def test_such_a_run_is_a_run_like_any_other(engine: ResumeEngine, store: SqlCheckpointStore) -> None:
    run_id = executed(engine, 3).run_id
    whole = store.get_run(run_id)
    assert whole is not None and "_load_steps" not in vars(whole)

    def fresh() -> Run:
        found = store.load_run(run_id)
        assert found is not None and "steps" not in vars(found)
        return found

    assert fresh() == whole and whole == fresh() and repr(fresh()) == repr(whole)
    assert fresh().to_dict() == whole.to_dict() and fresh().audit_trace() == whole.audit_trace()
    assert pickle.loads(pickle.dumps(fresh())) == copy.deepcopy(fresh()) == copy.copy(fresh()) == whole
    assert Run.from_dict(json.loads(json.dumps(fresh().to_dict()))).steps == whole.steps
    with pytest.raises(AttributeError, match="no attribute 'stepz'"):
        _ = fresh().stepz  # type: ignore[attr-defined]


def test_it_shows_the_records_of_the_moment_it_was_read(engine: ResumeEngine) -> None:
    run = engine.start_run("w")
    engine.execute_step(run.run_id, "a", 0, {}, lambda data, key: {})
    early = engine._full(run.run_id)
    engine.execute_step(run.run_id, "b", 1, {}, lambda data, key: {})
    assert [step.step_name for step in early.steps] == ["a"]


def test_of_a_run_that_was_collected_since_nothing_is_made_up(
    engine: ResumeEngine, store: SqlCheckpointStore
) -> None:
    run = executed(engine, 3)
    with unguarded(store) as conn:
        conn.execute(step_records.delete())
    with pytest.raises(RunNotFoundError):
        _ = run.steps


def test_memory_does_not_grow_with_the_number_of_steps(engine: ResumeEngine) -> None:
    def peak(length: int) -> int:
        steps = counting(length)
        run = engine.start_run("w")
        tracemalloc.start()
        engine.execute_workflow(run.run_id, steps, initial_input={"n": 0})
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)
    short, long = peak(200), peak(1_200)
    # The steps themselves, their names and what the caller made of them: 300 bytes each; a record has 2 KB.
    assert (long - short) / 1_000 < 600, f"{(long - short) / 1_000:.0f} bytes a step"


def test_a_resume_reads_what_it_needs(
    engine: ResumeEngine, store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = counting(40)
    run = engine.start_run("w")
    with pytest.raises(Exception, match="Injected"):
        engine.execute_workflow(run.run_id, steps, initial_input={"n": 0}, inject_failure_at=39)
    asked: list[RunSummary] = []
    original = type(store).iter_steps

    def iter_steps(self: Any, run_id: str, **options: Any) -> Any:
        asked.append(run_id)
        return original(self, run_id, **options)

    monkeypatch.setattr(type(store), "iter_steps", iter_steps)
    engine.resume(run.run_id, steps)
    assert asked == [], "outputs come without inputs, keys and times"
    final = store.get_run(run.run_id)
    assert final is not None and final.steps[-1].output_data == {"n": 40}
