"""Pages under a policy: what is missing, who may not decide and why, and that no way around it is open."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.audit import EventType
from resume_engine.core.errors import PolicyFileError, ResumeBlockedError
from resume_engine.core.permissions import Role
from resume_engine.core.run import Run, RunStatus
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory, ago, at, steps
from tests.provision.app_fixtures import PageClient, with_policy
from tests.webapp.helpers import events
from webapp import Settings, create_app
from webapp.settings import SettingsError

SignIn = Callable[[str], PageClient]
OSCAR = Actor(name="oscar@example.org", role=Role.OPERATOR, channel=Channel.DASHBOARD)
POLICY = """
[[rule]]
name = "prod takes two"
environments = ["prod"]
approvers = 2
not_starter = true
expires_after = "8h"

[[rule]]
name = "staging needs a note"
environments = ["staging"]
note_required = true
expires_after = "1h"

[[rule]]
name = "only admins reject"
decisions = ["reject"]
environments = ["prod"]
roles = ["admin"]
"""


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return with_policy(settings, tmp_path, POLICY)


@pytest.fixture
def oscar(sign_in: SignIn) -> PageClient:
    return sign_in("oscar")


def words(page: str) -> str:
    """Return what can be read on a page, on one line."""
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)))


def item(client: PageClient, run: Run) -> str:
    return words(client.get(f"/gates?run={run.run_id}").text)


def send(client: PageClient, run: Run, kind: str = "human_approval", **fields: str) -> tuple[int, str]:
    answer = client.post(
        f"/runs/{run.run_id}/decisions/{kind}", data={"failure_key": "1:1"} | fields, htmx=True
    )
    return answer.status_code, words(answer.text)


def test_two_people_approve_one_after_the_other(runs: RunFactory, ana: PageClient, oscar: PageClient) -> None:
    run = runs.blocked(environment="prod", fail_at=1)
    assert "0 of 2 approvals" in item(ana, run)
    status, told = send(ana, run)
    assert status == 200
    assert "1 of 2 approvals, by ana@example.org . Another person is needed" in told
    assert "You have decided already." in told
    assert "What is given so far counts until" in told and "more people were needed" in told
    assert "Approve " not in told.replace("Approved", "")

    for page in ("/", f"/gates?run={run.run_id}", f"/runs/{run.run_id}"):
        hers, his = ana.get(page).text, oscar.get(page).text
        assert "1 of 2 approvals, by ana@example.org" in words(hers), page
        assert "1 of 2 approvals, by ana@example.org" in words(his), page
        assert "decisions/human_approval" not in hers, f"{page}: her button is gone"
        assert "decisions/human_approval" in his, page
    assert words(oscar.get("/gates/queue").text).count("1 of 2 approvals, by ana@example.org") == 1

    status, told = send(ana, run)
    assert (status, "1 of 2 people have decided: another person is needed" in told) == (409, True)
    status, told = send(oscar, run)
    assert status == 200 and "0 of 2 acknowledgements" in told, "the next gate has people of its own"
    assert "decision 2 of 2" in told


def test_the_starter_sees_why_and_gets_no_button(
    runs: RunFactory, ana: PageClient, page_store: SqlCheckpointStore
) -> None:
    starter = Actor(name="ana@example.org", role=Role.OPERATOR, channel=Channel.DASHBOARD)
    run = runs.blocked(environment="prod", fail_at=1, actor=starter)
    page = ana.get(f"/gates?run={run.run_id}").text
    assert "Whoever started the run may not decide, and ana@example.org did." in words(page)
    assert "prod takes two" in words(page)
    assert "decisions/human_approval" not in page and "decisions/reject" not in page
    assert "You cannot reject this run. The role operator is not enough, it takes admin." in words(page)
    for kind in ("human_approval", "reject"):
        status, told = send(ana, run, kind, note="let me")
        assert status == 403 and "Nothing was changed" in told
    assert [e.payload["reason"] for e in events(page_store, EventType.GATE_REFUSED)] == [
        "PolicyRefusalError",
        "PolicyRefusalError",
    ]
    plain = ana.post(f"/runs/{run.run_id}/decisions/human_approval", data={"failure_key": "1:1"})
    assert plain.status_code == 403 and "and ana@example.org did" in words(plain.text)
    assert page_store.list_decisions(run.run_id) == []


def test_an_admin_may_reject(runs: RunFactory, sign_in: SignIn) -> None:
    run = runs.blocked(environment="prod", fail_at=1)
    otto = sign_in("otto")
    assert "Reject this run" in item(otto, run)
    assert send(otto, run, "reject", note="Sent twice")[0] == 200
    assert runs.reload(run).status is RunStatus.CANCELLED


def test_a_note_that_is_required_is_asked_for(runs: RunFactory, ana: PageClient) -> None:
    run = runs.blocked(environment="staging", fail_at=1)
    page = ana.get(f"/gates?run={run.run_id}").text
    field = re.search(r"<textarea[^>]*id=\"human_approval-note\"[^>]*>", page)
    assert field is not None and " required" in field.group()
    status, told = send(ana, run, note="  ")
    assert status == 422 and "the policy asks for a note here (rule 'staging needs a note')" in told
    status, told = send(ana, run, note="Key rotated")
    assert status == 200 and "What was decided counts until" in told


def test_without_a_rule_nothing_is_different(runs: RunFactory, ana: PageClient) -> None:
    run = runs.blocked(environment="dev", fail_at=1)
    page = ana.get(f"/gates?run={run.run_id}").text
    assert " of 2 " not in words(page) and "Policy:" not in page
    field = re.search(r"<textarea[^>]*id=\"human_approval-note\"[^>]*>", page)
    assert field is not None and " required" not in field.group()
    assert send(ana, run)[0] == 200


def test_a_decision_that_is_over_is_asked_for_again(
    runs: RunFactory, ana: PageClient, oscar: PageClient
) -> None:
    with at(ago(hours=2)):
        run = runs.blocked(environment="staging", fail_at=1)
        send(ana, run, note="Key rotated")
    told = item(oscar, run)
    assert "before anybody resumed the run. It is needed again." in told and "counts no more" in told
    assert "Approve" in told and "blocked" in told
    with pytest.raises(ResumeBlockedError):
        runs.engine.resume(run.run_id, steps(3))
    assert "found a decision over: the gate is closed again" in words(
        ana.get(f"/audit?run={run.run_id}").text
    )
    assert "It is needed again." in item(oscar, run)
    assert send(oscar, run, note="Looked again")[0] == 200
    assert runs.engine.resume(run.run_id, steps(3)).status is RunStatus.COMPLETED


def test_an_auditor_sees_what_is_missing(runs: RunFactory, sign_in: SignIn, ana: PageClient) -> None:
    run = runs.blocked(environment="prod", fail_at=1)
    send(ana, run)
    told = item(sign_in("alice"), run)
    assert "Waits for an operator" in told and "1 of 2 approvals, by ana@example.org" in told


def test_approving_several_together_obeys(runs: RunFactory, ana: PageClient, oscar: PageClient) -> None:
    starter = Actor(name="ana@example.org", role=Role.OPERATOR, channel=Channel.DASHBOARD)
    hers = runs.blocked(environment="prod", fail_at=1, actor=starter)
    other = runs.blocked(environment="prod", fail_at=1)
    address = "/gates/approvals?cause=Invalid+API+key"
    page = ana.get(address).text
    assert f'value="{other.run_id}@1:1"' in page and f'value="{hers.run_id}@1:1"' not in page
    assert "Whoever started the run may not decide" in words(page)
    both = {"item": [f"{run.run_id}@1:1" for run in (hers, other)]}
    told = words(ana.post(address, data=both).text)
    assert "1 run approved, 1 not" in told
    assert "1 of 2 approvals, by ana@example.org. The gate stays closed" in told
    assert runs.reload(other).status is RunStatus.FAILED
    assert words(ana.get(address).text).count("You have decided already. Another person is needed.") == 1
    told = words(oscar.post(address, data=both).text)
    assert "2 runs approved" in told and told.count("The gate stays closed") == 1


def test_several_together_say_that_a_note_is_needed(runs: RunFactory, ana: PageClient) -> None:
    run = runs.blocked(environment="staging", fail_at=1)
    address = "/gates/approvals?cause=Invalid+API+key"
    field = re.search(r"<textarea[^>]*id=\"bulk-note\"[^>]*>", ana.get(address).text)
    assert field is not None and " required" in field.group()
    answer = ana.post(address, data={"item": f"{run.run_id}@1:1"})
    assert answer.status_code == 409 and "the policy asks for a note" in words(answer.text)


def test_a_bad_policy_stops_the_start(settings: Settings, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("[[rule]]\nname = 'x'\nroles = ['root']", encoding="utf-8")
    with pytest.raises(SettingsError, match="RESUME_ENGINE_POLICY cannot be used. The policy .*bad.toml"):
        Settings.from_environment({"RESUME_ENGINE_POLICY": str(bad)})
    with pytest.raises(PolicyFileError, match="rule 'x': 'roles' holds 'root'"):
        create_app(replace(settings, policy_file=str(bad)))
