"""The work in Python that a step costs: calls are counted, whoever else uses the machine."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from bench.measure import traffic
from resume_engine.core.engine import ResumeEngine
from resume_engine.storage import postgres_backend
from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.step_append import literals
from tests.stores.changes import change, completed, new_run, summary

MOST = 185
"""Calls of Python and C functions a step: 168 on SQLite, 167 on PostgreSQL; once 241 and 234."""


def calls(store: SqlCheckpointStore, steps: int) -> int:
    """Return the calls that this thread makes for a workflow of so many steps."""
    engine, seen = ResumeEngine(store), Counter[str]()
    run = engine.start_run("w")
    work = [(f"step_{n}", lambda state, key: {"cursor": key[:8], "text": "x" * 200}) for n in range(steps)]

    def count(_: Any, kind: str, __: Any) -> None:
        seen[kind] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        engine.execute_workflow(run.run_id, work, initial_input={"case": 1})
    finally:
        sys.setprofile(before)
    return seen["call"] + seen["c_call"]


def test_a_step_costs_few_calls(sqlite_file_store: SqlCheckpointStore) -> None:
    assert_few_calls(sqlite_file_store)


def test_a_step_costs_few_calls_on_postgresql(postgres_store: SqlCheckpointStore) -> None:
    assert_few_calls(postgres_store)


def assert_few_calls(store: SqlCheckpointStore) -> None:
    calls(store, 5)  # what is done once: connections, compiled statements
    few, many = calls(store, 20), calls(store, 120)
    each = (many - few) / 100
    assert 50 < each <= MOST, f"{each:.1f} calls a step"


def test_a_run_is_begun_and_ended_with_few_statements(postgres_store: SqlCheckpointStore) -> None:
    calls(postgres_store, 1)
    with traffic(postgres_store) as seen:
        calls(postgres_store, 1)
    # The run and its event, the claim, the step, the end and its event; the run is read at each end.
    assert len(seen.statements) == 8, seen.statements
    assert seen.commits == 4  # start, claim, step, end


ODD = (
    "it's",
    "'; DELETE FROM runs; --",
    "back\\slash \\' \\\\",
    "100% %s %(key)s",
    'quoted "ü" 😀 \u2028',
    "$1 $$ E'x'",
    "a\nb\tc",
)


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1"])
@pytest.mark.parametrize("prepares", [True, False], ids=["prepared", "behind a pooler"])
@pytest.mark.parametrize("conforming", ["on", "off"])
def test_odd_texts_are_written_as_they_are(
    postgres_url: str, encoding: str, prepares: bool, conforming: str
) -> None:
    odd = [text.encode(encoding, "ignore").decode(encoding) for text in ODD]
    with open_store(postgres_url) as store:
        store._prepares = prepares  # type: ignore[attr-defined]

        def set_up(connection: Any, cursor: Any, _: set[str]) -> None:
            connection.set_client_encoding(encoding)
            cursor.execute(f"SET standard_conforming_strings = {conforming}")

        store._direct.run(set_up)  # type: ignore[attr-defined]
        append_each(store, odd)
        read = list(store.iter_steps("run-1"))
    assert [step.worker for step in read] == odd
    assert [(step.step_name, step.output_data) for step in read] == [(text, {text: text}) for text in odd]


def append_each(store: SqlCheckpointStore, texts: Sequence[str]) -> None:
    """Append a step for each text, by the short way."""
    run = new_run(store)
    for number, text in enumerate(texts):
        record = completed(number, name=text, output={text: text}, worker=text)
        run = store.commit(change(run, record, lease_seconds=30))
    assert summary(store).steps_completed == len(texts)


def test_without_the_driver_odd_texts_would_not_be_written(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unquoted = partial(literals, quote="'{}'".format)
    monkeypatch.setattr(postgres_backend, "literals", lambda given, _: unquoted(given))
    with open_store(postgres_url) as store, pytest.raises(DBAPIError):
        append_each(store, ODD[:1])


class Disguised(str):
    """Text that shows something else than it holds."""

    def __format__(self, spec: str) -> str:
        return "'; DROP TABLE runs; --"

    def __contains__(self, part: object) -> bool:
        return False

    __str__ = __repr__ = lambda self: "'"


def test_a_text_of_another_kind_is_left_to_the_driver(postgres_url: str) -> None:
    with open_store(postgres_url) as store:
        run = new_run(store)
        record = completed(0, name="step_0", worker=Disguised("it's"))
        store.commit(change(run, record, lease_seconds=30))
        assert [step.worker for step in store.iter_steps("run-1")] == ["it's"]
