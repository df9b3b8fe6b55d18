"""What has to be undone to roll a run back, read from its record.

The `run.rolling_back` event, written with the first intent, says so for good. From then on the run goes this
way only. While it does, the step in flight or the failure of the run is a compensation, so that the row alone
tells when that event must be looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from resume_engine.core.audit import EventType
from resume_engine.core.decisions import DecisionKind
from resume_engine.core.errors import InvalidValueError, PayloadLockedError, RunFinishedError
from resume_engine.core.idempotency import generate_idempotency_key
from resume_engine.core.interruption import step_in_doubt
from resume_engine.core.payload import payload_hash
from resume_engine.core.run import FINISHED_STATUSES
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step_record import (
    COMPENSATION_PREFIX,
    FailureClassification,
    StepKind,
    StepRecord,
)

if TYPE_CHECKING:
    from resume_engine.core.store import CheckpointStore

_TIMED_OUT = "StepTimeoutError"  # whether it did anything is unknown


@dataclass(frozen=True, kw_only=True)
class Undoing:
    """One step whose effects stand; `sequence` is that of its record, None when its outcome is unknown."""

    step_index: int
    step_name: str
    sequence: int | None
    because: str  # completed | partial | in doubt
    key: str | None = None  # of the interrupted attempt, when there is no record of it


@dataclass(frozen=True, kw_only=True)
class RollBack:
    """What a rollback undoes, in this order, and what nobody registered a compensation for."""

    requested_by: str
    note: str
    since: int  # the first sequence that a record of this rollback can have
    undone: tuple[Undoing, ...]
    not_compensated: tuple[Undoing, ...]
    display_name: str | None = None  # who a caller of the API says it is; `requested_by` is its key

    def payload(self) -> dict[str, Any]:
        """Return what its events say."""
        payload: dict[str, Any] = {
            "requested_by": self.requested_by,
            "since": self.since,
            "compensated": [asdict(undoing) for undoing in self.undone],
            "not_compensated": [asdict(undoing) for undoing in self.not_compensated],
        }
        return payload if self.display_name is None else payload | {"display_name": self.display_name}


def under_way(store: CheckpointStore, run: RunSummary) -> RollBack | None:
    """Return the rollback that was begun for a run and not finished, or None."""
    if run.status in FINISHED_STATUSES or not names_under_way(run):
        return None
    return begun(store, run.run_id)


def names_under_way(run: RunSummary) -> list[tuple[int, str]]:
    """Return index and name of the compensations that the row of a run names: in flight, or failed."""
    found = [(step.step_index, step.step_name) for step in run.in_flight]
    found += [(run.failure.step_index, run.failure.step_name)] if run.failure else []
    return [(index, name) for index, name in found if name.startswith(COMPENSATION_PREFIX)]


def assert_none_under_way(store: CheckpointStore, run: RunSummary) -> None:
    """Raise `RunFinishedError` when a run is rolling back: no step is executed any more."""
    if under_way(store, run) is not None:
        raise RunFinishedError(run.run_id, "rolling back")


def begun(store: CheckpointStore, run_id: str) -> RollBack | None:
    """Return the rollback that was once begun for a run, or None."""
    for event in store.list_events(run_id):
        if event.event_type == EventType.RUN_ROLLING_BACK:
            if "compensated" not in event.payload:
                raise PayloadLockedError("what the rollback of this run undoes cannot be read")
            return RollBack(
                requested_by=str(event.payload["requested_by"]),
                note=event.note or "",
                since=int(event.payload["since"]),
                undone=tuple(Undoing(**one) for one in event.payload["compensated"]),
                not_compensated=tuple(Undoing(**one) for one in event.payload["not_compensated"]),
                display_name=event.payload.get("display_name"),
            )
    return None


def planned(
    store: CheckpointStore,
    run: RunSummary,
    has_compensation: Callable[[Undoing], bool],
    *,
    requested_by: str,
    note: str,
    display_name: str | None = None,
) -> RollBack:
    """Return what has to be undone of a run; raise what `has_compensation` raises."""
    standing = _standing(store, run)
    undone = [undoing for undoing in standing if has_compensation(undoing)]
    for undoing in undone:
        if undoing.sequence is None:
            input_in_doubt(store, run.run_id, undoing)  # raises now rather than in the middle
    return RollBack(
        requested_by=requested_by,
        note=note,
        since=run.next_sequence,
        undone=tuple(undone),
        not_compensated=tuple(undoing for undoing in standing if undoing not in undone),
        display_name=display_name,
    )


def _standing(store: CheckpointStore, run: RunSummary) -> list[Undoing]:
    """Return the steps whose effects stand or may stand, the latest first."""
    decided = store.list_decisions(run.run_id)
    # What the engine ran is undone, whoever has yet to confirm it; people's word counts once it is enough.
    compensated = {
        d.failure_key
        for d in decided
        if d.kind is DecisionKind.COMPENSATION and (d.opened or d.step_sequence is not None)
    }
    recorded: dict[int, Undoing] = {}
    for record in store.iter_steps(run.run_id):
        if record.kind is StepKind.STEP and (record.is_completed or record.is_failed):
            recorded.pop(record.step_index, None)  # only the latest attempt counts
            because = _because(record)
            if because is not None and not (record.is_failed and record.failure_key in compensated):
                recorded[record.step_index] = Undoing(
                    step_index=record.step_index,
                    step_name=record.step_name,
                    sequence=record.sequence,
                    because=because,
                )
    doubtful = {
        s.step_index: Undoing(
            step_index=s.step_index,
            step_name=s.step_name,
            sequence=None,
            because="in doubt",
            key=s.idempotency_key,
        )
        for s in (run.in_flight if step_in_doubt(run) is not None else ())
    }
    known = [undoing for index, undoing in recorded.items() if index not in doubtful]
    return [*doubtful.values(), *reversed(known)]


def _because(record: StepRecord) -> str | None:
    """Return why the effects of a step's latest attempt must be undone; None when it left none."""
    if record.is_completed:
        return "completed"
    if record.failure_classification is FailureClassification.PARTIAL:
        return "partial"
    return "in doubt" if record.error_type == _TIMED_OUT else None


def input_in_doubt(store: CheckpointStore, run_id: str, undoing: Undoing) -> dict[str, Any]:
    """Return what a step that was interrupted had been given; its key tells when it was that.

    Raises `InvalidValueError` when it does not follow from the record.
    """
    for state in _possible_inputs(store, run_id, undoing.step_index):
        input_hash = payload_hash(state)
        if undoing.key == generate_idempotency_key(run_id, undoing.step_name, undoing.step_index, input_hash):
            return state
    raise InvalidValueError(
        "run_id",
        f"step {undoing.step_index} {undoing.step_name!r} of run {run_id} was interrupted, and its "
        "input does not follow from the record; execute it once more before rolling back",
    )


def _possible_inputs(store: CheckpointStore, run_id: str, index: int) -> Iterator[dict[str, Any]]:
    """Yield what the attempts before it were given, then what follows from the steps before it."""
    initial = store.load_initial_input(run_id)
    outputs: dict[int, dict[str, Any]] = {}
    for record in store.iter_steps(run_id):
        if record.kind is not StepKind.STEP:
            continue
        if record.step_index == 0 and initial is None:
            initial = record.input_data
        if record.is_completed:
            outputs[record.step_index] = record.output_data or {}
        elif record.is_failed and record.step_index == index:
            yield record.input_data
    state = dict(initial or {})
    for earlier in range(index):
        state |= outputs.get(earlier, {})
    yield state
