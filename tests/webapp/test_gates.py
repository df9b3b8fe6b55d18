"""The queue: everything that waits, oldest first, found by its filters, and what was decided lately."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from html import unescape

import pytest

from resume_engine.core.clock import utc_now
from resume_engine.core.run import Run
from tests.factories import RunFactory, ago, at, steps
from tests.provision.app_fixtures import PageClient
from webapp.pages import gates

SignIn = Callable[[str], PageClient]


def listed(text: str) -> list[str]:
    """Return the run ids of the list, in its order."""
    return re.findall(r'id="queue-([^"]+)"', text)


def links_of(text: str) -> list[str]:
    """Return the addresses of the list's items."""
    return [unescape(href) for href in re.findall(r'id="queue-[^"]+" data-row href="([^"]+)"', text)]


def waiting_runs(runs: RunFactory) -> dict[str, Run]:
    """Make one run for each combination of gates, the first one waiting longest."""
    made = {}
    for index, (kind, environment) in enumerate(
        [("permanent", "dev"), ("partial", "staging"), ("transient", "prod"), ("permanent", "prod")]
    ):
        with at(ago(hours=5 - index)):
            made[f"{kind} {environment}"] = runs.blocked(
                kind, environment=environment, workflow=f"flow_{index % 2}", message=f"broken {kind}"
            )
    return made


def test_everything_waits_oldest_first(runs: RunFactory, ana: PageClient) -> None:
    made = waiting_runs(runs)
    runs.completed()
    runs.failed()
    text = ana.get("/gates").text
    assert listed(text) == [run.run_id for run in made.values()]
    assert "4 runs wait for a person" in text


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("kind=human_approval", ["permanent dev", "permanent prod"]),
        ("kind=compensation", ["partial staging"]),
        ("kind=prod_resume_ack", ["transient prod", "permanent prod"]),
        ("environment=prod", ["transient prod", "permanent prod"]),
        ("workflow=flow_1", ["partial staging", "permanent prod"]),
        ("cause=broken+permanent", ["permanent dev", "permanent prod"]),
        ("cause=broken+perm", []),
        ("kind=human_approval&environment=prod&workflow=flow_1", ["permanent prod"]),
        ("kind=compensation&environment=prod", []),
    ],
)
def test_filters(runs: RunFactory, ana: PageClient, query: str, expected: list[str]) -> None:
    made = waiting_runs(runs)
    text = ana.get(f"/gates?{query}").text
    assert listed(text) == [made[name].run_id for name in expected]
    if not expected:
        assert "Nothing waits that matches these filters" in text
        assert "Clear all filters" in text


def test_every_number_of_a_tab_is_the_length_of_its_list(runs: RunFactory, ana: PageClient) -> None:
    waiting_runs(runs)
    for start in ("/gates", "/gates?environment=prod", "/gates?environment=dev"):
        found = re.findall(
            r'<a href="(/gates[^"]*)"[^>]*>[^<]+ <span class="count" id="[a-z_-]+">(\d+)</span>',
            ana.get(start).text,
        )
        assert len(found) >= 4
        for href, number in found:
            assert len(listed(ana.get(unescape(href)).text)) == int(number), href


def test_a_cause_of_several_lines_survives_the_filter_form(runs: RunFactory, ana: PageClient) -> None:
    run = runs.blocked(message="half\nof it")
    for line_break in ("\n", "\r\n"):
        text = ana.get("/gates", query_string={"cause": f"half{line_break}of it"}).text
        assert listed(text) == [run.run_id]


@pytest.mark.parametrize(
    "query",
    [
        "kind=everything",
        "environment=moon",
        "cursor=!",
        "failure=x",
        "kind=a&kind=b",
        "workflow=" + "x" * 300,
    ],
)
def test_an_address_that_makes_no_sense_is_refused_and_explained(
    runs: RunFactory, ana: PageClient, query: str
) -> None:
    waiting_runs(runs)
    answer = ana.get(f"/gates?{query}")
    assert answer.status_code == 400
    assert query.partition("=")[0] in answer.text


