"""Deciding: every form works, says what is wrong, and tells the later of two who was first."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from html import unescape
from typing import Any

import pytest
from werkzeug.test import TestResponse

from resume_engine.core.audit import EventType
from resume_engine.core.decisions import DecisionKind
from resume_engine.core.run import Run, RunStatus
from tests.factories import RunFactory, failing, passing, steps
from tests.provision.app_fixtures import PageClient
from tests.webapp.helpers import events
from webapp.pages.decision_forms import FORM_OF_KIND

SignIn = Callable[[str], PageClient]
EVERY_KIND = [kind.value for kind in DecisionKind]
DECISIONS = (
    EventType.GATE_APPROVED,
    EventType.GATE_COMPENSATED,
    EventType.GATE_PROD_RESUME_ACK,
    EventType.GATE_REJECTED,
)


def waiting_for(runs: RunFactory, kind: str) -> Run:
    """Return a run whose gate wants a decision of this kind, and no other."""
    if kind == "compensation":
        return runs.blocked("partial", fail_at=1)
    if kind == "prod_resume_ack":
        return runs.blocked("transient", environment="prod", fail_at=1)
    return runs.blocked("permanent", fail_at=1)


def good_input(kind: str, run: Run) -> dict[str, str]:
    """Return what a person would send."""
    special = {
        "compensation": {"result": '{"refund_id": "r-1"}'},
        "prod_resume_ack": {"typed_name": run.workflow_name},
        "reject": {"note": "Sent twice"},
    }
    return {"failure_key": "1:1", "note": "Looked at it", "next": "/gates?kind=x"} | special.get(kind, {})


def decide(client: PageClient, run: Run, kind: str, *, htmx: bool = False, **data: Any) -> TestResponse:
    """Send the form of a decision, good unless `data` says otherwise."""
    address = f"/runs/{run.run_id}/decisions/{kind}"
    options = {key: data.pop(key) for key in ("token",) if key in data}
    return client.post(address, data=good_input(kind, run) | data, htmx=htmx, **options)


def nothing_changed(runs: RunFactory, run: Run) -> bool:
    """Return whether the run stands where it stood, without any decision."""
    same = runs.store.load_summary(run.run_id)
    assert same is not None
    return same.updated_at == run.updated_at and not runs.store.list_decisions(run.run_id)


def test_there_is_a_form_for_every_decision() -> None:
    assert set(FORM_OF_KIND) == set(DecisionKind)


# Works


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_decision_is_recorded_and_leads_back(runs: RunFactory, ana: PageClient, kind: str) -> None:
    run = waiting_for(runs, kind)
    answer = decide(ana, run, kind)
    assert answer.status_code == 303
    assert answer.location == "/gates?kind=x"
    (decision,) = runs.store.list_decisions(run.run_id)
    assert (decision.kind.value, decision.actor, decision.failure_key) == (kind, "ana@example.org", "1:1")
    assert (decision.role, decision.channel) == ("operator", "dashboard")
    assert runs.reload(run).status is (RunStatus.CANCELLED if kind == "reject" else RunStatus.PAUSED)
    (event,) = events(runs.store, *DECISIONS)
    assert (event.actor, event.run_id) == ("ana@example.org", run.run_id)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_in_place_the_answer_is_the_receipt(runs: RunFactory, ana: PageClient, kind: str) -> None:
    answer = decide(ana, waiting_for(runs, kind), kind, htmx=True)
    assert answer.status_code == 200
    assert answer.headers["HX-Trigger"] == "gates-changed"
    assert answer.text.lstrip().startswith('<section id="decision"')
    assert "<strong>you</strong>" in answer.text
    expected = "The run is cancelled." if kind == "reject" else "Waiting for a runner"
    assert expected in answer.text


@pytest.mark.parametrize(
    "run_id", ["team/a/1", "a//b", "trail/", "a.b/..c", "x?y#z %/é", "decisions/reject", "a/steps/1/a"]
)
def test_ids_with_slashes_are_decided_by_the_forms_of_their_pages(
    runs: RunFactory, ana: PageClient, run_id: str
) -> None:
    run = runs.blocked("permanent", run_id=run_id, fail_at=1)
    page = ana.get("/gates", query_string={"run": run_id}).text
    action = re.search(r'action="(/runs/[^"]+/decisions/human_approval)"', page)
    refresh = re.search(r'hx-get="(/gates/[^"]+/decision\?[^"]+)"', page)
    assert action is not None and refresh is not None
    assert ana.post(unescape(action[1]), data=good_input("human_approval", run)).status_code == 303
    assert len(runs.store.list_decisions(run_id)) == 1
    assert "approved" in ana.get(unescape(refresh[1]), htmx=True).text.lower()


def test_note_and_result_are_kept(runs: RunFactory, ana: PageClient) -> None:
    run = waiting_for(runs, "compensation")
    decide(ana, run, "compensation", note=" refunded by hand ", result='{"refund_id": "r-1", "cents": 120}')
    (decision,) = runs.store.list_decisions(run.run_id)
    assert decision.note == "refunded by hand"
    assert decision.result == {"refund_id": "r-1", "cents": 120}


def test_two_gates_are_worked_one_after_the_other(runs: RunFactory, ana: PageClient) -> None:
    run = runs.blocked("permanent", environment="prod", fail_at=1)
    page = ana.get(f"/gates?run={run.run_id}").text
    assert "decision 1 of 2" in page
    assert page.count('class="button primary"') == 1
    first = decide(ana, run, "human_approval", htmx=True)
    assert "decision 2 of 2" in first.text
    assert "Acknowledge prod resume" in first.text
    assert ">Approve</button>" not in first.text
    second = decide(ana, run, "prod_resume_ack", htmx=True)
    assert "Waiting for a runner" in second.text
    assert "<form" not in second.text


def test_the_form_leads_to_no_other_site(runs: RunFactory, ana: PageClient) -> None:
    for place in ("//evil.example/x", "https://evil.example", "javascript:alert(1)", "\\\\evil", "/nowhere"):
        run = waiting_for(runs, "human_approval")
        answer = decide(ana, run, "human_approval", next=place)
        assert answer.location == f"/gates?run={run.run_id}&failure=1%3A1"


# Wrong method, wrong role, no token


@pytest.mark.parametrize("method", ["get", "put", "patch", "delete"])
def test_only_post_decides(runs: RunFactory, ana: PageClient, method: str) -> None:
    run = waiting_for(runs, "human_approval")
    answer = getattr(ana, method)(f"/runs/{run.run_id}/decisions/human_approval", data={"failure_key": "1:1"})
    assert answer.status_code in (404, 405)
    assert nothing_changed(runs, run)


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("htmx", [False, True])
def test_an_auditor_is_refused(runs: RunFactory, sign_in: SignIn, kind: str, htmx: bool) -> None:
    run = waiting_for(runs, kind)
    answer = decide(sign_in("alice"), run, kind, htmx=htmx)
    assert answer.status_code == 403
    assert nothing_changed(runs, run)
    (refusal,) = events(runs.store, EventType.ACCESS_DENIED)
    assert refusal.actor == "alice@example.org"
    assert refusal.payload["needs"] == "gates:decide"


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_strangers_are_sent_to_the_door(runs: RunFactory, client: PageClient, kind: str) -> None:
    run = waiting_for(runs, kind)
    answer = decide(client, run, kind)
    assert answer.status_code == 303
    assert "/login" in answer.location
    assert nothing_changed(runs, run)


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("token", [False, "wrong"])
def test_without_the_form_token_nothing_happens(
    runs: RunFactory, ana: PageClient, kind: str, token: bool | str
) -> None:
    run = waiting_for(runs, kind)
    assert decide(ana, run, kind, token=token).status_code == 403
    assert nothing_changed(runs, run)


# Invalid input


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ("{nope", "at line 1, column 2"),
        ('{"a": 1,\n "b" 2}', "at line 2, column 6"),
        ("[1, 2]", "not a list"),
        ("null", "not null"),
        ("12", "not a number"),
        ('{"a": 1, "a": 2}', "stands twice"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": 1e999}', "too large"),
        ('{"a": "\\ud800"}', "cannot be stored"),
        ('{"a": "\\u0000"}', "cannot be stored"),
        ("[" * 100_000, "64 levels"),
        ('{"a":' * 5_000 + "1" + "}" * 5_000, "64 levels"),
        ('{"a": ' + "9" * 5_000 + "}", "more than 1000 digits"),
        ('{"a": "' + "x" * 70_000 + '"}', "64,000 characters"),
    ],
)
def test_a_result_that_is_no_json_object_comes_back_with_the_place_of_the_mistake(
    runs: RunFactory, ana: PageClient, result: str, words: str
) -> None:
    run = waiting_for(runs, "compensation")
    answer = decide(ana, run, "compensation", htmx=True, result=result, note="kept")
    assert answer.status_code == 422
    assert words in answer.text
    assert ">kept</textarea>" in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert nothing_changed(runs, run)


@pytest.mark.parametrize("typed", ["", "claims", "Claims_intake", "claims_intake_2"])
def test_prod_wants_the_name_of_the_workflow(runs: RunFactory, ana: PageClient, typed: str) -> None:
    run = waiting_for(runs, "prod_resume_ack")
    answer = decide(ana, run, "prod_resume_ack", typed_name=typed)
    assert answer.status_code == 422
    assert ("Expected claims_intake" if typed else "Type the name of the workflow") in answer.text
    assert nothing_changed(runs, run)


@pytest.mark.parametrize("note", ["", "   ", "x" * 2_001])
def test_a_rejection_wants_a_reason(runs: RunFactory, ana: PageClient, note: str) -> None:
    run = waiting_for(runs, "human_approval")
    answer = decide(ana, run, "reject", note=note, htmx=True)
    assert answer.status_code == 422
    assert re.search(r'<details class="reject" open', answer.text)
    assert nothing_changed(runs, run)


@pytest.mark.parametrize("key", ["", "x", "1", "1:", "-1:1", "1:1:1", "1:" + "9" * 30, "9" * 40])
def test_a_form_that_names_no_failure_is_refused(runs: RunFactory, ana: PageClient, key: str) -> None:
    run = waiting_for(runs, "human_approval")
    assert decide(ana, run, "human_approval", failure_key=key).status_code in (409, 422)
    assert nothing_changed(runs, run)


def test_an_unknown_run_or_kind_is_not_there(runs: RunFactory, ana: PageClient) -> None:
    run = waiting_for(runs, "human_approval")
    assert ana.post(f"/runs/{run.run_id}/decisions/everything", data={}).status_code == 404
    assert ana.post("/runs/nothing/decisions/reject", data={"note": "x"}).status_code == 404
    assert nothing_changed(runs, run)


def test_a_decision_that_is_not_asked_for_is_refused(runs: RunFactory, ana: PageClient) -> None:
    run = waiting_for(runs, "human_approval")
    answer = decide(ana, run, "compensation")
    assert answer.status_code == 409
    assert nothing_changed(runs, run)


# Repeated, raced, stale


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_pressing_twice_decides_once(runs: RunFactory, ana: PageClient, kind: str) -> None:
    run = waiting_for(runs, kind)
    assert decide(ana, run, kind).status_code == 303
    again = decide(ana, run, kind)
    assert again.status_code == 409
    assert "Nothing was changed." in again.text
    assert "You " in again.text
    assert len(runs.store.list_decisions(run.run_id)) == 1


@pytest.mark.parametrize("htmx", [False, True])
def test_the_later_operator_is_told_who_was_first(runs: RunFactory, sign_in: SignIn, htmx: bool) -> None:
    run = waiting_for(runs, "human_approval")
    decide(sign_in("oscar"), run, "human_approval")
    late = decide(sign_in("ana"), run, "human_approval", htmx=htmx)
    assert late.status_code == 409
    assert re.search(r"oscar@example\.org approved this .+ before you\. Nothing was changed\.", late.text)
    assert "<bdi>oscar@example.org</bdi>" in late.text  # the receipt beside it
    assert ("<html" in late.text) is not htmx


def test_of_two_at_once_one_wins_and_the_other_is_told(runs: RunFactory, sign_in: SignIn) -> None:
    for _ in range(5):
        run = waiting_for(runs, "human_approval")
        people = {name: sign_in(name) for name in ("ana", "oscar")}
        answers: dict[str, TestResponse] = {}
        start = threading.Barrier(2)

        def press(name: str, people=people, run=run, answers=answers, start=start) -> None:  # type: ignore[no-untyped-def]
            start.wait()
            answers[name] = decide(people[name], run, "human_approval", htmx=True)

        threads = [threading.Thread(target=press, args=(name,)) for name in people]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(a.status_code for a in answers.values()) == [200, 409]
        winner = next(name for name, answer in answers.items() if answer.status_code == 200)
        loser = answers["oscar" if winner == "ana" else "ana"]
        assert f"{winner}@example.org approved this" in loser.text
        (decision,) = runs.store.list_decisions(run.run_id)
        assert decision.actor == f"{winner}@example.org"


def test_a_page_of_an_older_failure_changes_nothing(runs: RunFactory, ana: PageClient) -> None:
    run = waiting_for(runs, "human_approval")
    runs.engine.grant_human_approval(run.run_id, "someone")
    with pytest.raises(Exception, match="again"):
        runs.engine.resume(run.run_id, steps(3, fail_at=1, error=ValueError("again")))
    answer = decide(ana, run, "reject", htmx=True)
    assert answer.status_code == 409
    assert "it failed anew, at step 1" in answer.text
    assert f'href="/gates?run={run.run_id}"' in answer.text
    assert runs.reload(run).status is RunStatus.FAILED


def test_a_finished_run_is_not_decided(runs: RunFactory, ana: PageClient) -> None:
    run = waiting_for(runs, "human_approval")
    runs.engine.grant_human_approval(run.run_id, "someone")
    runs.engine.resume(run.run_id, steps(3))
    answer = decide(ana, run, "reject", htmx=True)
    assert answer.status_code == 409
    assert "no longer open" in answer.text
    assert runs.reload(run).status is RunStatus.COMPLETED


# The story afterwards


def story(client: PageClient, run: Run, **words: str) -> TestResponse:
    return client.get(f"/gates/{run.run_id}/decision", query_string={"failure": "1:1"} | words, htmx=True)


def test_the_page_follows_a_run_to_its_end(runs: RunFactory, ana: PageClient) -> None:
    run = waiting_for(runs, "human_approval")
    decide(ana, run, "human_approval")
    waits = story(ana, run)
    assert waits.status_code == 200
    assert "Waiting for a runner" in waits.text
    assert 'hx-trigger="every 1s"' in waits.text
    runs.engine.resume(run.run_id, steps(3))
    done = story(ana, run)
    assert done.status_code == 286  # htmx stops asking
    for words in ("Resumed by worker-2", "Step 1 passed", "The run is completed"):
        assert words in done.text
    assert "hx-trigger" not in done.text


def test_the_page_says_that_it_failed_again_and_leads_there(runs: RunFactory, ana: PageClient) -> None:
    run = waiting_for(runs, "human_approval")
    decide(ana, run, "human_approval")
    with pytest.raises(ValueError, match="still wrong"):
        runs.engine.resume(run.run_id, steps(3, fail_at=1, error=ValueError("still wrong")))
    answer = story(ana, run)
    assert answer.status_code == 286
    assert "Step 1 failed again: still wrong" in answer.text
    assert "It waits for a person again." in answer.text
    assert f'href="/gates?run={run.run_id}"' in answer.text


def test_a_later_step_that_fails_is_told_too(runs: RunFactory, ana: PageClient) -> None:
    run = waiting_for(runs, "human_approval")
    decide(ana, run, "human_approval")
    with pytest.raises(ValueError, match="other"):
        runs.engine.resume(run.run_id, steps(3, fail_at=2, error=ValueError("other")))
    answer = story(ana, run)
    assert "Step 1 passed" in answer.text
    assert "Step 2 step_2 failed: other" in answer.text


def test_nothing_is_sent_while_nothing_changes(
    runs: RunFactory, ana: PageClient, statements: list[str]
) -> None:
    run = waiting_for(runs, "human_approval")
    text = story(ana, run).text
    version = re.search(r"&amp;v=([^\"]+)", text)
    assert version is not None
    statements.clear()
    answer = story(ana, run, v=version.group(1))
    assert (answer.status_code, answer.text) == (204, "")
    assert len(statements) == 2  # the session and the run's row
    runs.engine.grant_human_approval(run.run_id, "someone")
    assert story(ana, run, v=version.group(1)).status_code == 200


# What people typed shows as text


def test_html_in_everything_shows_as_text(runs: RunFactory, ana: PageClient) -> None:
    evil = "<img src=x onerror=alert(1)>"
    run = runs.engine.start_run(f"flow{evil}")
    with pytest.raises(ValueError, match="onerror"):
        runs.engine.execute_workflow(
            run.run_id,
            [(f"a{evil}", passing({"o": evil})), (f"b{evil}", failing(ValueError(evil)))],
            initial_input={"i": evil},
        )
    run = runs.reload(run)
    pages = [ana.get("/"), ana.get("/gates"), ana.get(f"/gates?cause={evil}&workflow=flow{evil}")]
    pages.append(decide(ana, run, "human_approval", htmx=True, note=evil))
    pages.append(decide(ana, run, "human_approval", htmx=True, note=evil))
    pages += [ana.get("/gates/decided"), ana.get("/"), ana.get("/audit")]
    for page in pages:
        assert evil not in page.text
        assert "&lt;img src=x" in page.text


def test_a_run_id_of_any_shape_can_be_decided(runs: RunFactory, ana: PageClient) -> None:
    run = runs.blocked("permanent", fail_at=1, run_id="batch/2026 #7?x=%2F")
    page = ana.get("/gates").text
    action = re.search(r'<form class="gate-form" method="post" action="([^"]+)"', page)
    assert action is not None
    answer = ana.post(action.group(1), data=good_input("human_approval", run))
    assert answer.status_code == 303
    assert runs.reload(run).status is RunStatus.PAUSED
