"""Masked values in a real browser: what an operator can reveal, in place and without scripts."""

from __future__ import annotations

import pytest

from tests.browser.conftest import Visit
from tests.factories import RunFactory

SECRET = "c4nary9x"


@pytest.fixture
def run_id(runs: RunFactory) -> str:
    return runs.blocked(
        message=f"login with password={SECRET} refused",
        initial_input={"apiKey": SECRET, "claim": "c-1"},
        metadata={"token": SECRET},
    ).run_id


def test_a_value_is_revealed_in_its_place(run_id: str, visit: Visit) -> None:
    ana = visit("ana")
    ana.open(f"/gates?run={run_id}")
    ana.sees("login with password=•••• (masked) refused")
    assert SECRET not in ana.page.content()
    ana.button("Reveal the error").click()
    ana.sees(f"login with password={SECRET} refused")
    ana.button("Reveal the input").click()
    ana.page.get_by_role("group", name="Revealed input").wait_for()
    assert SECRET in ana.page.get_by_role("group", name="Revealed input").inner_text()
    assert ana.button("Reveal the error").count() == 0
    with ana.page.expect_download() as download:
        ana.button("Download with secrets").last.click()
    assert SECRET in download.value.path().read_text()
    ana.open(f"/runs/{run_id}?tab=metadata")
    ana.button("Reveal the metadata").click()
    ana.page.get_by_role("group", name="Revealed metadata").wait_for()
    assert ana.accessibility_problems() == []
    ana.page.reload()
    ana.button("Reveal the metadata").wait_for()
    assert SECRET not in ana.page.content(), "it is masked again after a reload"


def test_an_auditor_has_no_button(run_id: str, visit: Visit) -> None:
    alice = visit("alice")
    alice.open(f"/gates?run={run_id}")
    alice.sees("•••• (masked)")
    assert alice.page.get_by_role("button", name="Reveal").count() == 0
    assert SECRET not in alice.page.content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_works_without_scripts_and_on_a_phone(run_id: str, visit: Visit, scheme: str) -> None:
    ana = visit("ana", width=390, java_script_enabled=False, color_scheme=scheme)
    ana.open(f"/runs/{run_id}?tab=steps&open=1")
    ana.button("Reveal the error").first.click()
    ana.sees(f"login with password={SECRET} refused")
    ana.sees("Shown to you with its secrets")
    width = ana.page.locator("body").bounding_box()
    assert width is not None and width["width"] <= 390
