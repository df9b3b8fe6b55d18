"""Keys, numbers and probes on PostgreSQL: the same from the other database."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from resume_engine.core import clock
from resume_engine.core.permissions import Role
from resume_engine.core.run import Environment
from resume_engine.storage.open_store import open_store
from tests.factories import RunFactory
from tests.provision.app_fixtures import CHEAP, SYSTEM
from tests.webapp.test_metrics import numbers
from webapp import Settings, create_app
from webapp.extensions import services
from webapp.keys.records import KeyChangeError, KeyRefusedError


@pytest.mark.slow
def test_the_life_of_a_key_and_the_numbers(postgres_url: str) -> None:
    with open_store(postgres_url) as store:
        app = create_app(Settings(database_url=postgres_url, password_cost=CHEAP), store=store)
        keys = services(app).keys
        outcomes: list[str] = []

        def make(number: int) -> None:
            try:
                keys.create("ci" if number % 2 else "CI", Role.RUNNER, actor=SYSTEM)
                outcomes.append("made")
            except KeyChangeError:
                outcomes.append("refused")

        threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(outcomes) == ["made"] + ["refused"] * 7

        ends = clock.utc_now() + timedelta(days=1)
        old = keys.create(
            "prod", Role.AUDITOR, actor=SYSTEM, expires_at=ends, environments=[Environment.PROD]
        )
        assert old.key.expires_at == ends
        new = keys.rotate(old.key.key_id, actor=SYSTEM, grace=timedelta(hours=1))
        for made in (old, new):
            answer = app.test_client().get("/api/runs", headers={"Authorization": f"Bearer {made.text}"})
            assert answer.status_code == 200
        keys.revoke(old.key.key_id, actor=SYSTEM)
        with pytest.raises(KeyRefusedError, match="revoked"):
            keys.authenticate(old.text)

        runs = RunFactory(store)
        runs.completed()
        runs.blocked("permanent")
        runs.cleared("permanent")
        found = numbers(app.test_client().get("/metrics"))
        assert found["resume_engine_runs"][("completed",)] == 1
        assert found["resume_engine_closed_gates"] == {("dev", "human_approval"): 1}
        assert ("human_approval", "0.9") in found["resume_engine_decision_wait_seconds"]
        asked = clock.utc_now()
        ready = app.test_client().get("/ready").json
        assert ready is not None
        # Both clocks are this machine's, so only the question's own time lies between.
        question = (clock.utc_now() - asked).total_seconds()
        assert abs(ready["clock_difference_seconds"]) <= question / 2 + 0.01


def test_a_key_is_looked_up_again_when_its_connection_was_cut(postgres_url: str) -> None:
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND {}"
    ours = "datname = current_database()"
    with open_store(postgres_url) as store, open_store(postgres_url) as other:
        app = create_app(Settings(database_url=postgres_url, password_cost=CHEAP), store=store)
        made = services(app).keys.create("ci", Role.AUDITOR, actor=SYSTEM)
        headers = {"Authorization": f"Bearer {made.text}"}
        assert app.test_client().get("/api/runs", headers=headers).status_code == 200
        with other.writing() as conn:
            conn.exec_driver_sql(others.format(ours))
        assert services(app).keys.authenticate(made.text).key_id == made.key.key_id
