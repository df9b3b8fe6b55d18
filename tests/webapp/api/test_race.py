"""Two hundred people and programs decide one gate at once, through pages and the API: one counts."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from flask import Flask

from resume_engine.core.permissions import Role
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory
from tests.provision.app_fixtures import signed_in_client
from tests.webapp.api.caller import ApiClient, caller
from webapp.accounts.records import Person

DECISIONS = 200


def test_one_of_two_hundred_decisions_counts(
    app: Flask, page_store: SqlCheckpointStore, people: dict[str, Person]
) -> None:
    run, key = RunFactory(page_store).blocked("permanent"), caller(app, Role.OPERATOR).key
    pages = [signed_in_client(app, page_store, people[name]) for name in ("ana", "oscar", "otto")]
    tokens = [page.csrf for page in pages]

    def decide(number: int) -> tuple[int, str]:
        if number % 2:
            client = ApiClient(app, app.response_class, use_cookies=False)
            client.key = key
            answer = client.post(f"/runs/{run.run_id}/approve", json={"approved_by": f"p{number}"})
            return answer.status_code, answer.text
        page = pages[number % 3]
        kind = "reject" if number % 4 else "human_approval"
        answer = page.post(
            f"/runs/{run.run_id}/decisions/{kind}",
            data={"failure_key": "1:1", "note": "n"},
            token=tokens[number % 3],
        )
        return {303: 200}.get(answer.status_code, answer.status_code), answer.text

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(decide, range(DECISIONS)))
    statuses = Counter(status for status, _ in answers)
    (winner,) = page_store.list_decisions(run.run_id)
    assert statuses[200] == 1, statuses
    assert statuses[409] == DECISIONS - 1, statuses
    told = [text for status, text in answers if status == 409]
    assert all(winner.actor in text or "You " in text for text in told)