def test_pages_follow_each_other_without_gap(
    runs: RunFactory, ana: PageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "PAGE_SIZE", 2)
    made = [run.run_id for run in waiting_runs(runs).values()]
    first = ana.get("/gates").text
    assert listed(first) == made[:2]
    older = re.search(r'href="([^"]+)">Waiting less long', first)
    assert older is not None
    second = ana.get(unescape(older.group(1))).text
    assert listed(second) == made[2:]
    newer = re.search(r'href="([^"]+)"><svg[^>]*>.*?</svg>Waiting longer', second)
    assert newer is not None
    assert listed(ana.get(unescape(newer.group(1))).text) == made[:2]


def test_the_oldest_is_open_and_shows_what_a_decision_rests_on(runs: RunFactory, ana: PageClient) -> None:
    runs.blocked("permanent", message="Invalid API key", fail_at=1, initial_input={"claim": "c-7"})
    text = ana.get("/gates").text
    for words in (
        "step 1 <code><bdi>step_1</bdi></code> · attempt 1",
        "<bdi>Invalid API key</bdi>",
        "raised as PermanentStepError",
        "c-7",  # the recorded input
        "out_0",  # the last output
        "worker-2",
        "Lets step 1 run again with the recorded input and the same idempotency key. Step 0 is not repeated.",
        ">Approve</button>",
        "Reject this run…",
    ):
        assert words in text, words


def test_an_item_stays_reachable_after_its_decision(runs: RunFactory, ana: PageClient) -> None:
    run = runs.blocked("permanent", fail_at=1)
    (link,) = links_of(ana.get("/gates").text)
    runs.engine.grant_human_approval(run.run_id, "oscar@example.org", note="key rotated")
    text = ana.get(link).text
    assert listed(text) == []
    for words in ("<bdi>oscar@example.org</bdi>", "key rotated", "Waiting for a runner", "Invalid API key"):
        assert words in text
    runs.engine.resume(run.run_id, steps(3))
    assert "The run is completed" in ana.get(link).text


def test_what_was_decided_in_the_last_hour(runs: RunFactory, ana: PageClient) -> None:
    with at(utc_now() - timedelta(hours=2)):
        long_ago = runs.cleared()
    lately = runs.cleared("permanent", environment="prod")
    for answer in (ana.get("/gates/decided"), ana.get("/gates/decided", htmx=True)):
        assert f"run={lately.run_id}&amp;failure=1%3A1" in answer.text
        assert long_ago.run_id not in answer.text
        assert answer.text.count("data-row") == 1  # two decisions about one failure are one line
        assert "Prod resume acknowledged by <bdi>olga@example.com</bdi>" in answer.text


def test_an_auditor_sees_the_evidence_and_no_form(runs: RunFactory, sign_in: SignIn) -> None:
    runs.blocked("partial", environment="prod")
    for address in ("/", "/gates"):
        text = sign_in("alice").get(address).text
        assert "Invalid API key" in text
        assert "Your role may look but not decide" in text
        assert 'class="gate-form"' not in text
        for button in ("Approve", "Record compensation", "Acknowledge prod resume", "Reject"):
            assert f">{button}</button>" not in text
    assert sign_in("alice").get("/gates/approvals").status_code == 403


def test_reject_is_apart_and_looks_different(runs: RunFactory, ana: PageClient) -> None:
    runs.blocked()
    text = ana.get("/gates").text
    assert text.count('class="button primary"') == 1
    assert '<button type="submit" class="button danger">Reject</button>' in text
    assert (
        text.index(">Approve</button>")
        < text.index('<details class="reject"')
        < text.index(">Reject</button>")
    )


def test_prod_is_announced_only_for_prod(runs: RunFactory, ana: PageClient) -> None:
    prod = runs.blocked(environment="prod")
    dev = runs.blocked(environment="dev")
    assert "prod-rule" in ana.get(f"/gates?run={prod.run_id}").text
    assert "prod-rule" not in ana.get(f"/gates?run={dev.run_id}").text


