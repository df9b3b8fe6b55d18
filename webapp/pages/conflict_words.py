"""Why a decision was not recorded, told to the person who made it a moment too late."""

from __future__ import annotations

from datetime import datetime, timedelta

from resume_engine.core.decisions import Decision, DecisionKind
from resume_engine.core.errors import (
    AlreadyDecidedError,
    AnotherPersonNeededError,
    DecisionError,
    FailureMovedOnError,
    PolicyRefusalError,
)
from resume_engine.core.masking import mask_text
from webapp.formats import age
from webapp.pages.policy_words import sentence

UNCHANGED = "Nothing was changed."
_JUST_BEFORE = timedelta(minutes=10)  # longer ago it is no race, only an old page
_ACTS = {
    DecisionKind.HUMAN_APPROVAL: "approved this",
    DecisionKind.COMPENSATION: "recorded a compensation for this",
    DecisionKind.PROD_RESUME_ACK: "acknowledged this prod resume",
    DecisionKind.REJECT: "rejected this run",
}


def explain(refusal: DecisionError, me: str, now: datetime) -> str:
    """Return who was faster and when, or what happened to the run since the page was drawn."""
    if isinstance(refusal, AnotherPersonNeededError):
        given = f"{len(refusal.given_by)} of {refusal.needed} people have decided"
        return f"You {_ACTS[refusal.decision.kind]} before. {given}: another person is needed. {UNCHANGED}"
    if isinstance(refusal, PolicyRefusalError):
        return f"{sentence(refusal.reason)} {UNCHANGED}"
    if isinstance(refusal, AlreadyDecidedError):
        return _already(refusal.decision, me, now)
    if isinstance(refusal, FailureMovedOnError):
        if refusal.current is None:
            return f"The run has moved on: this failure is no longer open. {UNCHANGED}"
        step = refusal.current.partition(":")[0]
        return f"The run has moved on: it failed anew, at step {step}, since this page was drawn. {UNCHANGED}"
    return str(refusal)


def _already(decision: Decision, me: str, now: datetime) -> str:
    length = now - decision.decided_at
    words = _seconds(length) if length < timedelta(minutes=1) else age(length.total_seconds())
    act = _ACTS[decision.kind]
    if decision.actor == me:
        return f"You {act} {words} ago. {UNCHANGED}"
    when = f"{words} before you" if length < _JUST_BEFORE else f"{words} ago"
    return f"{mask_text(decision.shown_name)} {act} {when}. {UNCHANGED}"


def _seconds(length: timedelta) -> str:
    whole = max(0, int(length.total_seconds()))
    return "less than a second" if whole < 1 else f"{whole} second{'s' if whole > 1 else ''}"
