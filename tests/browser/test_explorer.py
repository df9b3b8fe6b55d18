"""The run explorer in a real browser: finding a run, and a list that keeps itself up to date."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from tests.browser.conftest import Visit
from tests.browser.dashboard import Dashboard, Traffic
from tests.factories import RunFactory, ago, at

ARABIC = "مراجعة المطالبات \u202e evil"


def rows(dashboard: Dashboard) -> list[str]:
    """Return the ids of the runs on the page."""
    found = dashboard.page.locator("#runs-table tr[data-row]")
    return [str(row.get_attribute("id")).removeprefix("run-") for row in found.all()]


def choose(dashboard: Dashboard, filter_name: str, word: str) -> None:
    """Choose a word of one filter and wait for its list."""
    with dashboard.page.expect_response(lambda answer: urlsplit(answer.url).path == "/runs"):
        dashboard.page.get_by_label(filter_name, exact=True).select_option(word)


def at_address(dashboard: Dashboard, address: str) -> None:
    dashboard.page.wait_for_url(f"**{address}")


def test_filter_open_and_back(runs: RunFactory, visit: Visit) -> None:
    blocked = runs.blocked("permanent", environment="prod", message="Invalid API key")
    runs.blocked("permanent", environment="dev")
    runs.completed()
    ana = visit("ana")
    ana.open("/runs")
    choose(ana, "State", "blocked")
    choose(ana, "Environment", "prod")
    at_address(ana, "/runs?status=blocked&environment=prod")
    assert rows(ana) == [blocked.run_id]
    ana.page.locator("#runs-table .row-link").first.click()
    at_address(ana, f"/runs/{blocked.run_id}")
    ana.sees("Why it stopped")
    ana.page.go_back()
    at_address(ana, "/runs?status=blocked&environment=prod")
    assert rows(ana) == [blocked.run_id]
    assert ana.page.get_by_label("State", exact=True).input_value() == "blocked"
    ana.page.go_back()
    at_address(ana, "/runs?status=blocked")
    ana.page.locator("#runs-table tr[data-row]").nth(1).wait_for()
    assert len(rows(ana)) == 2


def test_chips_remove_one_filter_and_clear_removes_all(runs: RunFactory, visit: Visit) -> None:
    runs.blocked("partial", workflow="billing")
    runs.completed("billing")
    runs.completed("claims")
    ana = visit("ana")
    ana.open("/runs?status=blocked&workflow=billing")
    ana.page.get_by_role("link", name="Remove filter State: blocked").click()
    at_address(ana, "/runs?workflow=billing")
    assert len(rows(ana)) == 2
    ana.page.get_by_role("link", name="Clear all").click()
    at_address(ana, "/runs")
    assert len(rows(ana)) == 3


def test_days_are_chosen_in_a_panel(runs: RunFactory, visit: Visit) -> None:
    with at(ago(days=3)):
        old = runs.completed()
    runs.completed()
    ana = visit("ana")
    ana.open("/runs")
    ana.page.get_by_text("Dates").click()
    day = f"{ago(days=2):%Y-%m-%d}"
    with ana.page.expect_response(lambda answer: "to=" in answer.url):
        ana.page.get_by_label("To UTC").fill(day)
        ana.page.get_by_label("To UTC").press("Tab")
    at_address(ana, f"/runs?to={day}")
    assert rows(ana) == [old.run_id]


def test_filters_unfold_on_a_phone_and_stay_where_they_are(runs: RunFactory, visit: Visit) -> None:
    runs.completed()
    ana = visit("ana", width=390)
    ana.open("/runs")
    assert ana.page.get_by_label("State", exact=True).is_hidden()
    ana.page.locator(".filter-toggle").click()
    ana.page.get_by_text("Dates").click()  # the first tap hits: nothing has moved
    assert ana.page.get_by_label("From UTC").is_visible()
    assert ana.overflow() == 0
    assert ana.accessibility_problems() == []


def test_an_id_is_found_in_one_action_with_the_keyboard_alone(runs: RunFactory, visit: Visit) -> None:
    for _ in range(3):
        runs.completed()
    run = runs.blocked()
    runs.completed()
    ana = visit("ana")
    ana.open("/")
    ana.page.keyboard.press("/")
    ana.page.keyboard.type(run.run_id[:8])
    ana.page.keyboard.press("Enter")
    at_address(ana, f"/runs/{run.run_id}")
    ana.sees("Why it stopped")


def test_a_part_of_a_workflow_name_is_found(runs: RunFactory, visit: Visit) -> None:
    run = runs.completed("billing_close")
    runs.completed("claims_intake")
    ana = visit("ana")
    ana.open("/")
    ana.page.get_by_role("searchbox").fill("CLOSE")
    ana.page.get_by_role("searchbox").press("Enter")
    at_address(ana, "/runs?q=CLOSE")
    assert rows(ana) == [run.run_id]
    choose(ana, "State", "completed")
    at_address(ana, "/runs?status=completed&q=CLOSE")


def test_rows_are_walked_with_j_and_k_and_opened_with_enter(runs: RunFactory, visit: Visit) -> None:
    made = [runs.completed().run_id for _ in range(3)][::-1]
    ana = visit("ana")
    ana.open("/runs")
    for key in "jjk":
        ana.page.keyboard.press(key)
    focused = ana.page.evaluate("document.activeElement.closest('tr').id")
    assert focused == f"run-{made[0]}"
    ana.page.keyboard.press("j")
    ana.page.keyboard.press("Enter")
    at_address(ana, f"/runs/{made[1]}")


def test_the_first_row_is_few_tabs_away(runs: RunFactory, visit: Visit) -> None:
    run = runs.completed()
    ana = visit("ana")
    ana.open("/runs")
    ana.page.keyboard.press("Tab")
    ana.page.keyboard.press("Enter")  # skip to content
    ana.page.keyboard.press("Tab")
    assert ana.page.evaluate("document.activeElement.getAttribute('href')") == f"/runs/{run.run_id}"


def test_rows_change_in_place_and_new_runs_wait(runs: RunFactory, visit: Visit) -> None:
    other = runs.completed()
    blocked = runs.blocked()
    ana = visit("ana")
    ana.open("/runs")
    ana.page.locator(f"#run-{other.run_id} .row-link").focus()
    runs.engine.reject_run(blocked.run_id, "olga@example.com", note="sent twice")
    runs.completed("brand_new")
    row = ana.page.locator(f"#run-{blocked.run_id} .c-state")
    row.get_by_text("cancelled").wait_for(timeout=9_000)
    ana.sees("1 new")
    assert rows(ana) == [blocked.run_id, other.run_id]  # nothing moved
    assert ana.page.evaluate("document.activeElement.closest('tr').id") == f"run-{other.run_id}"
    ana.page.get_by_role("link", name="1 new").click()
    ana.page.locator(".row-link").get_by_text("brand_new").wait_for()
    assert len(rows(ana)) == 3


def test_a_list_that_was_empty_tells_of_the_first_run(runs: RunFactory, visit: Visit) -> None:
    ana = visit("ana")
    ana.open("/runs")
    ana.sees("No run has been recorded yet")
    run = runs.completed()
    ana.page.get_by_role("link", name="1 new").click(timeout=9_000)
    ana.page.locator(f"#run-{run.run_id}").wait_for()


def test_everything_works_without_javascript(runs: RunFactory, visit: Visit) -> None:
    with at(ago(hours=1)) as clock:
        for _ in range(60):
            runs.pending("flow")
            clock.advance(1)
    run = runs.blocked(workflow="billing")
    ana = visit("ana", java_script_enabled=False)
    ana.open("/runs")
    ana.page.get_by_label("State", exact=True).select_option("blocked")
    ana.button("Apply filters").click()
    assert rows(ana) == [run.run_id]
    ana.page.get_by_role("link", name="Clear all").click()
    ana.page.get_by_role("link", name="Older").click()
    assert len(rows(ana)) == 11
    ana.page.get_by_role("link", name="Newer").click()
    ana.page.locator(f"#run-{run.run_id} .row-link").click()
    ana.sees("Why it stopped")


def fill_every_state(runs: RunFactory) -> None:
    runs.every_state()
    runs.blocked("partial", environment="prod", workflow="w" * 255, message="M" * 2_000, run_id="l" * 36)
    runs.blocked(workflow=ARABIC, run_id="ünï/cødé \u202e", message="<b>bold</b>\nsecond line")
    runs.legacy()
    runs.with_many_steps(2_000, fail_last=True)


@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_and_nothing_scrolls_sideways(runs: RunFactory, visit: Visit, width: int) -> None:
    ana = visit("ana", width=width)
    for state in ("empty", "full"):
        if state == "full":
            fill_every_state(runs)
        for address in (
            "/runs",
            "/runs?status=failed&environment=prod",
            "/runs?status=faild",
            "/runs?since=24h&q=w",
        ):
            ana.open(address)
            assert ana.problems_in_light_and_dark() == [], (state, address)


def test_a_laptop_shows_eighteen_rows_and_a_phone_the_whole_state(runs: RunFactory, visit: Visit) -> None:
    for _ in range(20):
        runs.pending("claims_intake")
    run = runs.blocked("partial", environment="prod", message="2 of 5 invoices were sent")
    ana = visit("ana")
    ana.open("/runs")
    bottoms = [row.bounding_box() for row in ana.page.locator("#runs-table tr[data-row]").all()]
    assert sum(1 for box in bottoms if box and box["y"] + box["height"] <= 800) >= 18
    phone = visit("ana", width=390)
    phone.open("/runs")
    card = phone.page.locator(f"#run-{run.run_id}")
    for part in (".c-state .state", ".c-workflow bdi"):
        box = card.locator(part).first.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        clipped = card.locator(part).first.evaluate(
            "node => node.parentElement.scrollWidth > node.parentElement.clientWidth"
        )
        assert not clipped, part


def test_the_page_keeps_its_budget(runs: RunFactory, visit: Visit) -> None:
    for number in range(50):
        runs.pending(f"workflow_{number % 7}")
    for kind in ("permanent", "partial"):
        runs.blocked(kind, environment="prod", message=f"the gateway refused merchant ({kind})")
    ana = visit("ana")
    cold = Traffic(ana.page)
    ana.open("/runs")
    ana.page.wait_for_load_state("networkidle")
    assert len(cold.requests) <= 8, cold.requests
    assert cold.bytes <= 60_000
    assert {urlsplit(url).netloc for url in cold.requests} == {urlsplit(ana.page.url).netloc}
    warm = Traffic(ana.page)
    ana.page.get_by_role("link", name="Runs", exact=True).first.click()
    ana.page.wait_for_load_state("networkidle")
    assert warm.bytes <= 12_000, warm.requests  # headers included


def test_nothing_shifts_while_the_page_loads(runs: RunFactory, visit: Visit) -> None:
    for _ in range(10):
        runs.pending()
    ana = visit("ana")
    ana.page.add_init_script(
        "window.shift = 0; new PerformanceObserver((list) => {"
        " for (const entry of list.getEntries()) window.shift += entry.value;"
        "}).observe({type: 'layout-shift', buffered: true});"
    )
    ana.open("/runs")
    ana.page.wait_for_load_state("networkidle")
    assert ana.page.evaluate("window.shift") < 0.01


def test_text_that_looks_like_html_stays_text(runs: RunFactory, visit: Visit) -> None:
    text = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    runs.blocked(workflow=text, message=text, run_id=text[:36])
    ana = visit("ana")
    ana.page.on("dialog", lambda dialog: ana.troubles.append(f"dialog: {dialog.message}"))
    ana.open("/runs")
    ana.page.locator(".row-link").get_by_text("<img src=x").wait_for()
    ana.page.locator(".row-link").first.click()
    ana.sees("Why it stopped")


def test_no_time_is_cut_off(runs: RunFactory, visit: Visit) -> None:
    with at(ago(hours=23, minutes=58, seconds=30)):
        runs.blocked("permanent", message="a long message, " * 20)
    ana = visit("ana")
    for address in ("/", "/runs", "/gates", "/gates/approvals", "/audit"):
        ana.open(address)
        times = ana.page.locator("main time:visible")
        assert times.count(), address
        cut = times.evaluate_all(
            "all => all.filter(one => { const cell = one.closest('td') || one.parentElement; "
            "return cell.scrollWidth > cell.clientWidth && getComputedStyle(cell).overflowX === 'hidden' })"
            ".map(one => one.textContent)"
        )
        assert cut == [], address
