"""Two hundred decisions about one gate at once, through pages and API: one counts, the rest are told."""

from __future__ import annotations

import html
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from flask import Flask

from resume_engine.core.audit import EventType
from resume_engine.core.permissions import Role
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory
from tests.provision.app_fixtures import signed_in_client
from tests.webapp.api.caller import caller
from tests.webapp.helpers import events
from webapp.accounts.records import Person

AT_ONCE, EACH = 10, 20


def test_one_counts_and_the_rest_are_told_whose(
    app: Flask, people: dict[str, Person], page_store: SqlCheckpointStore
) -> None:
    run = RunFactory(page_store).blocked(fail_at=1)
    pages = [signed_in_client(app, page_store, people[("ana", "oscar", "otto")[n % 3]]) for n in range(5)]
    keys = [caller(app, Role.OPERATOR) for _ in range(5)]
    together = threading.Barrier(AT_ONCE)

    def by_page(number: int) -> list[tuple[int, str]]:
        answers = []
        for turn in range(EACH):
            kind = "reject" if (number + turn) % 4 == 0 else "human_approval"
            data = {"failure_key": "1:1", "note": "at once"}
            found = pages[number].post(f"/runs/{run.run_id}/decisions/{kind}", data=data, htmx=True)
            answers.append((found.status_code, html.unescape(found.text)))
        return answers

    def by_key(number: int) -> list[tuple[int, str]]:
        body = {"approved_by": "Maria", "failure_key": "1:1"}
        sent = [keys[number].post(f"/runs/{run.run_id}/approve", json=body) for _ in range(EACH)]
        return [(found.status_code, found.text) for found in sent]

    def act(number: int) -> list[tuple[int, str]]:
        together.wait()
        return by_page(number // 2) if number % 2 else by_key(number // 2)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = [answer for several in pool.map(act, range(AT_ONCE)) for answer in several]
    assert Counter(status for status, _ in answers) == {200: 1, 409: AT_ONCE * EACH - 1}
    [decided] = page_store.list_decisions(run.run_id)
    told = [text for status, text in answers if status == 409]
    names = (decided.actor, decided.shown_name, "You approved this", "You rejected this")
    assert [text for text in told if not any(name in text for name in names)] == []
    assert len(events(page_store, EventType.GATE_REFUSED)) == AT_ONCE * EACH - 1
