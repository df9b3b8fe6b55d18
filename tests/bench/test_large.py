"""The table of the large database: both databases are measured, and the large one is left as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import func, select

from bench import large
from bench.databases import Dataset, Shelf
from resume_engine.core.engine import ResumeEngine
from resume_engine.storage.open_store import open_store
from resume_engine.storage.schema import audit_events, runs, step_records


def test_what_was_appended_is_taken_away_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"sqlite:///{tmp_path / 'kept.db'}"
    monkeypatch.setattr(large, "STEPS", 3)
    monkeypatch.setattr(Shelf, "open", lambda _, backend, size: Dataset(backend, size, open_store(address)))
    with open_store(address) as store:
        engine = ResumeEngine(store)
        kept = engine.start_run("kept").run_id
        engine.execute_workflow(kept, [("a", lambda state, key: {})], initial_input={})
    line = large.report(Shelf(tmp_path, None), 1, 2).splitlines()[-1]
    assert line.split()[:2] == ["sqlite", "10"], "the kept step, and three in each of three rounds"
    with open_store(address) as store, store.reading() as conn:
        assert conn.execute(select(runs.c.run_id)).scalars().all() == [kept]
        for of_runs in (step_records, audit_events):
            found = conn.execute(select(of_runs.c.run_id).where(of_runs.c.run_id.is_not(None)))
            assert set(found.scalars()) == {kept}
        assert conn.execute(select(func.count()).select_from(step_records)).scalar_one() == 1
