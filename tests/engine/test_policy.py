"""Which rule counts, what it asks for, and every way in which a policy file can be wrong."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.decision import DecisionKind
from resume_engine.core.errors import PolicyFileError
from resume_engine.core.permissions import Role
from resume_engine.core.policy import DECIDING_ROLES, NO_POLICY, Origin, Requirement, objection
from resume_engine.core.policy_file import parse_policy, policy_from_environment, read_policy
from resume_engine.core.run import Environment

APPROVAL, REJECT = DecisionKind.HUMAN_APPROVAL, DecisionKind.REJECT
COMPENSATION, ACK = DecisionKind.COMPENSATION, DecisionKind.PROD_RESUME_ACK
DEV, STAGING, PROD = Environment.DEV, Environment.STAGING, Environment.PROD

POLICY = """
[[rule]]
name = "payouts"
workflows = ["payout-*", "refund?"]
environments = ["prod"]
decisions = ["human_approval", "prod_resume_ack"]
roles = ["admin"]
approvers = 3
not_starter = true
not_input_editor = true
note_required = true
expires_after = "90m"
api_keys = false

[[rule]]
name = "prod"
environments = ["prod"]
approvers = 2

[[rule]]
name = "rejections in prod"
decisions = ["reject"]
environments = ["prod", "staging"]
roles = ["admin"]
"""

WHICH = [
    (APPROVAL, PROD, "payout-eu", "payouts"),
    (ACK, PROD, "refund1", "payouts"),
    (ACK, PROD, "refund12", "prod"),
    (ACK, PROD, "Payout-eu", "prod"),  # names are told apart by case
    (COMPENSATION, PROD, "payout-eu", "prod"),
    (APPROVAL, STAGING, "payout-eu", None),
    (APPROVAL, DEV, "billing", None),
    (REJECT, PROD, "payout-eu", "rejections in prod"),
    (REJECT, STAGING, "billing", "rejections in prod"),
    (REJECT, DEV, "billing", None),
]


@pytest.mark.parametrize(("kind", "environment", "workflow", "rule"), WHICH)
def test_the_first_rule_that_fits_counts(
    kind: DecisionKind, environment: Environment, workflow: str, rule: str | None
) -> None:
    needed = parse_policy(POLICY, "p.toml").requirement(kind, environment, workflow)
    assert needed.rule == rule
    if rule is None:
        assert needed == Requirement()


def test_a_rule_says_everything() -> None:
    assert parse_policy(POLICY, "p.toml").requirement(APPROVAL, PROD, "payout-eu") == Requirement(
        rule="payouts",
        roles=frozenset({Role.ADMIN}),
        approvers=3,
        not_starter=True,
        not_input_editor=True,
        note_required=True,
        expires_after=timedelta(minutes=90),
        api_keys=False,
    )


def test_without_a_policy_operators_and_admins_decide_alone() -> None:
    for kind in DecisionKind:
        needed = NO_POLICY.requirement(kind, PROD, "billing")
        assert needed == Requirement() and needed.roles == DECIDING_ROLES == {Role.OPERATOR, Role.ADMIN}
        assert needed.approvers == 1 and needed.api_keys and needed.expires_after is None


WRONG = [
    ("", "no \\[\\[rule\\]\\]"),
    ("rule = 1", "'rule' must be tables"),
    ("[rule]\nname = 'x'", "'rule' must be tables"),
    ("nonsense", "not TOML"),
    ("[[rules]]\nname = 'x'", "'rules' is unknown; known are rule, test"),
    ("[[rule]]\nroles = ['admin']", "rule 1: 'name' is missing"),
    ("[[rule]]\nname = ' '", "rule ' ': 'name' must be text"),
    ("[[rule]]\nname = 3", "rule 1: 'name' must be text"),
    ("[[rule]]\nname = 'x'\nrole = ['admin']", "rule 'x': 'role' is unknown"),
    ("[[rule]]\nname = 'x'\nroles = ['root']", "rule 'x': 'roles' holds 'root', which is unknown"),
    ("[[rule]]\nname = 'x'\nroles = ['runner']", "'runner', a role that never decides"),
    ("[[rule]]\nname = 'x'\nroles = ['auditor', 'admin']", "'auditor', a role that never decides"),
    ("[[rule]]\nname = 'x'\nroles = []", "'roles' must be a list of words"),
    ("[[rule]]\nname = 'x'\nroles = 'admin'", "'roles' must be a list of words"),
    ("[[rule]]\nname = 'x'\ndecisions = ['approve']", "'decisions' holds 'approve', which is unknown"),
    ("[[rule]]\nname = 'x'\nenvironments = ['production']", "'environments' holds 'production'"),
    ("[[rule]]\nname = 'x'\nworkflows = [1]", "'workflows' must be a list of words"),
    ("[[rule]]\nname = 'x'\napprovers = 0", "'approvers' must be a whole number from 1 to 20"),
    ("[[rule]]\nname = 'x'\napprovers = 21", "'approvers' must be a whole number"),
    ("[[rule]]\nname = 'x'\napprovers = true", "'approvers' must be a whole number"),
    ("[[rule]]\nname = 'x'\napprovers = '2'", "'approvers' must be a whole number"),
    ("[[rule]]\nname = 'x'\nnot_starter = 1", "'not_starter' must be true or false"),
    ("[[rule]]\nname = 'x'\napi_keys = 'no'", "'api_keys' must be true or false"),
    ("[[rule]]\nname = 'x'\nexpires_after = 8", "'expires_after' must be a time such as"),
    ("[[rule]]\nname = 'x'\nexpires_after = '8 h'", "'expires_after' must be a time such as"),
    ("[[rule]]\nname = 'x'\nexpires_after = '0h'", "'expires_after' must be a time such as"),
    ("[[rule]]\nname = 'x'\nexpires_after = '1w'", "'expires_after' must be a time such as"),
    ("[[rule]]\nname = 'x'\ndecisions = ['reject', 'compensation']\napprovers = 2", "a rule of its own"),
    ("[[rule]]\nname = 'x'\ndecisions = ['reject']\nexpires_after = '1h'", "a rule of its own"),
    ("[[rule]]\nname = 'x'\n[[rule]]\nname = 'x'\ndecisions = ['reject']", "another rule has this 'name'"),
    ("[[rule]]\nname = 'x'\n[[rule]]\nname = 'y'\nenvironments = ['prod']", "rule 'y': it never counts"),
    (
        "[[rule]]\nname = 'x'\nworkflows = ['a', 'b']\n[[rule]]\nname = 'y'\nworkflows = ['b']",
        "rule 'y': it never counts, rule 'x'",
    ),
    (
        "[[rule]]\nname = 'x'\n[[test]]\nexpect = 'yes'\ndecision = 'reject'\nenvironment = 'prod'",
        "test 1: 'expect' is 'yes'",
    ),
    ("[[rule]]\nname = 'x'\n[[test]]\nexpect = 'allowed'\nenvironment = 'prod'", "test 1: 'decision' holds"),
    (
        "[[rule]]\nname = 'x'\n[[test]]\nname = 't'\nexpect = 'allowed'\ndecision = 'reject'\n"
        "environment = 'prod'\nchannel = 'phone'",
        "test 't': 'channel' holds 'phone'",
    ),
]


@pytest.mark.parametrize(("text", "problem"), WRONG)
def test_what_is_wrong_is_named(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PolicyFileError, match=problem) as caught:
        read_policy(path)
    assert str(caught.value).startswith(f"The policy {path} cannot be used: ")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match="missing.toml cannot be used: No such file"):
        read_policy(tmp_path / "missing.toml")
    with pytest.raises(PolicyFileError, match="Is a directory"):
        read_policy(tmp_path)
    (tmp_path / "latin").write_bytes(b'[[rule]]\nname = "\xe9"')
    with pytest.raises(PolicyFileError, match="not UTF-8"):
        read_policy(tmp_path / "latin")
    (tmp_path / "deep").write_text("a = " + "[" * 100_000)
    with pytest.raises(PolicyFileError, match="not TOML"):
        read_policy(tmp_path / "deep")
    (tmp_path / "huge").write_text("#" * 1_000_001)
    with pytest.raises(PolicyFileError, match="at most 1000000 are read"):
        read_policy(tmp_path / "huge")


def test_the_environment_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY, encoding="utf-8")
    assert len(policy_from_environment({"RESUME_ENGINE_POLICY": str(path)}).rules) == 3
    assert policy_from_environment({"RESUME_ENGINE_POLICY": " "}) is NO_POLICY
    assert policy_from_environment({}) is NO_POLICY
    with pytest.raises(PolicyFileError):
        policy_from_environment({"RESUME_ENGINE_POLICY": str(tmp_path / "none")})


def actor(name: str = "ana", role: Role = Role.OPERATOR, channel: Channel = Channel.DASHBOARD) -> Actor:
    return Actor(name=name, role=role, channel=channel)


KEY = "key ci (abcd1234)"
STARTED = Requirement(rule="r", not_starter=True)
EDITED = Requirement(rule="r", not_input_editor=True)
OBJECTIONS: list[tuple[Requirement, Actor, Origin, str | None]] = [
    (Requirement(), actor(), Origin(), None),
    (Requirement(), actor(channel=Channel.API), Origin(started_by="ana"), None),
    (Requirement(roles=frozenset({Role.ADMIN})), actor(), Origin(), "the role operator is not enough"),
    (Requirement(roles=frozenset({Role.ADMIN})), actor(role=Role.ADMIN), Origin(), None),
    (Requirement(api_keys=False), actor(KEY, channel=Channel.API), Origin(), "a person must"),
    (Requirement(api_keys=False), actor(), Origin(), None),
    (STARTED, actor(), Origin(started_by="bob"), None),
    (STARTED, actor(), Origin(started_by="ana"), "whoever started the run may not decide, and ana did"),
    (STARTED, actor(), Origin(started_by=" ANA "), "and ana did"),
    (STARTED, actor(), Origin(), "nobody knows who started the run"),
    (
        STARTED,
        actor(),
        Origin(started_by=KEY, owners={KEY: "ana"}),
        "whoever started the run may not decide, and ana did",
    ),
    (STARTED, actor(KEY), Origin(started_by="ana", owners={KEY: "ana"}), f"ana, who made {KEY[:5]}"),
    (STARTED, actor(KEY), Origin(started_by="ana", owners={KEY: "bob"}), None),
    (EDITED, actor(), Origin(), None),
    (EDITED, actor(), Origin(input_editors=frozenset({"bob", "ana"})), "changed the input"),
    (EDITED, actor(), Origin(input_editors=frozenset({KEY}), owners={KEY: "Ana"}), "changed the input"),
    (EDITED, actor(), Origin(started_by="ana", input_editors=frozenset({"bob"})), None),
]


@pytest.mark.parametrize(("needed", "who", "origin", "reason"), OBJECTIONS)
def test_who_may_decide(needed: Requirement, who: Actor, origin: Origin, reason: str | None) -> None:
    found = objection(needed, who, origin)
    if reason is None:
        assert found is None
    else:
        assert found is not None and reason in found
