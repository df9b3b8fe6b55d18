"""Every gate rule, as pure functions.

A failure closes gates by its class and the run's environment; each gate is opened by one decision
about that failure event (`step_index:sequence`) and by nothing else. A new failure closes new gates.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from resume_engine.core.errors import ResumeBlockedError
from resume_engine.core.run import Environment, Run, RunStatus, open_failures
from resume_engine.core.step_record import FailureClassification, StepRecord

__all__ = [
    "GateAction",
    "ResumeBlockedError",
    "ResumeBlocker",
    "assert_can_resume",
    "blockers_for",
    "failure_key",
    "get_gates_metadata",
    "get_resume_blockers",
    "required_actions",
]


class GateAction(StrEnum):
    """What a closed gate waits for."""

    COMPENSATION = "compensation"
    HUMAN_APPROVAL = "human_approval"
    PROD_RESUME_ACK = "prod_resume_ack"


_ACTION_OF_CLASS: dict[FailureClassification, GateAction] = {
    FailureClassification.PARTIAL: GateAction.COMPENSATION,
    FailureClassification.PERMANENT: GateAction.HUMAN_APPROVAL,
}


@dataclass(frozen=True)
class ResumeBlocker:
    """Name one decision that is missing before the run may go on."""

    classification: FailureClassification
    step_index: int
    step_name: str
    failure_key: str
    message: str
    required_action: str
    approvals_needed: int = 1  # so many people, by the policy in force
    approvals_given: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the blocker as JSON."""
        return {
            "classification": self.classification.value,
            "step_index": self.step_index,
            "step_name": self.step_name,
            "failure_key": self.failure_key,
            "message": self.message,
            "required_action": str(self.required_action),
            "approvals_needed": self.approvals_needed,
            "approvals_given": self.approvals_given,
        }


def required_actions(
    classification: FailureClassification, environment: Environment
) -> tuple[GateAction, ...]:
    """Return the gates that a failure of this class closes in this environment, in the order to work them."""
    actions = [_ACTION_OF_CLASS[classification]] if classification in _ACTION_OF_CLASS else []
    if environment is Environment.PROD:
        actions.append(GateAction.PROD_RESUME_ACK)
    return tuple(actions)


def blockers_for(
    *,
    step_index: int,
    step_name: str,
    key: str,
    classification: FailureClassification,
    message: str,
    actions: Collection[GateAction],
) -> list[ResumeBlocker]:
    """Return one blocker per missing action of a failure event."""
    return [
        ResumeBlocker(classification, step_index, step_name, key, message, action.value) for action in actions
    ]


def failure_key(step: StepRecord) -> str:
    """Return the key of a failure event, `step_index:sequence`."""
    return step.failure_key


def get_gates_metadata(run: Run) -> dict[str, Any]:
    """Return the decisions of a run in 0.2.0's metadata shape."""
    gates = run.metadata.get("gates")
    return dict(gates) if isinstance(gates, dict) else {}


def get_resume_blockers(run: Run) -> list[ResumeBlocker]:
    """Return the decisions missing before `run` may go on, read from its records and gate metadata."""
    if run.status not in (RunStatus.FAILED, RunStatus.PAUSED):
        return []
    gates = get_gates_metadata(run)
    for failed in open_failures(run.steps):
        # An unclassified failure is unknown, and unknown means that a person must look.
        classification = failed.failure_classification or FailureClassification.PERMANENT
        decided = _decided_actions(gates, failed.failure_key)
        actions = [a for a in required_actions(classification, run.environment) if a not in decided]
        if actions:
            return blockers_for(
                step_index=failed.step_index,
                step_name=failed.step_name,
                key=failed.failure_key,
                classification=classification,
                message=failed.error_message or f"{classification.value} failure",
                actions=actions,
            )
    return []


def assert_can_resume(run: Run) -> None:
    """Raise `ResumeBlockedError` while a gate of `run` is closed."""
    blockers = get_resume_blockers(run)
    if blockers:
        raise ResumeBlockedError(blockers)


def _decided_actions(gates: dict[str, Any], key: str) -> set[GateAction]:
    decided: set[GateAction] = set()
    approval = gates.get("human_approval") or {}
    if key in (gates.get("approvals") or {}) or (
        approval.get("granted") and approval.get("failure_key") == key
    ):
        decided.add(GateAction.HUMAN_APPROVAL)
    if key in (gates.get("compensations") or {}):
        decided.add(GateAction.COMPENSATION)
    ack = gates.get("prod_resume_ack") or {}
    # 0.2.0 acknowledged without a failure key, which opened every later failure: that counts no more.
    if key in (gates.get("prod_resume_acks") or {}) or (ack.get("granted") and ack.get("failure_key") == key):
        decided.add(GateAction.PROD_RESUME_ACK)
    return decided
