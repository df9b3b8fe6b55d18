"""The page of a run that was deleted after it was finished."""

from __future__ import annotations

from collections.abc import Callable

from resume_engine.core.clock import utc_now
from resume_engine.storage.garbage import collect
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import OLGA, RunFactory, ago, at
from tests.provision.app_fixtures import PageClient


def test_it_says_so_and_where_to_look(
    page_store: SqlCheckpointStore, sign_in: Callable[[str], PageClient]
) -> None:
    with at(ago(days=2)):
        run_id = RunFactory(page_store).completed().run_id
    list(collect(page_store, utc_now(), actor=OLGA))
    ana = sign_in("ana")
    answer = ana.get(f"/runs/{run_id}")
    assert answer.status_code == 404 and f"Run “{run_id}” was deleted after it was finished" in answer.text
    assert "started the run" in ana.get(f"/audit?run={run_id}").text
    assert "deleted finished runs" in ana.get("/audit").text
    assert "There is no run" in ana.get("/runs/never-there").text
