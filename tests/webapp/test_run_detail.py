"""The page of one run."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from urllib.parse import quote

import pytest

from resume_engine.core.run import Run
from resume_engine.core.step_record import StepKind
from tests.factories import RunFactory, ago, at, failing, passing, steps
from tests.provision.app_fixtures import PageClient, Statements

SignIn = Callable[[str], PageClient]
MOST_STATEMENTS = 6
TABS = ("steps", "decisions", "events", "trace", "metadata")


def records_of(page: str) -> list[int]:
    """Return the sequences of the records in a list, in order."""
    return [int(number) for number in re.findall(r'<details class="step[^>]*id="record-(\d+)"', page)]


def link(page: str, word: str) -> str:
    found = re.search(rf'<a [^>]*href="([^"]*)"[^>]*>(?:<svg.*?</svg>)?{word}', page)
    assert found, f"no link {word}"
    return unescape(found[1])


def text_of(page: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


def test_a_blocked_run_says_what_stopped_it_and_offers_the_decision(
    runs: RunFactory, sign_in: SignIn
) -> None:
    run = runs.blocked("permanent", environment="prod", initial_input={"claim": "c-1"})
    page = sign_in("ana").get(f"/runs/{run.run_id}").text
    words = text_of(page)
    for expected in (
        "PROD · what you decide here acts on production",
        "blocked",
        "needs approval",
        "needs prod acknowledgement",
        "1 of 3 steps",
        "Why it stopped step 1 step_1 · attempt 1 · permanent",
        "PermanentStepError: Invalid API key",
        "raised as PermanentStepError",
        "worker-2",
        "Traceback",
    ):
        assert expected in words, expected
    assert "claim" in page
    assert re.search(r"<button[^>]*>Approve</button>", page)
    assert f"/runs/{run.run_id}/decisions/human_approval" in page
    assert words.index("Why it stopped") < words.index("Steps")


def test_an_auditor_reads_everything_and_decides_nothing(runs: RunFactory, sign_in: SignIn) -> None:
    run = runs.blocked()
    page = sign_in("alice").get(f"/runs/{run.run_id}").text
    assert "Why it stopped" in page
    assert not re.search(r"<button[^>]*>(Approve|Reject)</button>", page)
    assert "Download audit log" in page


def test_every_state_has_a_page(runs: RunFactory, sign_in: SignIn) -> None:
    ana = sign_in("ana")
    for state, run in runs.every_state().items():
        for tab in TABS:
            answer = ana.get(f"/runs/{run.run_id}?tab={tab}")
            assert answer.status_code == 200
            assert state in text_of(answer.text)


def test_a_run_that_goes_well_has_no_case(runs: RunFactory, sign_in: SignIn) -> None:
    run = runs.completed()
    page = sign_in("ana").get(f"/runs/{run.run_id}").text
    assert "Why it stopped" not in page
    assert "Nothing to decide" not in page


def test_steps_are_listed_and_opened_one_by_one(runs: RunFactory, sign_in: SignIn) -> None:
    run = runs.completed(count=3, initial_input={"claim": "c-1"})
    ana = sign_in("ana")
    page = ana.get(f"/runs/{run.run_id}").text
    assert records_of(page) == [0, 1, 2]
    assert "c-1" not in page  # values are loaded when a record is opened
    part = ana.get(f"/runs/{run.run_id}/steps/1", htmx=True).text
    assert part.lstrip().startswith('<div class="step-body"')
    assert "c-1" in part
    assert run.steps[1].idempotency_key in part
    assert f'href="/runs/{run.run_id}/steps/1/input"' in part


def test_a_record_is_opened_in_its_place_without_script(runs: RunFactory, sign_in: SignIn) -> None:
    run = runs.completed(count=3, initial_input={"claim": "c-1"})
    ana = sign_in("ana")
    answer = ana.get(f"/runs/{run.run_id}/steps/1")
    assert answer.status_code == 303
    assert answer.location.endswith("open=1#record-1")
    page = ana.get(answer.location).text
    assert re.search(r'id="record-1"[^>]* open>', page)
    assert "c-1" in page


def test_records_of_a_long_run_come_in_pages(runs: RunFactory, sign_in: SignIn) -> None:
    run = runs.with_many_steps(120, fail_last=True)
    ana = sign_in("ana")
    first = ana.get(f"/runs/{run.run_id}").text
    assert records_of(first) == [*range(50)]
    assert "Records 1 to 50 of 120" in text_of(first)
    second = ana.get(link(first, "Later")).text
    assert records_of(second) == [*range(50, 100)]
    assert records_of(ana.get(link(second, "Earlier")).text) == [*range(50)]
    last = ana.get(link(first, "Last")).text
    assert records_of(last) == [*range(70, 120)]
    assert records_of(ana.get(link(last, "First")).text) == [*range(50)]
    failed = ana.get(link(first, "Failed only")).text
    assert records_of(failed) == [119]
    assert "Quota used up" in failed
    assert records_of(ana.get(link(failed, "Show all")).text) == [*range(50)]
    opened = ana.get(ana.get(f"/runs/{run.run_id}/steps/119").location).text
    assert 119 in records_of(opened)
    assert "past the last record" in ana.get(f"/runs/{run.run_id}?after=500").text


def test_no_failed_attempts(runs: RunFactory, sign_in: SignIn) -> None:
    run = runs.completed()
    assert "No attempt of this run has failed" in sign_in("ana").get(f"/runs/{run.run_id}?failed=1").text


def test_decisions_keep_their_author_reason_and_result(runs: RunFactory, sign_in: SignIn) -> None:
    run = runs.blocked("partial")
    runs.engine.record_compensation(run.run_id, result={"refund_id": "r-1"}, note="refunded by hand")
    page = sign_in("ana").get(f"/runs/{run.run_id}?tab=decisions").text
    words = text_of(page.partition('id="decisions"')[2])
    assert "Compensation recorded by worker-2" in words
    assert "refunded by hand" in words
    assert "r-1" in words
    assert f'href="/runs/{run.run_id}/steps/1"' in page


def test_decisions_about_earlier_failures_stay(runs: RunFactory, sign_in: SignIn) -> None:
    run = runs.blocked("permanent")
    runs.engine.grant_human_approval(run.run_id, "olga@example.com", note="rotated")
    with pytest.raises(ValueError, match="again"):
        runs.engine.resume(run.run_id, steps(3, fail_at=1, error=ValueError("again")))
    page = sign_in("ana").get(f"/runs/{run.run_id}?tab=decisions").text
    assert "rotated" in page.partition('id="decisions"')[2]
    assert "rotated" not in page.partition('id="decision"')[2].partition("</section>")[0]


def test_events_of_the_run_come_in_pages(runs: RunFactory, sign_in: SignIn) -> None:
    from resume_engine.core.actor import Actor
    from resume_engine.core.audit import AuditEvent, EventType
    from resume_engine.core.permissions import Role

    with at(ago(hours=1)):
        run = runs.completed()
    olga = Actor(name="olga", role=Role.OPERATOR)
    for number in range(60):
        runs.store.append_event(
            AuditEvent.by(
                olga, EventType.RUN_UPDATED, ago(seconds=60 - number), run_id=run.run_id, note=f"n{number}"
            )
        )
    ana = sign_in("ana")
    first = ana.get(f"/runs/{run.run_id}?tab=events").text
    assert "n59" in first
    assert "started the run" not in first
    second = ana.get(link(first, "Older events")).text
    assert "started the run" in second
    assert "n59" not in second


def test_the_trace_shows_its_beginning(runs: RunFactory, sign_in: SignIn) -> None:
    run = runs.with_many_steps(60)
    page = sign_in("ana").get(f"/runs/{run.run_id}?tab=trace").text
    shown = unescape(re.search(r'<pre class="json trace"[^>]*>(.*?)</pre>', page, re.S)[1])  # type: ignore[index]
    assert shown == "\n".join(runs.engine.get_audit_log(run.run_id).split("\n")[:52])
    assert "10 more lines in the download" in text_of(page)


def test_a_huge_output_is_left_out_of_the_trace_on_the_page(runs: RunFactory, sign_in: SignIn) -> None:
    run = runs.engine.start_run("flow")
    runs.engine.execute_workflow(run.run_id, [("big", passing({"text": "x" * 50_000}))])
    page = sign_in("ana").get(f"/runs/{run.run_id}?tab=trace").text
    assert "in the download" in page
    assert len(page) < 30_000
    record = sign_in("ana").get(f"/runs/{run.run_id}/steps/0", htmx=True).text
    assert "The first 2,000 of 50,012 characters" in record


def test_metadata_is_shown(runs: RunFactory, sign_in: SignIn) -> None:
    run = runs.completed(metadata={"team": "claims <b>", "big": "y" * 30_000})
    page = sign_in("ana").get(f"/runs/{run.run_id}?tab=metadata").text
    assert "claims &lt;b&gt;" in page
    assert "characters of the metadata" in page


def test_a_compensation_is_a_record_of_its_own(runs: RunFactory, sign_in: SignIn) -> None:
    run = runs.blocked("partial")
    runs.engine.execute_compensation(run.run_id, passing({"undone": True}))
    assert runs.reload(run).steps[-1].kind is StepKind.COMPENSATION
    words = text_of(sign_in("ana").get(f"/runs/{run.run_id}").text.partition('id="steps"')[2])
    assert "compensation of step_1" in words


def test_a_run_of_0_2_0_has_a_page(runs: RunFactory, sign_in: SignIn) -> None:
    run = runs.legacy()
    ana = sign_in("ana")
    page = ana.get(f"/runs/{run.run_id}").text
    assert "boom" in page
    assert records_of(page) == [0, 1]
    assert "None" not in text_of(page)
    for number in (0, 1):
        assert "None" not in text_of(ana.get(f"/runs/{run.run_id}/steps/{number}", htmx=True).text)
    for tab in TABS:
        assert ana.get(f"/runs/{run.run_id}?tab={tab}").status_code == 200


@pytest.mark.parametrize(
    "run_id", ["nope", "a/b", "x" * 36, "y" * 5_000, "ünïcødé", "<script>alert(1)</script>", "%", ".."]
)
def test_an_unknown_run_says_what_to_check(sign_in: SignIn, run_id: str) -> None:
    ana = sign_in("ana")
    for part in ("", "/header", "/case", "/steps/0", "/audit-log", "/events.csv", "/steps/0/input"):
        answer = ana.get(f"/runs/{quote(run_id, safe='')}{part}")
        assert answer.status_code == 404, part
        assert "<script>alert" not in answer.text
        if part in ("", "/header", "/audit-log"):
            assert "Check that the id is complete" in answer.text


@pytest.mark.parametrize("run_id", ["batch/2026-11-22", "ünï cødé?#%&", "<b>'\"</b>", "header"])
def test_odd_ids_are_ids_like_any_other(runs: RunFactory, sign_in: SignIn, run_id: str) -> None:
    runs.blocked(run_id=run_id)
    ana = sign_in("ana")
    listed = ana.get("/runs").text
    address = unescape(re.search(r'class="row-link" href="([^"]*)"', listed)[1])  # type: ignore[index]
    page = ana.get(address)
    assert page.status_code == 200
    assert "Why it stopped" in page.text
    for tab in TABS:
        assert ana.get(unescape(link(page.text, dict(zip(TABS, NAMES, strict=True))[tab]))).status_code == 200
    assert ana.get(f"{address}/audit-log").text == runs.engine.get_audit_log(run_id)
    assert ana.get(f"{address}/steps/0", htmx=True).status_code == 200


NAMES = ("Steps", "Decisions", "Audit events", "Audit trace", "Metadata")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("tab=logs", "tab: found 'logs'. There are: steps, decisions, events, trace, metadata."),
        ("after=x", "after: found 'x'. It is the number of a record, for example after=49."),
        ("after=99999999999999999999", "after: found"),
        ("open=-1", "open: found '-1'"),
        ("failed=yes", "failed: found 'yes'."),
        ("tab=events&before=x", "before: found 'x'"),
    ],
)
def test_a_wrong_address_names_what_is_wrong(
    runs: RunFactory, sign_in: SignIn, query: str, says: str
) -> None:
    run = runs.completed()
    answer = sign_in("ana").get(f"/runs/{run.run_id}?{query}")
    assert answer.status_code == 400
    assert says in text_of(answer.text)


def test_htmx_gets_timeline_and_tab_alone(runs: RunFactory, sign_in: SignIn) -> None:
    run = runs.blocked()
    ana = sign_in("ana")
    part = ana.get(f"/runs/{run.run_id}?tab=trace", htmx=True)
    assert part.text.lstrip().startswith('<div id="body"')
    assert "Why it stopped" not in part.text
    assert "HX-Request" in part.headers["Vary"]


def driven(runs: RunFactory) -> Run:
    """Make a run that is driven step by step and has one step behind it."""
    run = runs.engine.start_run("claims_intake")
    runs.engine.execute_step(run.run_id, "step_0", 0, {}, passing({}))
    return run


def test_the_head_renews_itself_until_the_run_is_finished(runs: RunFactory, sign_in: SignIn) -> None:
    run = driven(runs)
    ana = sign_in("ana")
    page = ana.get(f"/runs/{run.run_id}").text
    address = unescape(re.search(r'<header id="header"[^>]*hx-get="([^"]*)"', page)[1])  # type: ignore[index]
    same = ana.get(address, htmx=True)
    assert same.status_code == 200
    assert "HX-Trigger" not in same.headers
    runs.engine.execute_step(run.run_id, "step_1", 1, {}, passing({}))
    moved = ana.get(address, htmx=True)
    assert moved.headers["HX-Trigger"] == "run-changed"
    assert "2 steps done" in text_of(moved.text)
    runs.engine.complete_run(run.run_id)
    finished = ana.get(address, htmx=True)
    assert finished.status_code == 286
    assert "hx-get" not in finished.text


def test_a_page_opened_before_the_run_stopped_gets_the_forms(runs: RunFactory, sign_in: SignIn) -> None:
    run = driven(runs)
    ana = sign_in("ana")
    page = ana.get(f"/runs/{run.run_id}").text
    assert f'hx-get="/runs/{run.run_id}/case"' in page
    with pytest.raises(ValueError, match="bad"):
        runs.engine.execute_step(run.run_id, "step_1", 1, {}, failing(ValueError("bad")))
    part = ana.get(f"/runs/{run.run_id}/case", htmx=True).text
    assert "Why it stopped" in part
    assert re.search(r"<button[^>]*>Approve</button>", part)
    assert 'hx-trigger="run-changed' not in part  # from now on it renews itself, and never under a form


NASTY = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "\u202e evil مرحبا"]


@pytest.mark.parametrize("text", NASTY)
def test_everything_recorded_is_shown_as_text(runs: RunFactory, sign_in: SignIn, text: str) -> None:
    run = runs.engine.start_run(text, metadata={text: text})
    plan = [(text, passing({text: text})), (f"{text}2", failing(ValueError(text)))]
    with pytest.raises(ValueError, match=re.escape(text)):
        runs.engine.execute_workflow(run.run_id, plan, initial_input={text: text})
    runs.engine.grant_human_approval(run.run_id, text, note=text)
    ana = sign_in("ana")
    pages = [ana.get(f"/runs/{run.run_id}?tab={tab}").text for tab in TABS]
    pages += [ana.get(f"/runs/{run.run_id}/steps/{number}", htmx=True).text for number in (0, 1)]
    for page in pages:
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert ">49<" not in page


def test_a_page_takes_few_statements_however_long_the_run(
    runs: RunFactory, sign_in: SignIn, statements: Statements
) -> None:
    short, long = runs.with_many_steps(10, fail_last=True), runs.with_many_steps(10_000, fail_last=True)
    ana = sign_in("ana")
    for tab in TABS:
        for run in (short, long):
            statements.clear()
            page = ana.get(f"/runs/{run.run_id}?tab={tab}").text
            assert len(statements) <= MOST_STATEMENTS, statements
            assert len(page) < 120_000


def test_a_decided_run_takes_few_statements_too(
    runs: RunFactory, sign_in: SignIn, statements: Statements
) -> None:
    run = runs.with_many_steps(200, fail_last=True)
    with at(ago(minutes=0)):
        runs.engine.grant_human_approval(run.run_id, "olga@example.com")
    ana = sign_in("ana")
    for tab in TABS:
        statements.clear()
        page = ana.get(f"/runs/{run.run_id}?tab={tab}").text
        assert len(statements) <= MOST_STATEMENTS, statements
        assert "Waiting for a runner" in page
    for part in ("header", "steps/0"):
        statements.clear()
        ana.get(f"/runs/{run.run_id}/{part}", htmx=True)
        assert len(statements) <= 3, statements
