"""Which runs a list shows: one meaning of each filter for explorer, queue, overview, API and command line."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, case, func, true

from resume_engine.core.masking import MASK_BEGINNING, mask_text
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import Environment, RunStatus
from resume_engine.core.run_summary import RunState
from resume_engine.core.step_record import FailureClassification
from resume_engine.storage.payload_codec import SEALED_MARK
from resume_engine.storage.schema import runs

Condition = ColumnElement[bool]

CAUSE_CHARACTERS = 120
"""How much of a message tells causes apart; what follows is often an id or a number."""


@dataclass(frozen=True, kw_only=True)
class RunFilter:
    """Narrow a list of runs; None and empty text mean "any".

    `search` is the beginning of a run id or a part of a workflow name. `since` and `until` bound
    `created_at`. `error_type` and `message_start` name a cause, as `failure_causes` counts it: a message of
    `CAUSE_CHARACTERS` is whole or cut there, and only runs count whose failure still stands, not those that
    are cancelled or already at work again.
    """

    state: RunState | None = None
    workflow: str | None = None
    environment: Environment | None = None
    classification: FailureClassification | None = None
    blocked_by: GateAction | None = None
    since: datetime | None = None
    until: datetime | None = None
    search: str | None = None
    error_type: str | None = None
    message_start: str | None = None
    environments: tuple[Environment, ...] | None = None  # what the caller may see at all

    @property
    def search_text(self) -> str:
        """Return what is searched for, without spaces around it."""
        return (self.search or "").strip()

    @property
    def has_search(self) -> bool:
        """Return whether anything is searched for."""
        return bool(self.search_text)

    @property
    def is_empty(self) -> bool:
        """Return whether every run passes."""
        return self == RunFilter()


def state_condition(state: RunState, now: datetime) -> Condition:
    """Return the rows that `RunSummary.state(now)` calls `state`; a test holds the two together."""
    blocked = runs.c.blocked_by.is_not(None)
    expired = and_(runs.c.lease_expires_at.is_not(None), runs.c.lease_expires_at < now)
    if state is RunState.BLOCKED:
        return blocked
    if state is RunState.CLEARED:
        return and_(runs.c.status == RunStatus.PAUSED.value, ~blocked)
    if state is RunState.INTERRUPTED:
        return and_(runs.c.status == RunStatus.RUNNING.value, ~blocked, expired)
    if state is RunState.RUNNING:
        return and_(runs.c.status == RunStatus.RUNNING.value, ~blocked, ~expired)
    return and_(runs.c.status == state.value, ~blocked)


def gate_condition(action: GateAction) -> Condition:
    """Return the rows whose closed gates include `action`."""
    return runs.c.blocked_by.in_([text for text in BLOCKED_BY_TEXTS if action.value in text.split("+")])


def standing_failure() -> Condition:
    """Return the rows whose failure nobody has mended, cancelled or taken up again."""
    return and_(
        runs.c.failure_classification.is_not(None),
        runs.c.status.in_([RunStatus.FAILED.value, RunStatus.PAUSED.value]),
    )


def cause_start() -> ColumnElement[str]:
    """Return the beginning of the message, by which causes are told apart.

    Sealed messages all differ, also where what they say is the same: they have an empty beginning, and only
    their error types tell them apart.
    """
    message = runs.c.failure_message
    sealed = func.substr(message, 1, len(SEALED_MARK)) == SEALED_MARK
    return case((sealed, ""), else_=func.substr(message, 1, CAUSE_CHARACTERS))


def cause_condition(message_start: str) -> Condition:
    """Return the rows whose message, or so much of it as tells causes apart, is that of a cause.

    What is masked is never compared: whoever may ask could find it out, letter by letter. A cause with a mask
    in it picks no rows out, so that its error type alone does; a text that would be masked picks none.
    """
    if MASK_BEGINNING in message_start:
        return true()
    if mask_text(message_start) != message_start:
        return runs.c.run_id.is_(None)  # SQLite refuses the index that a list names for `false()`
    return func.substr(runs.c.failure_message, 1, CAUSE_CHARACTERS) == message_start[:CAUSE_CHARACTERS]


BLOCKED_BY_TEXTS = (
    "compensation",
    "human_approval",
    "prod_resume_ack",
    "compensation+prod_resume_ack",
    "human_approval+prod_resume_ack",
)
"""Every value of `runs.blocked_by`; a test derives them from the gate rules."""


def conditions(wanted: RunFilter, now: datetime) -> list[Condition]:
    """Return the conditions of a filter but for `search`, which `run_list` takes apart."""
    found: list[Condition] = []
    if wanted.state is not None:
        found.append(state_condition(wanted.state, now))
    if wanted.workflow:
        found.append(runs.c.workflow_name == wanted.workflow)
    if wanted.environment is not None:
        found.append(runs.c.environment == wanted.environment.value)
    if wanted.environments is not None:
        found.append(runs.c.environment.in_([word.value for word in wanted.environments]))
    if wanted.classification is not None:
        found.append(runs.c.failure_classification == wanted.classification.value)
    if wanted.blocked_by is not None:
        found.append(gate_condition(wanted.blocked_by))
    if wanted.since is not None:
        found.append(runs.c.created_at >= wanted.since)
    if wanted.until is not None:
        found.append(runs.c.created_at < wanted.until)
    if wanted.error_type or wanted.message_start:
        found.append(standing_failure())
    if wanted.error_type:
        found.append(runs.c.failure_error_type == wanted.error_type)
    if wanted.message_start:
        found.append(cause_condition(wanted.message_start))
    return found
