"""The page of a run in a real browser: why it stopped, what it recorded, and how it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import expect

from resume_engine.core.failure_classifier import PermanentStepError
from tests.browser.conftest import Visit
from tests.browser.dashboard import Dashboard, Traffic
from tests.factories import RunFactory, ago, at, failing, passing, steps

Working = Callable[..., Any]
ARABIC = "مراجعة المطالبات \u202e evil"


def records(dashboard: Dashboard) -> int:
    return dashboard.page.locator("#steps details.step").count()


def test_why_it_stopped_is_above_the_fold(runs: RunFactory, visit: Visit) -> None:
    run = runs.blocked(
        "permanent", environment="prod", message="Invalid API key", initial_input={"claim": "c-1"}
    )
    ana = visit("ana")
    ana.open(f"/runs/{run.run_id}")
    for text in ("Why it stopped", "Invalid API key", "raised as PermanentStepError"):
        box = ana.page.get_by_text(text).first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < 800
    assert ana.page.get_by_text("Traceback (most recent call last)").is_hidden()
    box = ana.button("Approve").bounding_box()
    assert box is not None
    assert box["y"] < 800


def test_approve_here_and_watch_the_run_complete_without_reloading(
    runs: RunFactory, visit: Visit, working: Working
) -> None:
    run = runs.blocked("permanent")
    ana = visit("ana")
    ana.open(f"/runs/{run.run_id}")
    assert records(ana) == 2
    ana.approve("Key rotated")
    ana.sees("Approved by you")
    ana.page.locator("#header").get_by_text("cleared").wait_for()
    with working({"claims_intake": steps(3)}):
        ana.page.locator("#header").get_by_text("completed").wait_for(timeout=15_000)
    ana.page.locator("#record-3").wait_for()  # the steps that came since
    assert ana.page.locator("#header").get_attribute("hx-get") is None  # it asks no more


def test_a_run_that_stops_while_it_is_watched_shows_why(runs: RunFactory, visit: Visit) -> None:
    run = runs.engine.start_run("claims_intake")
    runs.engine.execute_step(run.run_id, "step_0", 0, {}, passing({}))
    ana = visit("ana")
    ana.open(f"/runs/{run.run_id}")
    assert ana.page.get_by_text("Why it stopped").count() == 0
    with pytest.raises(PermanentStepError):
        runs.engine.execute_step(run.run_id, "step_1", 1, {}, failing(PermanentStepError("Quota used up")))
    ana.sees("Why it stopped")
    ana.sees("Quota used up")
    ana.button("Approve").wait_for()


def test_what_is_typed_and_what_is_open_survives_the_updates(runs: RunFactory, visit: Visit) -> None:
    run = runs.blocked("partial", environment="prod")
    ana = visit("ana")
    ana.open(f"/runs/{run.run_id}")
    ana.page.locator("#record-1 > summary").click()
    ana.page.locator("#values-1 .facts").wait_for()
    ana.page.get_by_label("Note").fill("half a note")
    runs.engine.ack_prod_resume(run.run_id, "oscar@example.org")  # somebody else does their part
    ana.page.locator("#header").get_by_text("needs prod acknowledgement").wait_for(
        state="detached", timeout=9_000
    )
    ana.page.wait_for_timeout(2_500)
    assert ana.page.get_by_label("Note").input_value() == "half a note"
    assert ana.page.locator("#values-1").is_visible()


def test_the_audit_log_is_downloaded_byte_for_byte(runs: RunFactory, visit: Visit) -> None:
    run = runs.blocked("partial", workflow="claims ünï", initial_input={"name": "Zoë\n"})
    ana = visit("ana")
    ana.open(f"/runs/{run.run_id}")
    with ana.page.expect_download() as started:
        ana.page.get_by_role("link", name="Download audit log").click()
    assert started.value.suggested_filename == f"audit-log-{run.run_id}.txt"
    assert Path(started.value.path()).read_bytes() == runs.engine.get_audit_log(run.run_id).encode()


def test_a_record_opens_where_it_is_and_its_values_are_downloaded(runs: RunFactory, visit: Visit) -> None:
    run = runs.completed(count=3, initial_input={"claim": "c-1", "long": "x" * 5_000})
    ana = visit("ana")
    ana.open(f"/runs/{run.run_id}")
    ana.page.locator("#record-1 > summary").click()
    values = ana.page.locator("#values-1")
    values.get_by_text("c-1").first.wait_for()
    values.get_by_text("Input", exact=True).first.click()
    with ana.page.expect_download() as started:
        values.get_by_role("link", name="Download raw input").click()
    assert json.loads(Path(started.value.path()).read_text()) == run.steps[1].input_data


def test_tabs_keep_their_address_and_back_works(runs: RunFactory, visit: Visit) -> None:
    run = runs.cleared(note="Key rotated")
    ana = visit("ana")
    ana.open(f"/runs/{run.run_id}")
    tabs = ana.page.get_by_role("navigation", name="Parts of this run")
    tabs.get_by_role("link", name="Decisions").click()
    ana.page.wait_for_url("**?tab=decisions")
    ana.page.locator("#decisions").get_by_text("Key rotated").wait_for()
    tabs.get_by_role("link", name="Audit trace").click()
    ana.page.wait_for_url("**?tab=trace")
    ana.page.locator("#trace").get_by_text(run.run_id).first.wait_for()
    ana.page.go_back()
    ana.page.wait_for_url("**?tab=decisions")
    ana.page.locator("#decisions").get_by_text("Key rotated").wait_for()


def test_ten_thousand_steps_open_like_ten(runs: RunFactory, visit: Visit) -> None:
    run = runs.with_many_steps(10_000, fail_last=True)
    ana = visit("ana")
    ana.open(f"/runs/{run.run_id}")
    ana.sees("Records 1 to 50 of 10,000")
    assert records(ana) == 50
    ana.page.get_by_role("link", name="Last", exact=True).first.click()
    ana.sees("Records 9,951 to 10,000 of 10,000")
    ana.page.locator("#record-9999").get_by_text("Quota used up").wait_for()
    ana.page.get_by_role("link", name="Failed only").click()
    ana.sees("Failed attempts")
    assert records(ana) == 1
    assert ana.accessibility_problems() == []


def test_the_whole_page_works_without_javascript(runs: RunFactory, visit: Visit) -> None:
    run = runs.blocked("permanent", initial_input={"claim": "c-1"})
    ana = visit("ana", java_script_enabled=False)
    ana.open(f"/runs/{run.run_id}")
    ana.page.locator("#record-0 > summary").click()
    ana.page.locator("#record-0").get_by_role("link", name="Show what was recorded").click()
    ana.page.locator("#values-0 .json").get_by_text("c-1").wait_for()
    ana.page.get_by_role("link", name="Metadata").click()
    ana.sees("Last change")
    ana.approve("Key rotated")
    ana.sees("Approved by you")
    assert urlsplit(ana.page.url).path == f"/runs/{run.run_id}"


def make_odd_runs(runs: RunFactory) -> list[str]:
    odd = runs.blocked(
        "partial", environment="prod", workflow=ARABIC, run_id="ünï/cødé \u202e", message="<b>x</b>\n2nd"
    )
    long = runs.blocked(workflow="w" * 255, message="M" * 8_000, run_id="l" * 36)
    cleared = runs.cleared(note="Key rotated")
    twice = runs.blocked("permanent")
    runs.engine.grant_human_approval(twice.run_id, "olga@example.com", note="once")
    with at(ago(minutes=-5)), pytest.raises(ValueError, match="again"):
        runs.engine.resume(twice.run_id, steps(3, fail_at=1, error=ValueError("again")))
    return [
        run.run_id for run in (odd, long, cleared, twice, runs.legacy(), runs.completed(), runs.pending())
    ]


@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_and_nothing_scrolls_sideways(runs: RunFactory, visit: Visit, width: int) -> None:
    ids = make_odd_runs(runs)
    ana = visit("ana", width=width)
    addresses = [f"/runs/{quote(run_id)}" for run_id in ids]
    addresses += [f"{addresses[0]}?tab={tab}" for tab in ("decisions", "events", "trace", "metadata")]
    addresses += [
        f"{addresses[2]}?tab=decisions",
        f"{addresses[3]}/steps/1",
        "/runs/unknown",
        f"{addresses[0]}?tab=x",
    ]
    for address in addresses:
        ana.open(address)
        assert ana.problems_in_light_and_dark() == [], address


def test_the_page_keeps_its_budget(runs: RunFactory, visit: Visit) -> None:
    short = runs.blocked("permanent", environment="prod", initial_input={"claim": "c-1"})
    long = runs.with_many_steps(10_000, fail_last=True)
    ana = visit("ana")
    cold = Traffic(ana.page)
    ana.open(f"/runs/{long.run_id}")
    ana.page.wait_for_load_state("networkidle")
    assert len(cold.requests) <= 8, cold.requests
    assert cold.bytes <= 60_000
    for run in (short, long):
        warm = Traffic(ana.page)
        ana.open(f"/runs/{run.run_id}")
        ana.page.wait_for_timeout(300)
        assert warm.bytes <= 12_000, warm.requests  # headers included


def test_on_paper_receipts_and_exact_times_stay_and_forms_go(runs: RunFactory, visit: Visit) -> None:
    run = runs.blocked("partial", environment="prod")
    runs.engine.record_compensation(run.run_id, note="refunded by hand")
    alice, ana = visit("alice"), visit("ana")
    for reader in (alice, ana):
        reader.open(f"/runs/{run.run_id}")
        reader.page.emulate_media(media="print")
        expect(reader.decision.get_by_text("refunded by hand")).to_be_visible()
        for gone in (".top", ".gate-form", ".reject"):
            assert not reader.page.locator(gone).first.is_visible()
        time = reader.decision.locator("time[data-ago]").first
        shown = time.evaluate("node => getComputedStyle(node, '::after').content")
        assert shown == f'"{time.get_attribute("title")}"'
        reader.page.set_viewport_size({"width": 720, "height": 1000})
        assert reader.overflow() == 0
