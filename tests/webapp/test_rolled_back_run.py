"""What the pages say of a run that is rolling back, or was rolled back."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from html import unescape
from typing import Any

from resume_engine.core.step import Step
from tests.factories import RunFactory, failing, passing
from tests.provision.app_fixtures import PageClient

SignIn = Callable[[str], PageClient]


def text_of(page: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


def rolled_back(runs: RunFactory, *, trouble: Exception | None = None, **options: Any) -> str:
    undo = failing(trouble) if trouble else passing({"refunded": True})
    workflow = [
        Step("charge", passing({"charge": "c-1"}), compensate=undo),
        Step("ship", failing(ValueError("no such address"))),
    ]
    run_id = runs.engine.start_run("orders", **options).run_id
    with suppress(ValueError):
        runs.engine.execute_workflow(run_id, workflow)
    with suppress(ConnectionError):
        runs.engine.roll_back(run_id, workflow, requested_by="olga@example.com", note="customer withdrew")
    return run_id


def test_a_rolled_back_run_shows_what_was_undone_and_who_wanted_it(runs: RunFactory, sign_in: SignIn) -> None:
    run_id = rolled_back(runs)
    ana = sign_in("ana")
    page = text_of(ana.get(f"/runs/{run_id}").text)
    assert "cancelled" in page and "0 compensation of charge" in page and "Approve" not in page
    events = text_of(ana.get(f"/runs/{run_id}?tab=events").text)
    assert "olga@example.com rolled the run back customer withdrew" in events
    assert "olga@example.com began to roll the run back" in events


def test_a_compensation_that_failed_waits_for_a_person(runs: RunFactory, sign_in: SignIn) -> None:
    run_id = rolled_back(runs, trouble=ConnectionError("the bank is away"), environment="prod")
    ana = sign_in("ana")
    page = text_of(ana.get(f"/runs/{run_id}").text)
    for expected in (
        "needs approval",
        "the bank is away",
        "a compensation failed (raised as ConnectionError)",
        "Lets the compensation of step 0 run again. Then the run goes on rolling back.",
    ):
        assert expected in page
    assert "recorded input" not in page
    assert "the bank is away" in text_of(ana.get("/gates").text)
