"""A policy in plain words, and whether it does what its own tests expect; pure functions."""

from __future__ import annotations

from datetime import timedelta

from resume_engine.core.actor import Actor
from resume_engine.core.permissions import Role
from resume_engine.core.policy import Origin, Policy, PolicyTest, Requirement, objection


def needs(needed: Requirement) -> list[str]:
    """Return what a decision needs, each part in a few words."""
    roles = " or ".join(role.value for role in Role if role in needed.roles)
    found = [f"{needed.approvers} people, each {roles}" if needed.approvers > 1 else f"one {roles}"]
    if needed.not_starter:
        found.append("nobody who started the run")
    if needed.not_input_editor:
        found.append("nobody who changed its input")
    if not needed.api_keys:
        found.append("no API keys")
    if needed.note_required:
        found.append("a note")
    if needed.expires_after is not None:
        found.append(f"resumed within {length(needed.expires_after)}")
    return found


def length(time: timedelta) -> str:
    """Return a length of time as a policy file says it: 90m, 8h, 2d."""
    seconds = int(time.total_seconds())
    for unit, of in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds % of == 0:
            return f"{seconds // of}{unit}"
    return f"{seconds}s"


def failed_expectation(policy: Policy, test: PolicyTest) -> str | None:
    """Return what is not as a test of the policy expects it, or None."""
    needed = policy.requirement(test.kind, test.environment, test.workflow)
    if test.rule is not None and test.rule != needed.rule:
        return f"expected rule {test.rule!r} to count, found {named(needed)}"
    if test.approvers is not None and test.approvers != needed.approvers:
        return f"expected {test.approvers} approvers, found {needed.approvers} ({named(needed)})"
    reason = why_not(needed, test)
    if test.allowed and reason is not None:
        return f"expected to be allowed, but {reason} ({named(needed)})"
    if not test.allowed and reason is None:
        return f"expected to be refused, but may decide ({named(needed)})"
    return None


def why_not(needed: Requirement, test: PolicyTest) -> str | None:
    """Return why whoever a test names may not decide, or None."""
    edited = frozenset() if test.input_edited_by is None else frozenset({test.input_edited_by})
    origin = Origin(started_by=test.started_by, input_editors=edited)
    return objection(needed, Actor(name=test.actor, role=test.role, channel=test.channel), origin)


def named(needed: Requirement) -> str:
    """Return the rule behind a requirement, for a sentence."""
    return f"rule {needed.rule!r}" if needed.rule is not None else "no rule fits"
