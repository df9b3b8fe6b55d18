"""Who may decide what: the rules of a policy, as pure functions.

Rules are read in their order and the first that fits a decision is the one that counts. What no rule fits is
decided as without a policy. A policy only narrows: a role that may not decide gates never may by a policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.decision import DecisionKind
from resume_engine.core.permissions import Permission, Role, role_allows
from resume_engine.core.run import Environment

DECIDING_ROLES: frozenset[Role] = frozenset(
    role for role in Role if role_allows(role, Permission.GATES_DECIDE)
)
"""Roles that may decide where no rule says otherwise."""

GATE_KINDS: frozenset[DecisionKind] = frozenset(DecisionKind) - {DecisionKind.REJECT}
"""Decisions that open a gate."""


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """What one decision needs; the defaults are what holds without a policy."""

    rule: str | None = None  # the rule that asks for it; None: no rule fits
    roles: frozenset[Role] = DECIDING_ROLES
    approvers: int = 1  # so many different people
    not_starter: bool = False
    not_input_editor: bool = False
    note_required: bool = False
    expires_after: timedelta | None = None
    api_keys: bool = True  # False: only people, not keys

    @property
    def asks_who_is_behind(self) -> bool:
        """Return whether it matters which person stands behind a name."""
        return self.approvers > 1 or self.not_starter or self.not_input_editor


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule: the decisions it is about, and what they need."""

    name: str
    decisions: frozenset[DecisionKind] = GATE_KINDS
    environments: frozenset[Environment] = frozenset(Environment)
    workflows: tuple[str, ...] = ("*",)  # patterns with * and ?
    requirement: Requirement

    def fits(self, kind: DecisionKind, environment: Environment, workflow: str) -> bool:
        """Return whether the rule is about this decision."""
        return (
            kind in self.decisions
            and environment in self.environments
            and any(fnmatchcase(workflow, pattern) for pattern in self.workflows)
        )

    def covers(self, other: Rule) -> bool:
        """Return whether every decision that `other` fits is certainly fitted by this rule too."""
        return (
            self.decisions >= other.decisions
            and self.environments >= other.environments
            and ("*" in self.workflows or set(self.workflows) >= set(other.workflows))
        )


@dataclass(frozen=True, kw_only=True)
class PolicyTest:
    """One expectation of a policy about itself."""

    name: str
    kind: DecisionKind
    environment: Environment
    workflow: str
    actor: str
    role: Role
    channel: Channel
    started_by: str
    input_edited_by: str | None = None
    allowed: bool
    rule: str | None = None  # the rule that must be the one that counts
    approvers: int | None = None


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The rules in force, and the file they were read from."""

    rules: tuple[Rule, ...] = ()
    tests: tuple[PolicyTest, ...] = ()  # what the file itself expects of them
    source: str | None = None

    def requirement(self, kind: DecisionKind, environment: Environment, workflow: str) -> Requirement:
        """Return what a decision needs: what the first rule that fits says."""
        for rule in self.rules:
            if rule.fits(kind, environment, workflow):
                return rule.requirement
        return NO_REQUIREMENT


NO_REQUIREMENT = Requirement()
NO_POLICY = Policy()
"""Nothing beyond the roles: operators and admins decide, each alone."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Who is behind a run: who started it, who changed its input, and who made the keys that act."""

    started_by: str | None = None
    input_editors: frozenset[str] = frozenset()
    owners: Mapping[str, str] = field(default_factory=dict)  # name of a key -> who made it

    def person(self, name: str) -> str:
        """Return the person behind a name, in the form in which two names are compared."""
        return self.owners.get(name, name).strip().casefold()

    def started(self, name: str) -> bool:
        """Return whether the person behind `name` started the run."""
        return self.started_by is not None and self.person(self.started_by) == self.person(name)

    def edited(self, name: str) -> bool:
        """Return whether the person behind `name` changed the input of the run."""
        return self.person(name) in {self.person(editor) for editor in self.input_editors}


UNKNOWN_ORIGIN = Origin()


def objection(needed: Requirement, actor: Actor, origin: Origin) -> str | None:
    """Return why the policy does not let `actor` decide, as a sentence without its full stop, or None."""
    if actor.role not in needed.roles:
        roles = " or ".join(role.value for role in Role if role in needed.roles)
        return f"the role {actor.role.value} is not enough, it takes {roles}"
    if actor.channel is Channel.API and not needed.api_keys:
        return "an API key may not decide this, a person must"
    if needed.not_starter and origin.started_by is None:
        return "nobody knows who started the run, and whoever did may not decide"
    if needed.not_starter and origin.started(actor.name):
        return f"whoever started the run may not decide, and {_behind(actor.name, origin)} did"
    if needed.not_input_editor and origin.edited(actor.name):
        return f"whoever changed the input of the run may not decide, and {_behind(actor.name, origin)} did"
    return None


def _behind(name: str, origin: Origin) -> str:
    owner = origin.owners.get(name)
    return name if owner is None else f"{owner}, who made {name},"
