"""How far a closed gate is: whose decisions count, and whose are missing; pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.decision import Decision, DecisionKind
from resume_engine.core.permissions import Role
from resume_engine.core.policy import Origin, Requirement, objection
from resume_engine.core.resume_gates import GateAction

_ENGINE = "the engine"  # compensations that executors ran beside the database: all of them count as one
_NOUNS = {
    DecisionKind.HUMAN_APPROVAL: "approvals",
    DecisionKind.COMPENSATION: "confirmations",
    DecisionKind.PROD_RESUME_ACK: "acknowledgements",
}


@dataclass(frozen=True, kw_only=True)
class GateStanding:
    """One closed gate: what opens it, and the decisions that count so far, one of each person."""

    action: GateAction
    requirement: Requirement
    origin: Origin
    given: tuple[Decision, ...] = ()

    @property
    def needed(self) -> int:
        """Return how many people open the gate."""
        return self.requirement.approvers

    @property
    def missing(self) -> int:
        """Return how many more people are needed; one at least, since the gate is closed."""
        return max(1, self.needed - len(self.given))

    @property
    def ends_at(self) -> datetime | None:
        """Return when the first of the decisions given so far ends unused."""
        return earliest_end(self.given)

    def by(self, actor: Actor, *, by_engine: bool = False) -> Decision | None:
        """Return what the person behind an actor has decided already, where another person is needed."""
        if len(self.given) >= self.needed:
            return None  # the policy asked for more people when they decided: anybody may finish it
        person = _person(actor.name, actor.channel.value, self.origin, by_engine=by_engine)
        return next((d for d in self.given if person_behind(d, self.origin) == person), None)

    def objection(self, actor: Actor) -> str | None:
        """Return why `actor` may not decide, or None; that they have decided already is no objection."""
        return objection(self.requirement, actor, self.origin)

    @property
    def words(self) -> str:
        """Return how far it is, for example "1 of 2 approvals, by ana"; empty where one person suffices."""
        if self.needed == 1 and not self.given:
            return ""
        told = f"{len(self.given)} of {self.needed} {_NOUNS[DecisionKind(self.action.value)]}"
        return f"{told}, by {' and '.join(d.shown_name for d in self.given)}" if self.given else told


def standing_of(
    action: GateAction,
    requirement: Requirement,
    decisions: Iterable[Decision],
    origin: Origin,
    at: datetime,
) -> GateStanding:
    """Return how far a closed gate is at the moment `at`.

    A decision counts once for each person, while it has not ended, and only if the policy in force lets
    its maker decide.
    """
    given: dict[str, Decision] = {}
    for decision in decisions:
        if decision.kind.value != action.value or has_ended(decision, at):
            continue
        maker = _maker(decision)
        if maker is not None and objection(requirement, maker, origin) is None:
            given.setdefault(person_behind(decision, origin), decision)
    return GateStanding(action=action, requirement=requirement, origin=origin, given=tuple(given.values()))


def person_behind(decision: Decision, origin: Origin) -> str:
    """Return the person whose decision it is, in the form in which two are compared."""
    by_engine = decision.step_sequence is not None and decision.kind is DecisionKind.COMPENSATION
    return _person(decision.actor, decision.channel, origin, by_engine=by_engine)


def _person(name: str, channel: str, origin: Origin, *, by_engine: bool) -> str:
    """Return whom a decision counts for; that an engine ran it elsewhere is only the word of a key."""
    return _ENGINE if by_engine and channel != Channel.API else origin.person(name)


def has_ended(decision: Decision, at: datetime) -> bool:
    """Return whether a decision no longer counts at the moment `at`."""
    return decision.expires_at is not None and decision.expires_at <= at


def earliest_end(decisions: Sequence[Decision]) -> datetime | None:
    """Return when the first of several decisions ends; None when none does."""
    return min((d.expires_at for d in decisions if d.expires_at is not None), default=None)


def end_of(at: datetime, after: timedelta | None) -> datetime | None:
    """Return when a decision made at the moment `at` ends."""
    return at + after if after is not None else None


def _maker(decision: Decision) -> Actor | None:
    try:
        return Actor(name=decision.actor, role=Role(decision.role), channel=Channel(decision.channel))
    except ValueError:
        return None  # a role or channel that is not known counts for nothing
