"""The audit log on real screens, on paper, and as files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tests.browser.conftest import Visit
from tests.factories import RunFactory


@pytest.mark.parametrize("address", ["/audit", "/audit?actor=nobody", "/audit?before=1", "/audit?since=ever"])
def test_axe_finds_nothing(runs: RunFactory, visit: Visit, address: str) -> None:
    runs.cleared("permanent", environment="prod", note="Key rotated, see ticket " + "x" * 300)
    runs.cancelled(workflow="<b>bold</b> مرحبا")
    alice = visit("alice")
    alice.open(address)
    assert alice.problems_on_all_screens() == []


def test_who_allowed_it_is_one_filter_away(runs: RunFactory, visit: Visit) -> None:
    run = runs.cleared(note="Key rotated")
    runs.completed()
    alice = visit("alice")
    alice.open("/audit")
    alice.page.get_by_label("Act", exact=True).select_option("gate.")
    alice.page.wait_for_url("**/audit?kind=gate.")
    rows = alice.page.locator("#audit-events tbody tr")
    rows.first.wait_for()
    assert rows.count() == 1
    assert rows.first.inner_text().startswith("olga@example.com approved")
    alice.page.get_by_role("link", name=run.run_id[:8]).click()
    alice.page.wait_for_url(f"**/runs/{run.run_id}")
    alice.page.go_back()
    alice.page.wait_for_url("**/audit?kind=gate.")
    assert rows.count() == 1


def test_the_export_holds_what_is_shown(runs: RunFactory, visit: Visit) -> None:
    run = runs.cleared(note="=HYPERLINK(1)")
    runs.cancelled()
    alice = visit("alice")
    alice.open(f"/audit?run={run.run_id}&kind=gate.")
    with alice.page.expect_download() as started:
        alice.page.get_by_role("link", name="JSONL").click()
    (event,) = [json.loads(line) for line in Path(started.value.path()).read_text().splitlines()]
    assert (event["actor"], event["note"]) == ("olga@example.com", "=HYPERLINK(1)")
    with alice.page.expect_download() as started:
        alice.page.get_by_role("link", name="CSV").click()
    (row,) = csv.DictReader(io.StringIO(Path(started.value.path()).read_text(), newline=""))
    assert row["note"] == "'=HYPERLINK(1)"
    alice.open("/audit?kind=audit.exported")
    assert alice.page.locator("#audit-events tbody tr").count() == 2


def test_on_paper_there_is_the_table_and_nothing_to_press(runs: RunFactory, visit: Visit) -> None:
    runs.cleared(note="Key rotated")
    alice = visit("alice")
    alice.open("/audit")
    alice.page.emulate_media(media="print")
    assert alice.page.get_by_text("Key rotated").is_visible()
    assert alice.page.locator("#audit-events").is_visible()
    for part in (".top", ".filters", ".pagination", ".no-print"):
        assert alice.page.locator(part).first.is_hidden(), part


def test_times_are_local_and_the_exact_one_is_in_the_title(runs: RunFactory, visit: Visit) -> None:
    runs.cleared()
    alice = visit("alice", timezone_id="America/New_York")
    alice.open("/audit?kind=gate.approved")
    time = alice.page.locator("#audit-events time").first
    assert time.get_attribute("title").endswith(" UTC")  # type: ignore[union-attr]
    assert "UTC" not in time.inner_text()


def test_filters_work_without_javascript(runs: RunFactory, visit: Visit) -> None:
    runs.cleared()
    alice = visit("alice", java_script_enabled=False)
    alice.open("/audit")
    alice.page.get_by_label("Act", exact=True).select_option("gate.approved")
    alice.button("Apply filters").click()
    assert alice.page.locator("#audit-events tbody tr").count() == 1
