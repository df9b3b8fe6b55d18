"""One change of one run: what a store writes in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from resume_engine.core.audit import AuditEvent
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step_record import StepRecord

if TYPE_CHECKING:
    from resume_engine.core.decision import Decision


@dataclass(frozen=True, kw_only=True)
class RunChange:
    """Carry a run from `before` to `after`, with the record, decisions and events that belong to it.

    A store writes all of it or nothing, and only while the run is still at `before.version`.
    """

    before: RunSummary
    after: RunSummary
    record: StepRecord | None = None
    decisions: tuple[Decision, ...] = ()
    events: tuple[AuditEvent, ...] = ()
    initial_input: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None  # replaces the run's metadata when given
    workflow: Sequence[str] | None = None  # the step names, when they are recorded for the first time or anew
    lease_seconds: float | None = None  # the lease of `after` ends so long after now, by the database's clock
    change_id: str | None = None  # names the change when it is asked for from afar and may be asked for again

    @classmethod
    def of_step(
        cls, before: RunSummary, after: RunSummary, record: StepRecord | None, lease_seconds: float | None
    ) -> RunChange:
        """Return a change of nothing else; what the constructor does, without its cost for each step."""
        change = object.__new__(cls)
        fields = {"before": before, "after": after, "record": record, "lease_seconds": lease_seconds}
        object.__setattr__(change, "__dict__", fields)  # what is left out stands in the class
        return change
