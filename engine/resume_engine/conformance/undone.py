"""A workflow whose compensations tell what they were called with, for the cases of rolling back."""

from __future__ import annotations

from typing import Any

import pytest

from resume_engine.conformance.samples import (
    failing,
    passing,
)
from resume_engine.core.audit import EventType
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.failure_classifier import PermanentStepError
from resume_engine.core.step import Step
from resume_engine.core.store import CheckpointStore

State = dict[str, Any]


NOTE = "the customer withdrew"


COUNT = 5


class Undone:
    """A workflow of five steps and what their compensations were called with; the last step fails."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, State, str]] = []
        self.trouble: dict[int, list[BaseException]] = {}

    def steps(
        self,
        count: int = COUNT,
        *,
        without: int | None = None,
        error: Exception | None = None,
        **options: Any,
    ) -> list[Step]:
        last = failing(error or PermanentStepError("declined"))
        made = [
            Step(
                f"step_{index}",
                passing({f"out_{index}": index}),
                compensate=None if index == without else self.undo(index),
                **options,
            )
            for index in range(count)
        ]
        return [*made, Step("last", last, compensate=self.undo(count), **options)]

    def undo(self, index: int) -> Any:
        def call(state: State, key: str) -> State:
            self.calls.append((f"step_{index}", state, key))
            if self.trouble.get(index):
                raise self.trouble[index].pop(0)
            return {f"undone_{index}": True}

        return call

    @property
    def order(self) -> list[int]:
        return [int(name.removeprefix("step_")) for name, _, _ in self.calls]


def failed(engine: ResumeEngine, steps: list[Step], **options: Any) -> str:
    """Return a run that failed at its last step."""
    run_id = engine.start_run("billing", **options).run_id
    with pytest.raises(Exception, match=r"declined|half|timed out"):
        engine.execute_workflow(run_id, steps, initial_input={"order": 7})
    return run_id


def roll_back(engine: ResumeEngine, run_id: str, steps: list[Step]) -> Any:
    return engine.roll_back(run_id, steps, requested_by="olga@example.com", note=NOTE)


def events(store: CheckpointStore, run_id: str, kind: EventType) -> list[Any]:
    return [event for event in store.list_events(run_id) if event.event_type == kind]


def requested_by(event: Any) -> str:
    """Over HTTP the key is the actor, and who it stands for its display name."""
    return str(event.payload.get("display_name", event.payload["requested_by"]))


def stopped(_state: State, _key: str) -> State:
    raise KeyboardInterrupt


def interrupted(engine: ResumeEngine, steps: list[Step]) -> str:
    run_id = engine.start_run("billing").run_id
    with pytest.raises(KeyboardInterrupt):
        engine.execute_workflow(run_id, steps, initial_input={"order": 7})
    return run_id


# From then on there is one way
def half_rolled_back(engine: ResumeEngine, undone: Undone, steps: list[Step]) -> str:
    run_id = failed(engine, steps)
    undone.trouble[1] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        roll_back(engine, run_id, steps)
    return run_id


class WithUndone:
    """Give each case an engine and a workflow."""

    @pytest.fixture
    def engine(self, store: CheckpointStore) -> ResumeEngine:
        return ResumeEngine(store, owner="worker-1")

    @pytest.fixture
    def undone(self) -> Undone:
        return Undone()
