"""The overview: the person's work first, and every number leads to exactly the runs it counts."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from urllib.parse import parse_qs, urlsplit

from werkzeug.datastructures import MultiDict

from resume_engine.core.clock import utc_now
from resume_engine.storage.run_queries import RunQueries
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory, ago, at, steps
from tests.provision.app_fixtures import PageClient
from tests.webapp.test_gates import listed
from webapp.pages import run_url

SignIn = Callable[[str], PageClient]


def listed_by(client: PageClient, store: SqlCheckpointStore, href: str) -> int:
    """Return how many runs an address of the explorer lists; the page itself must accept it."""
    assert client.get(href).status_code in (200, 303), href
    args = MultiDict({name: found[0] for name, found in parse_qs(urlsplit(href).query).items()})
    address = run_url.read(args, utc_now())
    assert not address.problems
    return len(RunQueries(store).list_runs(address.filter, limit=10_000).items)


def a_week_of_runs(runs: RunFactory) -> None:
    """Make runs in every state, today and on earlier days, with several causes of failure."""
    runs.every_state()
    for hours in (3, 30, 100, 166):
        with at(ago(hours=hours)):
            runs.completed()
            runs.failed(message="payment gateway timed out")
            runs.failed(message="payment gateway timed out twice")
            runs.blocked("permanent", message="x" * 119 + " and what comes later differs" + str(hours))
            runs.blocked("partial", message="half\nof it", environment="prod")
            runs.blocked("permanent", message="100% _of_ \\ 'quoted' \"it\" <b>")
            runs.blocked("permanent", message="\n  blanks around it  ")
            runs.cancelled(message="payment gateway timed out")
    with at(ago(days=8)):
        runs.completed()
        runs.blocked("permanent", message="too old to count")
    # One that failed for the same cause, was approved and is at work again: no failure stands any more.
    again = runs.blocked("permanent", message="half\nof it")
    runs.engine.grant_human_approval(again.run_id, "someone")
    runs.engine.resume(again.run_id, steps(3))


def test_every_number_leads_to_exactly_the_runs_it_counts(runs: RunFactory, ana: PageClient) -> None:
    a_week_of_runs(runs)
    text = ana.get("/").text
    figures = re.findall(
        r'<a href="(/runs\?[^"]+)"><span class="state[^>]*>.*?<b class="num">(\d+)</b>', text, re.S
    )
    assert len(figures) >= 12  # states of a day and of a week
    causes = re.findall(
        r'<a class="grow truncate" href="(/runs\?[^"]+)".*?<b class="num">(\d+) ×</b>', text, re.S
    )
    assert len(causes) >= 5
    for href, number in figures + causes:
        assert listed_by(ana, runs.store, unescape(href)) == int(number), unescape(href)


def test_what_waits_leads_to_exactly_that_queue(runs: RunFactory, ana: PageClient) -> None:
    a_week_of_runs(runs)
    text = ana.get("/").text
    kinds = re.findall(
        r'<a class="button plain" href="(/gates\?kind=[^"]+)">.*?<b class="num">(\d+)</b>', text, re.S
    )
    assert len(kinds) == 3
    prod = re.search(r'href="(/gates\?environment=prod)"><strong>(\d+)</strong>', text)
    total = re.search(r'<a href="(/gates)">(\d+) waiting for a person</a>', text)
    assert prod is not None
    assert total is not None
    for href, number in [*kinds, prod.groups(), total.groups()]:
        assert len(listed(ana.get(unescape(href)).text)) == int(number), href


def test_it_opens_on_the_oldest_gate_in_place(runs: RunFactory, ana: PageClient) -> None:
    with at(ago(hours=3, minutes=12)):
        oldest = runs.blocked("permanent", message="Invalid API key", fail_at=1)
    runs.blocked("permanent", message="Newer", workflow="billing_close")
    text = ana.get("/").text
    assert "2 waiting for a person" in text
    assert "3 h 12 m" in text
    assert "Invalid API key" in text
    action = re.search(r'<form class="gate-form" method="post" action="([^"]+)"', text)
    assert action is not None
    assert action.group(1) == f"/runs/{oldest.run_id}/decisions/human_approval"
    answer = ana.post(action.group(1), data={"failure_key": "1:1", "note": ""})  # one press, no reason needed
    assert answer.status_code == 303
    assert "Waiting for a runner" in ana.get(answer.location).text


def test_half_decided_shows_who_did_the_first_half(runs: RunFactory, ana: PageClient) -> None:
    run = runs.blocked("partial", environment="prod")
    runs.engine.record_compensation(run.run_id, result={"refund_id": "r-1"}, note="by hand")
    text = ana.get("/").text
    assert "Compensation recorded" in text
    assert "decision 2 of 2" in text
    assert "Acknowledge prod resume" in text


def test_nothing_waits_and_nothing_happened(ana: PageClient) -> None:
    text = ana.get("/").text
    assert "Nobody has to decide anything right now" in text
    assert "No run was created in this time." in text
    assert "No failure of this time is still open." in text
    assert "Nobody has decided anything in the last 7 days." in text


def test_latest_decisions_say_who_and_where_the_run_stands_now(runs: RunFactory, ana: PageClient) -> None:
    with at(ago(days=8)):
        runs.cleared(workflow="long_ago")
    run = runs.cleared(workflow="claims_intake")
    runs.engine.resume(run.run_id, steps(3))
    runs.cancelled(workflow="billing_run")
    text = ana.get("/overview/figures").text
    lines = re.findall(r"<li><span class=\"grow\"><a href=.*?</li>", text, re.S)
    words = [" ".join(re.sub(r"<svg.*?</svg>|<[^>]+>", " ", line).split()) for line in lines]
    assert [line.rsplit(" ", 2)[0] for line in words] == [
        "billing_run dev rejected by olga@example.com cancelled",
        "claims_intake dev approved by olga@example.com completed",
    ]
    assert f'href="/runs/{run.run_id}"' in lines[1]


def test_at_most_six_statements(runs: RunFactory, ana: PageClient, statements: list[str]) -> None:
    a_week_of_runs(runs)
    half = runs.store.load_summary(runs.blocked("partial", environment="prod").run_id)
    assert half is not None
    ana.get("/")
    for _ in range(2):
        statements.clear()
        ana.get("/")
        assert len(statements) <= 6, "\n".join(statements)
        runs.engine.record_compensation(half.run_id)  # half-decided: its receipt costs nothing more
        break
    statements.clear()
    ana.get("/")
    assert len(statements) <= 6, "\n".join(statements)


def test_its_parts_renew_themselves(runs: RunFactory, ana: PageClient) -> None:
    text = ana.get("/").text
    need = re.search(r'hx-get="(/overview/need[^"]+)"', text)
    assert need is not None
    assert ana.get(need.group(1), htmx=True).status_code == 204
    runs.blocked()
    answer = ana.get(need.group(1), htmx=True)
    assert answer.status_code == 200
    assert "1 waiting for a person" in answer.text
    assert 'hx-swap-oob="true"' in answer.text
    figures = ana.get("/overview/figures", htmx=True)
    assert "Last 24 hours" in figures.text
    assert "<html" not in figures.text


def test_the_bars_say_in_words_what_they_show(runs: RunFactory, ana: PageClient) -> None:
    runs.completed()
    runs.blocked()
    text = ana.get("/").text
    assert "Runs started in each of the last 24 hours, 2 in all" in text
    assert text.count('class="bar-back"') == 24
    assert "1 completed, 1 failed or blocked, 0 other" in text


def test_strangers_are_sent_to_the_door(client: PageClient) -> None:
    for address in ("/", "/overview/need", "/overview/figures"):
        assert client.get(address).status_code == 303
