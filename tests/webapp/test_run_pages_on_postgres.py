"""Explorer, run page and downloads on PostgreSQL: the same words from the other database."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from resume_engine.core.permissions import Role
from resume_engine.storage.open_store import open_store
from tests.factories import RunFactory
from tests.provision.app_fixtures import CHEAP, PageClient, add_person, signed_in_client
from tests.webapp.test_run_detail import TABS
from webapp import Settings, create_app

FILTERS = (
    "",
    "?q=claims",
    "?q=%25_%5C",
    "?workflow=claims_intake&environment=prod&failure=permanent&blocked_by=human_approval&since=24h",
    "?from=2020-01-01&to=2100-01-01",
    "?error_type=PermanentStepError&message=Invalid+API+key",
    *(f"?status={word}" for word in ("pending", "running", "completed", "failed", "blocked", "cleared")),
    "?status=interrupted",
    "?status=cancelled",
)


@pytest.mark.slow
def test_every_page_of_a_run(postgres_url: str) -> None:
    with open_store(postgres_url) as store:
        app = create_app(Settings(database_url=postgres_url, password_cost=CHEAP), store=store)
        app.test_client_class = PageClient
        ana = signed_in_client(app, store, add_person(store, "ana", Role.OPERATOR))
        runs = RunFactory(store)
        made = [*runs.every_state().values(), runs.legacy(), runs.cleared(run_id="ünï/cødé \u202e")]
        made.append(runs.with_many_steps(120, fail_last=True))
        for query in FILTERS:
            page = ana.get(f"/runs{query}")
            assert page.status_code == 200, query
            assert ana.get(f"/runs{query or '?'}&live=1", htmx=True).status_code == 200
        for run in made:
            address = f"/runs/{quote(run.run_id)}"
            for tab in TABS:
                assert ana.get(f"{address}?tab={tab}").status_code == 200
            for part in ("header", "case", "steps/0", "events.csv", "events.jsonl"):
                assert ana.get(f"{address}/{part}", htmx=True).status_code in (200, 286, 404), part
            assert ana.get(f"{address}/audit-log").data == runs.engine.get_audit_log(run.run_id).encode()
        assert ana.get(f"/runs/{quote('x' * 5_000)}").status_code == 404
