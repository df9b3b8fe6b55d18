"""The run explorer."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from urllib.parse import quote, urlencode

import pytest

from resume_engine.core.run_summary import RunState
from tests.factories import RunFactory, ago, at
from tests.provision.app_fixtures import PageClient, Statements

SignIn = Callable[[str], PageClient]
MOST_STATEMENTS = 6


def rows_of(page: str) -> list[str]:
    """Return the ids of the runs in a list, in order."""
    return [unescape(run_id) for run_id in re.findall(r'<tr id="run-([^"]*)"', page)]


def row_of(page: str, run_id: str) -> str:
    return page.partition(f'<tr id="run-{run_id}"')[2].partition("</tr>")[0]


def link(page: str, word: str) -> str:
    found = re.search(rf'<a class="button plain" href="([^"]*)"[^>]*>(?:<svg.*?</svg>)?{word}', page)
    assert found, f"no link {word}"
    return unescape(found[1])


def test_runs_are_listed_newest_first(runs: RunFactory, sign_in: SignIn) -> None:
    with at(ago(hours=2)) as clock:
        ids = []
        for _ in range(3):
            ids.append(runs.completed().run_id)
            clock.advance(60)
    page = sign_in("alice").get("/runs").text
    assert rows_of(page) == ids[::-1]
    assert f'href="/runs/{ids[0]}"' in page


def test_a_row_says_state_progress_and_what_stops_the_run(runs: RunFactory, sign_in: SignIn) -> None:
    run = runs.blocked("partial", environment="prod", message="2 of 5 sent\nmore")
    row = row_of(sign_in("alice").get("/runs").text, run.run_id)
    for words in (
        "blocked",
        "prod",
        "1<span",
        "/3",
        "needs compensation",
        "prod acknowledgement",
        "2 of 5 sent",
    ):
        assert words in row, words


@pytest.mark.parametrize("state", [*RunState])
def test_each_state_is_a_filter_that_shows_exactly_its_runs(
    runs: RunFactory, sign_in: SignIn, state: RunState
) -> None:
    made = runs.every_state()
    page = sign_in("alice").get(f"/runs?status={state}").text
    assert rows_of(page) == [made[state].run_id]
    assert f"<span>{state}</span>" in row_of(page, made[state].run_id)


def test_filters_narrow_together(runs: RunFactory, sign_in: SignIn) -> None:
    wanted = runs.blocked("permanent", workflow="billing close", environment="prod")
    runs.blocked("partial", workflow="billing close", environment="prod")
    runs.blocked("permanent", workflow="billing close", environment="dev")
    runs.completed("billing close", environment="prod")
    alice = sign_in("alice")
    query = {
        "workflow": "billing close",
        "environment": "prod",
        "failure": "permanent",
        "blocked_by": "human_approval",
    }
    assert rows_of(alice.get(f"/runs?{urlencode(query)}").text) == [wanted.run_id]


def test_time_filters_bound_the_creation(runs: RunFactory, sign_in: SignIn) -> None:
    with at(ago(days=10)):
        old = runs.completed()
    with at(ago(hours=30)):
        yesterday = runs.completed()
    new = runs.completed()
    alice = sign_in("alice")
    assert rows_of(alice.get("/runs?since=24h").text) == [new.run_id]
    assert rows_of(alice.get("/runs?since=7d").text) == [new.run_id, yesterday.run_id]
    assert rows_of(alice.get(f"/runs?to={ago(days=5):%Y-%m-%d}").text) == [old.run_id]
    assert rows_of(
        alice.get(f"/runs?from={ago(days=5):%Y-%m-%d}&to={ago(hours=20):%Y-%m-%dT%H:%M}").text
    ) == [yesterday.run_id]


def test_a_cause_from_the_overview_shows_its_runs(runs: RunFactory, sign_in: SignIn) -> None:
    mine = runs.failed("transient", message="gateway timed out ")
    runs.failed("transient", message="gateway refused")
    query = urlencode({"error_type": "TransientStepError", "message": "gateway timed out "})
    assert rows_of(sign_in("alice").get(f"/runs?{query}").text) == [mine.run_id]


def test_search_finds_parts_of_workflow_names_and_beginnings_of_ids(
    runs: RunFactory, sign_in: SignIn
) -> None:
    first = runs.completed("Claims_Intake", run_id="aaaa1111-0000-4000-8000-000000000001")
    second = runs.completed("billing", run_id="aaaa2222-0000-4000-8000-000000000002")
    alice = sign_in("alice")
    assert rows_of(alice.get("/runs?q=intake").text) == [first.run_id]
    assert rows_of(alice.get("/runs?q=aaaa").text) == [second.run_id, first.run_id]
    assert rows_of(alice.get("/runs?q=%25").text) == []


@pytest.mark.parametrize("typed", ["aaaa1111", "aaaa1111-0000-4000-8000-000000000001"])
def test_typing_an_id_leads_to_the_run(runs: RunFactory, sign_in: SignIn, typed: str) -> None:
    run = runs.completed(run_id="aaaa1111-0000-4000-8000-000000000001")
    alice = sign_in("alice")
    answer = alice.get(f"/runs?q={typed}")
    assert (answer.status_code, answer.location) == (303, f"/runs/{run.run_id}")
    # With another filter, or as a part of a page, a list was asked for.
    assert alice.get(f"/runs?q={typed}&environment=dev").status_code == 200
    assert alice.get(f"/runs?q={typed}", htmx=True).status_code == 200


def test_pages_of_fifty_follow_each_other_both_ways(runs: RunFactory, sign_in: SignIn) -> None:
    with at(ago(hours=2)) as clock:
        made = []
        for _ in range(120):
            made.insert(0, runs.pending("flow").run_id)
            clock.advance(1)
    alice = sign_in("alice")
    first = alice.get("/runs?workflow=flow").text
    second = alice.get(link(first, "Older")).text
    third = alice.get(link(second, "Older")).text
    assert [rows_of(page) for page in (first, second, third)] == [made[:50], made[50:100], made[100:]]
    assert "That is all of them" in third
    assert rows_of(alice.get(link(third, "Newer")).text) == made[50:100]
    assert rows_of(alice.get(link(third, "Newest")).text) == made[:50]
    assert "workflow=flow" in link(second, "Older")


def test_there_are_no_runs_at_all(sign_in: SignIn) -> None:
    assert "No run has been recorded yet" in sign_in("alice").get("/runs").text
    assert "No run has been recorded yet" in sign_in("alice").get("/runs?status=failed").text


def test_no_run_matches(runs: RunFactory, sign_in: SignIn) -> None:
    runs.completed()
    page = sign_in("alice").get("/runs?status=failed").text
    assert "No run matches these filters" in page
    assert "Clear all filters" in page


def test_a_page_past_the_end(runs: RunFactory, sign_in: SignIn) -> None:
    from resume_engine.storage.keyset import Cursor

    runs.completed()
    cursor = Cursor(moment=ago(days=900), row_id="0").encode()
    page = sign_in("alice").get(f"/runs?cursor={cursor}").text
    assert "past the last run" in page
    assert "Go to the newest runs" in page


def test_a_filter_that_cannot_be_understood_shows_no_rows_and_says_why(
    runs: RunFactory, sign_in: SignIn
) -> None:
    runs.completed()
    alice = sign_in("alice")
    answer = alice.get("/runs?status=faild&environment=dev")
    assert answer.status_code == 400
    assert rows_of(answer.text) == []
    assert "State: “faild” is not known" in answer.text
    assert '<option value="dev" selected>' in answer.text  # what was understood stays
    assert alice.get("/runs?status=faild", htmx=True).status_code == 400


def test_an_unknown_workflow_stays_in_the_form(runs: RunFactory, sign_in: SignIn) -> None:
    runs.completed()
    page = sign_in("alice").get("/runs?workflow=gone").text
    assert '<option value="gone" selected>' in page


def test_htmx_gets_the_list_alone(runs: RunFactory, sign_in: SignIn) -> None:
    runs.completed()
    alice = sign_in("alice")
    part = alice.get("/runs", htmx=True)
    assert part.text.lstrip().startswith('<div id="runs-table"')
    assert "HX-Request" in part.headers["Vary"]
    restored = alice.get("/runs", htmx=True, headers={"HX-History-Restore-Request": "true"})
    assert "<!doctype html>" in restored.text


def poll(client: PageClient, page: str, **changes: str) -> str:
    """Ask what the page asks every few seconds."""
    address = unescape(re.search(r'id="runs-table"[^>]*hx-get="([^"]*)"', page)[1])  # type: ignore[index]
    shown = [unescape(text) for text in re.findall(r'name="shown" value="([^"]*)"', page)]
    query = urlencode([("shown", text) for text in shown])
    return client.get(f"{address}&{query}", htmx=True, headers={"X-Live": "1"}).text


def test_a_page_learns_only_of_rows_that_changed(runs: RunFactory, sign_in: SignIn) -> None:
    blocked, done = runs.blocked(), runs.completed()
    ana = sign_in("ana")
    page = ana.get("/runs").text
    assert rows_of(poll(ana, page)) == []
    runs.engine.grant_human_approval(blocked.run_id, "olga@example.com")
    changes = poll(ana, page)
    assert rows_of(changes) == [blocked.run_id]
    assert "cleared" in row_of(changes, blocked.run_id)
    assert done.run_id not in changes


def test_a_row_that_left_the_filter_says_what_became_of_it(runs: RunFactory, sign_in: SignIn) -> None:
    blocked = runs.blocked()
    ana = sign_in("ana")
    page = ana.get("/runs?status=blocked").text
    runs.engine.reject_run(blocked.run_id, "olga@example.com", note="twice")
    assert "cancelled" in row_of(poll(ana, page), blocked.run_id)


def test_new_runs_wait_behind_a_bar(runs: RunFactory, sign_in: SignIn) -> None:
    runs.completed()
    ana = sign_in("ana")
    page = ana.get("/runs?status=completed").text
    assert 'new-bar"' not in poll(ana, page)
    runs.completed()
    runs.completed()
    runs.failed()
    changes = poll(ana, page)
    assert ">2 new</a>" in changes
    assert 'href="/runs?status=completed"' in changes
    assert rows_of(changes) == []


def test_a_run_that_enters_the_filter_counts_as_new(runs: RunFactory, sign_in: SignIn) -> None:
    with at(ago(hours=1)):
        old = runs.failed("permanent")
        runs.engine.grant_human_approval(old.run_id, "olga@example.com")
    runs.cancelled()
    ana = sign_in("ana")
    page = ana.get("/runs?status=cancelled").text
    runs.engine.start_run("claims_intake")
    assert 'new-bar"' not in poll(ana, page)
    other = runs.blocked()
    runs.engine.reject_run(other.run_id, "olga@example.com", note="twice")
    assert ">1 new</a>" in poll(ana, page)


def test_an_empty_list_fills_behind_the_bar(runs: RunFactory, sign_in: SignIn) -> None:
    ana = sign_in("ana")
    page = ana.get("/runs").text
    runs.completed()
    assert ">1 new</a>" in poll(ana, page)


def test_later_pages_do_not_count_new_runs(runs: RunFactory, sign_in: SignIn) -> None:
    with at(ago(hours=2)) as clock:
        for _ in range(60):
            runs.pending()
            clock.advance(1)
    ana = sign_in("ana")
    page = ana.get(link(ana.get("/runs").text, "Older")).text
    runs.pending()
    assert 'new-bar"' not in poll(ana, page)


NASTY = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}",
    "مرحبا \u202e evil",
    "x' OR 1=1 --",
]


@pytest.mark.parametrize("text", NASTY)
def test_names_ids_and_messages_are_shown_as_text(runs: RunFactory, sign_in: SignIn, text: str) -> None:
    run = runs.blocked(workflow=text, message=text, run_id=text[:36])
    alice = sign_in("alice")
    for page in (alice.get("/runs").text, alice.get(f"/runs?workflow={quote(text)}").text):
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert "49" not in re.findall(r"<bdi>(.*?)</bdi>", page)
        assert rows_of(page) == [run.run_id]


def test_a_very_long_message_does_not_make_the_list_heavy(runs: RunFactory, sign_in: SignIn) -> None:
    runs.blocked(message="M" * 8_000)
    page = sign_in("alice").get("/runs").text
    assert page.count("M") < 1_000


def test_rows_of_0_2_0_are_listed(runs: RunFactory, sign_in: SignIn) -> None:
    run = runs.legacy()
    assert "boom" in row_of(sign_in("alice").get("/runs").text, run.run_id)


def test_a_page_takes_few_statements(runs: RunFactory, sign_in: SignIn, statements: Statements) -> None:
    for _ in range(52):
        runs.pending()
    runs.failed()
    ana = sign_in("ana")
    for address in (
        "/runs",
        "/runs?status=failed&workflow=claims_intake&environment=dev&failure=transient&since=7d",
        "/runs?q=claims",
        "/runs?status=pending&environment=prod",  # none matches
    ):
        statements.clear()
        page = ana.get(address).text
        assert len(statements) <= MOST_STATEMENTS, statements
        statements.clear()
        poll(ana, page)
        assert len(statements) <= MOST_STATEMENTS, statements
