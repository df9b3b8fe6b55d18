"""Approving several failures of one cause: each on its own, with an answer for each."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape

import pytest

from resume_engine.core.audit import EventType
from resume_engine.core.run import RunStatus
from tests.factories import RunFactory, steps
from tests.provision.app_fixtures import PageClient
from tests.webapp.helpers import events
from webapp.pages.decision_forms import BULK_LIMIT

SignIn = Callable[[str], PageClient]
ADDRESS = "/gates/approvals?cause=Invalid+API+key"


def offered(text: str) -> list[str]:
    """Return what the page offers to approve."""
    return re.findall(r'<input type="checkbox" name="item" value="([^"]+)"', text)


def test_it_offers_all_that_wait_for_an_approval_because_of_one_error(
    runs: RunFactory, ana: PageClient
) -> None:
    made = [runs.blocked(message="Invalid API key", environment=e).run_id for e in ("dev", "prod", "staging")]
    runs.blocked(message="Something else")
    runs.blocked("partial", message="Invalid API key")
    runs.blocked("transient", message="Invalid API key", environment="prod")
    text = ana.get(ADDRESS).text
    assert [item.partition("@")[0] for item in offered(text)] == made
    assert text.count(" checked>") == 3
    assert "<strong>1 run in prod</strong>" in text


NONE_IS_MARKED = "different errors stopped these runs, so none is marked"


@pytest.mark.parametrize("query", ["", "?cause=", "?environment=dev"])
def test_failures_of_different_causes_are_never_marked_beforehand(
    runs: RunFactory, ana: PageClient, query: str
) -> None:
    keys = [runs.blocked(message="Invalid API key").run_id for _ in range(2)]
    quota = runs.blocked(message="Quota used up").run_id
    keys.append(runs.blocked(message="Invalid API key").run_id)
    text = ana.get(f"/gates/approvals{query}").text
    assert [item.partition("@")[0] for item in offered(text)] == [*keys, quota]  # by cause
    assert " checked>" not in text
    assert f"2 {NONE_IS_MARKED}" in text
    causes = re.findall(r'<tr class="bulk-cause">.*?<bdi>(.*?)</bdi> <span class="quiet">(.*?)</span>', text)
    assert causes == [("Invalid API key", "3 runs"), ("Quota used up", "1 run")]
    alone = re.search(r'href="([^"]+)" aria-label="Show only these: Invalid API key"', text)
    assert alone is not None
    only_these = ana.get(unescape(alone.group(1))).text
    assert [item.partition("@")[0] for item in offered(only_these)] == keys
    assert only_these.count(" checked>") == 3


def test_one_message_of_two_types_of_errors_is_two_causes(runs: RunFactory, ana: PageClient) -> None:
    runs.blocked(message="Invalid API key")
    run = runs.engine.start_run("claims_intake")
    with pytest.raises(ValueError, match="Invalid"):
        runs.engine.execute_workflow(run.run_id, steps(1, fail_at=0, error=ValueError("Invalid API key")))
    text = ana.get(ADDRESS).text
    assert len(offered(text)) == 2
    assert " checked>" not in text
    assert NONE_IS_MARKED in text
    assert "Only these" not in text  # that is this page


def test_one_cause_is_marked_without_being_asked_for(runs: RunFactory, ana: PageClient) -> None:
    for number in range(2):
        runs.blocked(
            message=f"{'Invalid API key ' * 8}claim {number}"
        )  # alike as far as causes are told apart
    text = ana.get("/gates/approvals").text
    assert text.count(" checked>") == len(offered(text)) == 2
    assert NONE_IS_MARKED not in text


def test_marks_of_different_causes_are_taken_and_kept(runs: RunFactory, ana: PageClient) -> None:
    made = [runs.blocked(message=message, fail_at=1) for message in ("Invalid API key", "Quota used up")]
    chosen = [f"{run.run_id}@1:1" for run in made]
    again = ana.post("/gates/approvals", data={"item": chosen[:1], "note": "x" * 5_000})
    assert again.status_code == 422
    assert re.findall(r'value="([^"]+)"[^>]* checked>', again.text) == chosen[:1]
    assert "2 runs approved" in ana.post("/gates/approvals", data={"item": chosen}).text


def test_three_actions_resolve_fifty_failures_of_one_cause(runs: RunFactory, ana: PageClient) -> None:
    made = [runs.blocked(message="Invalid API key", count=2) for _ in range(BULK_LIMIT)]
    # 1: the overview names the cause and leads to its runs
    link = re.search(r'href="(/gates/approvals[^"]+)"', ana.get("/").text)
    assert link is not None
    # 2: all are marked; a note is typed; 3: the button
    page = ana.get(unescape(link.group(1))).text
    answer = ana.post(unescape(link.group(1)), data={"item": offered(page), "note": "key rotated"})
    assert answer.status_code == 200
    assert "50 runs approved" in answer.text
    for run in made:
        (decision,) = runs.store.list_decisions(run.run_id)
        assert (decision.actor, decision.note) == ("ana@example.org", "key rotated")
    assert len(events(runs.store, EventType.GATE_APPROVED)) == BULK_LIMIT


def test_each_conflict_is_told_and_the_others_are_approved(runs: RunFactory, ana: PageClient) -> None:
    taken, free, prod = (runs.blocked(environment=e, fail_at=1) for e in ("dev", "dev", "prod"))
    runs.engine.grant_human_approval(taken.run_id, "oscar@example.org")
    chosen = [f"{run.run_id}@1:1" for run in (taken, free, prod)] + ["nothing@0:1"]
    answer = ana.post(ADDRESS, data={"item": chosen})
    assert answer.status_code == 200
    assert "2 runs approved, 2 not" in answer.text
    assert re.search(r"oscar@example\.org approved this .+ before you\. Nothing was changed\.", answer.text)
    assert "There is no such run" in answer.text
    assert runs.reload(free).status is RunStatus.PAUSED
    summary = runs.store.load_summary(prod.run_id)
    assert summary is not None
    assert summary.blocked_by == ("prod_resume_ack",)  # still to be acknowledged, on its own


def test_neither_compensation_nor_acknowledgement_is_made_in_bulk(runs: RunFactory, ana: PageClient) -> None:
    partial = runs.blocked("partial", fail_at=1)
    prod = runs.blocked("transient", environment="prod", fail_at=1)
    answer = ana.post(ADDRESS, data={"item": [f"{partial.run_id}@1:1", f"{prod.run_id}@1:1"]})
    assert answer.status_code == 409
    for run in (partial, prod):
        assert not runs.store.list_decisions(run.run_id)


def test_pressing_twice_approves_once(runs: RunFactory, ana: PageClient) -> None:
    run = runs.blocked(fail_at=1)
    data = {"item": f"{run.run_id}@1:1"}
    assert ana.post(ADDRESS, data=data).status_code == 200
    again = ana.post(ADDRESS, data=data)
    assert again.status_code == 409
    assert "You approved this" in again.text
    assert len(runs.store.list_decisions(run.run_id)) == 1


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([], "Choose at least one run."),
        (["x"], "cannot be read"),
        (["@1:1"], "cannot be read"),
        (["x@"], "cannot be read"),
        ([f"r{n}@1:1" for n in range(BULK_LIMIT + 1)], f"At most {BULK_LIMIT} at once"),
    ],
)
def test_invalid_input_comes_back(runs: RunFactory, ana: PageClient, items: list[str], words: str) -> None:
    run = runs.blocked(message="Invalid API key")
    answer = ana.post(ADDRESS, data={"item": items, "note": "typed before"})
    assert answer.status_code == 422
    assert words in answer.text
    assert ">typed before</textarea>" in answer.text
    assert run.run_id in answer.text
    assert not runs.store.list_decisions(run.run_id)


def test_only_operators_with_a_token_by_post(runs: RunFactory, ana: PageClient, sign_in: SignIn) -> None:
    run = runs.blocked(fail_at=1)
    data = {"item": f"{run.run_id}@1:1"}
    assert sign_in("alice").post(ADDRESS, data=data).status_code == 403
    assert ana.post(ADDRESS, data=data, token=False).status_code == 403
    assert ana.put(ADDRESS, data=data).status_code == 405
    assert not runs.store.list_decisions(run.run_id)
    (refusal,) = events(runs.store, EventType.ACCESS_DENIED)
    assert refusal.actor == "alice@example.org"


def test_nothing_waits_for_that(ana: PageClient) -> None:
    assert "No run waits for an approval because of this error" in ana.get(ADDRESS).text
    assert "because of this error" not in ana.get("/gates/approvals").text


def test_html_shows_as_text(runs: RunFactory, ana: PageClient) -> None:
    evil = "<b onclick=alert(1)>"
    run = runs.blocked(workflow=evil, message=evil)
    page = ana.get("/gates/approvals", query_string={"cause": evil})
    done = ana.post("/gates/approvals", data={"item": [f"{run.run_id}@1:1", f"{evil}@1:1"], "note": evil})
    for text in (page.text, done.text):
        assert evil not in text
        assert "&lt;b onclick=" in text
