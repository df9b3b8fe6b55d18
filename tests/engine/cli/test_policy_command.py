"""`resume-engine policy`, and what the other commands say under a policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from resume_engine.cli import main
from resume_engine.core.actor import Actor
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.failure_classifier import PermanentStepError
from resume_engine.core.permissions import Role
from resume_engine.storage.open_store import open_store

POLICY = """
[[rule]]
name = "prod takes two"
environments = ["prod"]
approvers = 2
not_starter = true
expires_after = "8h"

[[test]]
name = "nobody approves what they started"
decision = "human_approval"
environment = "prod"
actor = "ana"
started_by = "ana"
expect = "refused"

[[test]]
decision = "human_approval"
environment = "prod"
rule = "prod takes two"
approvers = 2
expect = "allowed"
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY, encoding="utf-8")
    monkeypatch.setenv("RESUME_ENGINE_POLICY", str(path))
    return path


def fails(_: dict[str, object], __: str) -> dict[str, object]:
    raise PermanentStepError("quota used up")


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run in prod that Ana started and that waits for two approvals."""
    address = f"sqlite:///{tmp_path}/runs.db"
    monkeypatch.setenv("DATABASE_URL", address)
    with open_store(address) as store:
        engine = ResumeEngine(store)
        ana = Actor(name="ana", role=Role.OPERATOR)
        engine.start_run("billing", run_id="run-1", environment="prod", actor=ana)
        with pytest.raises(PermanentStepError):
            engine.execute_workflow("run-1", [("charge", fails)], initial_input={})
    return address


def test_without_a_policy_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESUME_ENGINE_POLICY", raising=False)
    shown = run("policy", "show")
    assert shown.exit_code == 0 and "operators and admins decide, each alone" in shown.output
    asked = run("policy", "test", "--kind", "human_approval", "--actor", "ana")
    assert asked.exit_code == 0 and "(no rule fits)" in asked.output and "may decide" in asked.output
    assert run("policy", "test", "--kind", "reject", "--role", "runner").exit_code == 1


def test_it_lists_the_rules(policy: Path) -> None:
    output = run("policy", "show").output
    assert "prod takes two" in output
    assert "2 people, each operator or admin, nobody who started the run, resumed within 8h" in output
    assert "human_approval" in output and "reject" not in output


def test_the_tests_of_the_file_are_run(policy: Path) -> None:
    done = run("policy", "test")
    assert done.exit_code == 0, done.output
    assert "ok     nobody approves what they started" in done.output and "2 of 2 tests hold" in done.output
    policy.write_text(POLICY.replace("not_starter = true", "not_starter = false"), encoding="utf-8")
    done = run("policy", "test", "--policy", str(policy))
    assert done.exit_code == 1
    assert "FAILED nobody approves what they started: expected to be refused, but may decide" in done.output
    assert "1 of 2 tests hold" in done.output


def test_a_policy_that_cannot_be_used_is_neither_yes_nor_no(policy: Path, database: str) -> None:
    policy.write_text("[[rule]]\nname = 'x'\nrole = 'admin'", encoding="utf-8")
    for command in (("policy", "test"), ("policy", "show")):
        done = run(*command)
        assert done.exit_code == 2 and "rule 'x': 'role' is unknown" in done.output
    for command in (("gates", "list"), ("gates", "approve", "run-1", "--as", "bob")):
        done = run(*command)
        assert done.exit_code == 1 and "cannot be used" in done.output, done.output


def test_it_says_who_may_decide_in_general(policy: Path) -> None:
    asked = ("policy", "test", "--kind", "human_approval", "--actor", "ana")
    done = run(*asked, "--started-by", "ana")
    assert done.exit_code == 1
    assert (
        "ana (operator) may not decide: whoever started the run may not decide, and ana did." in done.output
    )
    assert run(*asked).exit_code == 0
    assert run(*asked, "--started-by", "ana", "--environment", "dev").exit_code == 0


def test_it_says_who_may_decide_about_a_run(policy: Path, database: str) -> None:
    asked = ("policy", "test", "--run", "run-1", "--kind", "human_approval", "--actor")
    done = run(*asked, "ana")
    assert done.exit_code == 1 and "0 of 2 approvals" in done.output and "ana did" in done.output
    assert run("gates", "approve", "run-1", "--as", "bob").exit_code == 0
    done = run(*asked, "bob")
    assert done.exit_code == 1 and "1 of 2 approvals, by bob" in done.output
    assert "bob (operator) may not decide: has decided already, another person is needed." in done.output
    assert "What is given counts until 20" in done.output
    done = run(*asked, "cem")
    assert done.exit_code == 0 and "cem (operator) may decide." in done.output


def test_what_cannot_be_asked_is_neither_yes_nor_no(policy: Path, database: str, tmp_path: Path) -> None:
    with open_store(database) as store:
        ResumeEngine(store).start_run("billing", run_id="waits for nobody")
    asked = {
        "Run not found: none": ("--run", "none"),
        "does not wait for a decision": ("--run", "waits for nobody"),
        "does not wait for compensation": ("--run", "run-1", "--kind", "compensation"),
        "There is no database at": ("--run", "run-1", "--database", f"sqlite:///{tmp_path}/nowhere.db"),
        "not a database": ("--run", "run-1", "--database", f"sqlite:///{policy}"),
        "Invalid value for '--kind'": ("--run", "run-1", "--kind", "nonsense"),
    }
    for reason, words in asked.items():
        done = run("policy", "test", *words)
        assert done.exit_code == 2 and reason in done.stderr and done.stdout == "", done.output


def test_the_gate_commands_obey_and_say_what_is_missing(policy: Path, database: str) -> None:
    refused = run("gates", "approve", "run-1", "--as", "ana")
    assert refused.exit_code == 1
    assert (
        "whoever started the run may not decide, and ana did (policy rule 'prod takes two')" in refused.output
    )
    first = run("gates", "approve", "run-1", "--as", "bob")
    assert "That is 1 of 2 approvals, by bob. Another person is needed." in first.output
    listed = run("gates", "list")
    assert "human_approval (1 of 2 approvals, by bob) + prod_resume_ack (0 of 2 ackn" in listed.output
    [line] = run("gates", "list", "--json").output.splitlines()
    assert [
        (b["required_action"], b["approvals_given"], b["approvals_needed"])
        for b in json.loads(line)["resume_blockers"]
    ] == [("human_approval", 1, 2), ("prod_resume_ack", 0, 2)]
    again = run("gates", "approve", "run-1", "--as", "bob")
    assert again.exit_code == 1 and "another person is needed" in again.output
    second = run("gates", "approve", "run-1", "--as", "cem")
    assert second.exit_code == 0 and "It counts until 20" in second.output
    shown = run("runs", "show", "run-1").output
    assert "human_approval by bob (cli)" in shown and "(more people were needed)" in shown
    for name in ("bob", "cem"):
        assert run("gates", "ack", "run-1", "--as", name).exit_code == 0
    assert "Cleared   until 20" in run("runs", "show", "run-1").output