def test_nothing_waits(ana: PageClient) -> None:
    text = ana.get("/gates").text
    assert "Nobody has to decide anything right now" in text
    assert "Clear all" not in text


def test_an_unknown_run_is_not_there(ana: PageClient) -> None:
    assert ana.get("/gates?run=nothing").status_code == 404
    assert ana.get("/gates/nothing/decision").status_code == 404


def test_the_list_renews_itself_only_when_it_changed(runs: RunFactory, ana: PageClient) -> None:
    run = runs.blocked()
    refresh = re.search(r'hx-get="(/gates/queue[^"]+)"', ana.get("/gates").text)
    assert refresh is not None
    address = unescape(refresh.group(1))
    assert ana.get(address, htmx=True).status_code == 204
    runs.engine.grant_human_approval(run.run_id, "someone")
    answer = ana.get(address, htmx=True)
    assert answer.status_code == 200
    assert listed(answer.text) == []
    assert 'id="gate-count" hx-swap-oob="true" hidden' in answer.text


@pytest.mark.parametrize("decided", [False, True])
def test_a_page_asks_the_database_at_most_six_times(
    runs: RunFactory, ana: PageClient, statements: list[str], decided: bool
) -> None:
    run = runs.blocked("permanent", environment="prod")
    for _ in range(12):
        runs.blocked("partial", environment="prod")
    if decided:
        runs.engine.grant_human_approval(run.run_id, "someone")
    ana.get("/gates")
    statements.clear()
    ana.get("/gates")
    assert len(statements) <= 6, "\n".join(statements)


def test_several_with_the_same_error_are_offered_together(runs: RunFactory, sign_in: SignIn) -> None:
    for _ in range(3):
        runs.blocked(message="Invalid API key")
    runs.blocked(message="Other")
    text = sign_in("ana").get("/gates").text
    assert "3 runs wait for an approval because of this error" in text
    assert 'href="/gates/approvals?cause=Invalid+API+key"' in text
    assert "Approve several together" not in sign_in("alice").get("/gates").text


def numbers(text: str) -> dict[str, str]:
    """Return every number of waiting runs on the page or in the answer that renews it, by its place."""
    found = re.findall(r'<span class="count" id="([a-z_-]+)"[^>]*>([^<]*)</span>', text)
    heading = re.search(r'<p class="quiet" id="waiting"[^>]*>(\d*)', text)
    return dict(found) | {"waiting": heading.group(1) if heading else "-"}


def test_header_heading_and_tabs_are_renewed_by_one_answer(runs: RunFactory, ana: PageClient) -> None:
    run = runs.blocked(environment="prod")
    runs.blocked("partial")
    page = ana.get("/gates?environment=prod").text
    before = numbers(page)
    assert (before["gate-count"], before["waiting"], before["count-human_approval"]) == ("2", "1", "1")
    refresh = re.search(r'hx-get="(/gates/queue[^"]+)"', page)
    assert refresh is not None
    for act in (runs.engine.grant_human_approval, runs.engine.ack_prod_resume):
        act(run.run_id, "someone")
        answer = ana.get(unescape(refresh.group(1)), htmx=True).text
        assert numbers(answer) == numbers(ana.get("/gates?environment=prod").text)
        assert answer.count('hx-swap-oob="true"') == len(numbers(answer)) == 6
    after = numbers(answer)
    assert (after["gate-count"], after["waiting"], after["count-human_approval"]) == ("1", "", "0")


def test_counts_that_changed_elsewhere_renew_the_page_too(runs: RunFactory, ana: PageClient) -> None:
    runs.blocked(environment="prod")
    refresh = re.search(r'hx-get="(/gates/queue[^"]+)"', ana.get("/gates?kind=human_approval").text)
    assert refresh is not None
    runs.blocked("partial")
    answer = ana.get(unescape(refresh.group(1)), htmx=True)
    assert answer.status_code == 200
    assert numbers(answer.text)["gate-count"] == numbers(answer.text)["count-all"] == "2"
