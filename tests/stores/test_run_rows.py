"""A summary is put together field by field from its row: no field may be left out."""

from __future__ import annotations

from dataclasses import fields

from resume_engine.core.run_summary import RunSummary
from resume_engine.storage import run_rows
from resume_engine.storage.run_filter import RunFilter
from resume_engine.storage.run_queries import RunQueries
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory


def test_a_row_gives_every_field_and_what_a_constructor_gives(store: SqlCheckpointStore) -> None:
    runs = RunFactory(store)
    made = [runs.pending(), runs.completed(), runs.blocked("partial", environment="prod")]
    listed = {run.run_id: run for run in RunQueries(store).list_runs(RunFilter()).items}
    for run in made:
        found = listed[run.run_id]
        assert vars(found).keys() == {field.name for field in fields(RunSummary)}
        assert found == RunSummary(**vars(found)) == store.load_summary(run.run_id)


def test_the_columns_of_a_summary_are_read_by_their_place() -> None:
    names = [column.name for column in run_rows.SUMMARY_COLUMNS]
    assert len(names) == len(set(names))
    assert names[: len(run_rows.PLAIN_FIELDS)] == list(run_rows.PLAIN_FIELDS)
