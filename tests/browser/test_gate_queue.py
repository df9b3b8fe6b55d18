"""Overview and queue on real screens: readable, accessible, small, and quick to walk through."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Visit
from tests.browser.dashboard import Dashboard, Traffic
from tests.factories import RunFactory, ago, at

COLD_BYTES, COLD_REQUESTS, WARM_BYTES = 60_000, 8, 10_000
LONG = "onboarding_kyc_checks_for_large_accounts_" + "z" * 180
ARABIC = "<script>alert(1)</script> مرحبا سير العمل \u202e"


def a_full_queue(runs: RunFactory) -> None:
    """Make what a bad night leaves behind."""
    data = {"claim_id": "c-1093", "amount": 120.5, "customer": {"name": "Zoë <b>Öz</b>", "vip": True}}
    for index in range(12):
        with at(ago(hours=12 - index)):
            runs.blocked(
                ("permanent", "partial", "transient")[index % 3],
                environment="prod" if index % 3 == 2 else ("prod", "staging", "dev")[index % 2],
                message="Invalid API key: the gateway rejected merchant 4471 (HTTP 401)",
                initial_input=data,
            )
    runs.blocked("permanent", workflow=ARABIC, message="<img src=x onerror=alert(1)>", environment="prod")
    runs.blocked("permanent", workflow=LONG, message="x" * 3_000, initial_input={"big": "v" * 9_000})
    runs.completed()
    runs.cleared(note="Key rotated")
    runs.cancelled()


def half_decided(runs: RunFactory) -> str:
    run = runs.blocked("partial", environment="prod")
    runs.engine.record_compensation(run.run_id, result={"refund_id": "r-1"}, note="by hand")
    return f"/gates?run={run.run_id}&failure=1%3A1"


def decided(runs: RunFactory) -> str:
    return f"/gates?run={runs.cleared('permanent', environment='prod', note='ok').run_id}&failure=1%3A1"


def long_names(runs: RunFactory) -> str:
    return f"/gates?run={runs.blocked(workflow=LONG, message='x' * 3_000).run_id}"


def right_to_left(runs: RunFactory) -> str:
    return f"/gates?run={runs.blocked('partial', workflow=ARABIC, environment='prod').run_id}"


def plain(address: str, *, full: bool = True) -> Callable[[RunFactory], str]:
    def make(runs: RunFactory) -> str:
        if full:
            a_full_queue(runs)
        return address

    return make


CAUSE = "Invalid+API+key%3A+the+gateway+rejected+merchant+4471+%28HTTP+401%29"
STATES: dict[str, Callable[[RunFactory], str]] = {
    "overview": plain("/"),
    "overview, empty": plain("/", full=False),
    "queue": plain("/gates"),
    "queue, empty": plain("/gates", full=False),
    "queue, nothing matches": plain("/gates?environment=staging&kind=compensation&workflow=x"),
    "queue, compensation": plain("/gates?kind=compensation"),
    "queue, acknowledgement": plain("/gates?kind=prod_resume_ack"),
    "item, half decided": half_decided,
    "item, decided": decided,
    "item, long names": long_names,
    "item, right to left": right_to_left,
    "several together": plain(f"/gates/approvals?cause={CAUSE}"),
    "several together, different errors": plain("/gates/approvals"),
    "several together, none": plain("/gates/approvals?cause=x", full=False),
    "decided lately": plain("/gates/decided"),
    "refused address": plain("/gates?kind=everything", full=False),
}


@pytest.mark.parametrize("state", STATES)
def test_axe_finds_nothing_in_light_and_dark_on_desk_and_phone(
    runs: RunFactory, visit: Visit, state: str
) -> None:
    ana = visit("ana")
    ana.open(STATES[state](runs))
    ana.page.wait_for_load_state("networkidle")
    assert ana.problems_on_all_screens() == []


def test_axe_finds_nothing_after_each_kind_of_answer(runs: RunFactory, visit: Visit) -> None:
    run = runs.blocked("partial", environment="prod", fail_at=1)
    ana = visit("ana")
    ana.open("/gates")
    ana.record_compensation("{nope")
    ana.sees("at line 1, column 2")
    assert ana.accessibility_problems() == []
    ana.page.get_by_text("Reject this run…").click()
    assert ana.accessibility_problems() == []
    runs.engine.record_compensation(run.run_id)
    ana.record_compensation("{}")
    ana.sees("before you. Nothing was changed.")
    assert ana.accessibility_problems() == []


@pytest.mark.parametrize("address", ["/", "/gates", "/audit"])
def test_pages_keep_their_budget(runs: RunFactory, visit: Visit, address: str) -> None:
    a_full_queue(runs)
    ana = visit("ana")
    cold = Traffic(ana.page)
    ana.open(address)
    ana.page.wait_for_load_state("networkidle")
    assert len(cold.requests) <= COLD_REQUESTS, cold.requests
    assert cold.bytes <= COLD_BYTES
    host = ana.page.url.split("/")[2]
    assert {url.split("/")[2] for url in cold.requests if url.startswith("http")} == {host}
    cached = Traffic(ana.page)
    ana.open(address)
    ana.page.wait_for_load_state("networkidle")
    assert cached.bytes <= WARM_BYTES, (cached.bytes, cached.requests)


def test_on_a_phone_the_error_comes_first_and_the_form_is_as_wide_as_the_page(
    runs: RunFactory, visit: Visit
) -> None:
    a_full_queue(runs)
    ana = visit("ana", width=390)
    ana.open("/gates")
    message = ana.page.locator("#item .why").bounding_box()
    first_item = ana.queue.first.bounding_box()
    button = ana.button("Approve").bounding_box()
    assert message is not None
    assert first_item is not None
    assert button is not None
    assert message["y"] < 500  # without scrolling
    assert button["y"] < first_item["y"]  # the list comes behind the item that is open
    assert button["width"] > 300
    assert button["height"] >= 40


def test_the_queue_is_walked_with_the_keyboard_and_no_key_decides(runs: RunFactory, visit: Visit) -> None:
    runs.blocked(message="first")
    second = runs.blocked(message="second")
    ana = visit("ana")
    ana.open("/gates")
    press = ana.page.keyboard.press
    press("j")
    press("j")
    press("Enter")
    ana.page.wait_for_url(f"**/gates?*{second.run_id}*")
    for key in ("a", "y", "Enter", "Space", "r", "x"):
        press(key)
    assert not runs.store.list_decisions(second.run_id)
    press("g")
    press("o")
    ana.page.wait_for_url("**/")


def test_skip_link_leads_to_the_decision(runs: RunFactory, visit: Visit) -> None:
    runs.blocked()
    ana = visit("ana")
    ana.open("/gates")
    ana.page.keyboard.press("Tab")
    ana.page.keyboard.press("Enter")
    ana.page.keyboard.press("Tab")
    assert ana.page.evaluate("document.activeElement.name") == "note"


def test_filters_stay_in_the_address_and_come_back_with_back(runs: RunFactory, visit: Visit) -> None:
    a_full_queue(runs)
    ana = visit("ana")
    ana.open("/gates")
    ana.page.get_by_label("Environment", exact=True).select_option("prod")
    ana.page.wait_for_url("**/gates?environment=prod")
    count = ana.queue.count()
    ana.page.locator(".tabs").get_by_role("link", name="Prod acknowledgement").click()
    ana.page.wait_for_url("**/gates?kind=prod_resume_ack&environment=prod")
    assert ana.queue.count() <= count
    ana.queue.last.click()
    assert "environment=prod" in ana.page.url
    ana.page.go_back()
    ana.page.go_back()
    ana.page.wait_for_url("**/gates?environment=prod")
    assert ana.queue.count() == count
    assert ana.page.get_by_label("Environment", exact=True).input_value() == "prod"


def test_the_prod_rule_follows_the_item_that_is_open(runs: RunFactory, visit: Visit) -> None:
    with at(ago(hours=1)):
        runs.blocked(environment="prod")
    runs.blocked(environment="dev")
    ana = visit("ana")
    ana.open("/gates")
    rule = ana.page.locator(".prod-rule")
    assert rule.count() == 1
    ana.page.get_by_label("Environment", exact=True).select_option("dev")
    ana.page.wait_for_url("**/gates?environment=dev")
    ana.sees("Invalid API key")
    assert rule.count() == 0  # changed in place, without a reload


def test_new_work_shows_up_by_itself(runs: RunFactory, visit: Visit) -> None:
    ana, oscar = visit("ana"), visit("oscar")
    ana.open("/")
    oscar.open("/gates")
    ana.sees("Nobody has to decide anything right now")
    runs.blocked()
    ana.sees("1 waiting for a person", within_seconds=10)
    _header_says(ana, "1")
    oscar.queue.first.wait_for(timeout=10_000)
    assert oscar.page.get_by_text("Nobody has to decide anything right now").count() == 0
    ana.page.get_by_role("link", name="Show the oldest").click()
    ana.button("Approve").wait_for()


NUMBERS_SEEN = """() => {
  const texts = ["gate-count", "waiting", "count-all", "count-human_approval"];
  window.seen = new Set();
  const number = (id) => document.getElementById(id).textContent.match(/^[0-9]*/)[0];
  const look = () => seen.add(texts.map(number).join(" "));
  look();
  new MutationObserver(look).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


def test_after_a_decision_header_heading_and_tabs_say_the_same_at_once(
    runs: RunFactory, visit: Visit
) -> None:
    for _ in range(3):
        runs.blocked()
    ana = visit("ana")
    ana.open("/gates")
    ana.page.evaluate(NUMBERS_SEEN)
    with ana.page.expect_response("**/gates/queue*"):  # asked because of the decision
        ana.approve("key rotated")
    _header_says(ana, "2")
    assert set(ana.page.evaluate("[...seen]")) == {"3 3 3 3", "2 2 2 2"}
    assert ana.page.evaluate("document.activeElement.id") == "decision"


def test_numbers_on_tabs_are_renewed_under_the_focus(runs: RunFactory, visit: Visit) -> None:
    runs.blocked()
    ana = visit("ana")
    ana.open("/gates")
    ana.page.locator(".tabs").get_by_role("link", name="Approval").focus()
    runs.blocked()
    ana.page.locator("#count-human_approval", has_text="2").wait_for(timeout=10_000)
    assert ana.page.evaluate("document.activeElement.textContent").startswith("Approval")


def test_the_header_of_a_run_page_counts_what_was_decided_there(runs: RunFactory, visit: Visit) -> None:
    run = runs.blocked()
    runs.blocked()
    ana = visit("ana")
    ana.open(f"/runs/{run.run_id}")
    ana.approve()
    _header_says(ana, "1")


def test_a_phone_shows_who_decided_what_at_once(runs: RunFactory, visit: Visit) -> None:
    runs.blocked(workflow="claims_intake_of_large_accounts", environment="prod")
    ana = visit("ana", width=390)
    ana.open("/")
    ana.approve("key rotated")
    line = ana.page.locator("#figures li").get_by_text("approved by")  # long before the next look of its own
    expect(line).to_contain_text("ana@example.org")
    assert line.evaluate("node => node.scrollWidth <= node.clientWidth && node.clientWidth > 300")
    assert ana.overflow() == 0


def _header_says(dashboard: Dashboard, number: str) -> None:
    dashboard.page.locator("#gate-count", has_text=number).wait_for(timeout=3_000)
