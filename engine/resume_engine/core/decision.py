"""Decisions about gates as they are recorded; `core.decisions` makes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from resume_engine.core import codec
from resume_engine.core.errors import DecisionInputError


class DecisionKind(StrEnum):
    """What a person can decide about a failure event."""

    COMPENSATION = "compensation"  # the side effects were undone
    HUMAN_APPROVAL = "human_approval"  # the step may run again
    PROD_RESUME_ACK = "prod_resume_ack"  # the resume in prod is known and wanted
    REJECT = "reject"  # the run is cancelled, for good


def parse_decision_kind(value: object) -> DecisionKind:
    """Return the kind named by `value`; raise `DecisionInputError` for any other word."""
    try:
        return DecisionKind(value)  # type: ignore[arg-type]
    except ValueError:
        known = ", ".join(kind.value for kind in DecisionKind)
        raise DecisionInputError("kind", f"{value!r} is unknown; use one of {known}") from None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One recorded decision about one failure event."""

    run_id: str
    failure_key: str
    kind: DecisionKind
    actor: str
    role: str
    channel: str
    decided_at: datetime
    note: str | None = None
    result: dict[str, Any] | None = None
    step_sequence: int | None = None  # of the compensation record, when the engine ran it
    decision_id: int | None = None
    ordinal: int = 1  # among those of its kind about the same failure event
    opened: bool = True  # False: more people were needed, the gate stayed closed
    expires_at: datetime | None = None
    display_name: str | None = None  # who a caller of the API says it is; `actor` is its key

    @property
    def shown_name(self) -> str:
        """Return the name to show to people."""
        return self.display_name or self.actor


def gates_view(decisions: Sequence[Decision], closed: Collection[tuple[str, str]] = ()) -> Mapping[str, Any]:
    """Return decisions in the shape in which 0.2.0 kept them in `run.metadata["gates"]`.

    Empty when there are none. Beside 0.2.0's fields `approvals` and `prod_resume_acks` keep every decision
    by failure key, and `prod_resume_ack` says which failure it acknowledged. Left out is what opened no gate,
    and the gates in `closed` (failure key and kind): their decisions are not enough, or have ended.
    """
    view: dict[str, Any] = {}
    granted = (d for d in decisions if d.opened and (d.failure_key, d.kind.value) not in closed)
    for decision in sorted(granted, key=lambda d: d.decided_at):
        at = decision.decided_at.isoformat()
        if decision.kind is DecisionKind.HUMAN_APPROVAL:
            entry = _granted_view(decision, at, "approved")
            view["human_approval"] = entry
            view.setdefault("approvals", {})[decision.failure_key] = entry
        elif decision.kind is DecisionKind.COMPENSATION:
            view.setdefault("compensations", {})[decision.failure_key] = _compensation_view(decision, at)
        elif decision.kind is DecisionKind.PROD_RESUME_ACK:
            entry = _granted_view(decision, at, "acknowledged")
            view["prod_resume_ack"] = entry
            view.setdefault("prod_resume_acks", {})[decision.failure_key] = entry
    return view


def _granted_view(decision: Decision, at: str, done: str) -> dict[str, Any]:
    return {
        "granted": True,
        "failure_key": decision.failure_key,
        f"{done}_by": decision.shown_name,
        f"{done}_at": at,
        "note": decision.note,
    }


def _compensation_view(decision: Decision, at: str) -> dict[str, Any]:
    if decision.step_sequence is not None:
        return {
            "completed_at": at,
            "step_sequence": decision.step_sequence,
            "output": codec.as_json(decision.result),
        }
    return {
        "completed_at": at,
        "result": codec.as_json(decision.result or {}),
        "note": decision.note,
        "recorded_externally": True,
    }
