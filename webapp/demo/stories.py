"""One run of the past: what went wrong in it, who decided what, how it ended."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random

from resume_engine import ResumeEngine, RunStatus, Step
from resume_engine.core.actor import Actor, Channel
from resume_engine.core.decisions import DecisionKind
from resume_engine.core.permissions import Role
from resume_engine.core.resume_gates import ResumeBlocker
from resume_engine.core.retry import Backoff
from resume_engine.storage.sql_store import SqlCheckpointStore
from webapp.demo.people import ON_CALL, SCHEDULER
from webapp.demo.workflows.definition import DemoStep, DemoWorkflow, Fault, State, playable

RUNNERS = ("runner-a", "runner-b")
WORKERS = ("worker-1", "worker-2", "worker-3")
MAX_ATTEMPTS = 5
BACKOFF = Backoff(base_seconds=4, cap_seconds=60)

ACKNOWLEDGEMENTS = (
    "Checked the provider's status page, incident is closed.",
    "Agreed with the team on call, nothing else is running on this data.",
    "Seen on the dashboard for 20 minutes, error rate is back to normal.",
)
REJECTIONS = (
    "Customer withdrew; the case is closed by hand.",
    "Superseded by a newer run with corrected input.",
    "Wrong batch: was started twice by mistake.",
)


class Ending(StrEnum):
    """How the people on call dealt with a failure."""

    MENDED = "mended"  # retried, or decided and resumed
    OPEN = "open"  # nobody has done anything yet
    HALF_DECIDED = "half decided"  # one of two gates is still closed
    CLEARED = "cleared"  # decided, no runner has come by yet
    REJECTED = "rejected"
    DIED = "died"  # the process was killed in the middle of the step


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """A step that fails so many times in a row, and what became of it."""

    step: str
    fault: Fault
    failures: int = 1
    ending: Ending = Ending.MENDED


@dataclass(frozen=True, kw_only=True)
class Story:
    """What happens in one run; `seed` decides every detail left open."""

    workflow: DemoWorkflow
    environment: str
    seed: int
    trouble: Trouble | None = None
    minutes_to_decide: float = 10.0
    run_id: str | None = None
    marks: State = field(default_factory=dict)  # added to the initial input


class ProcessDied(BaseException):
    """A kill: no `Exception`, so nothing is recorded, as when a machine loses power."""


class PastStage:
    """Play steps on simulated time and let the planned one fail as often as planned."""

    def __init__(self, sleep: Callable[[float], None], trouble: Trouble | None) -> None:
        self._sleep = sleep
        self._trouble = trouble
        self._strikes = itertools.count()

    def spend(self, seconds: float) -> None:
        """Let simulated time pass."""
        self._sleep(seconds)

    def strike(self, step: DemoStep, state: State, key: str) -> None:
        """Raise what the story plans for this step."""
        trouble = self._trouble
        if trouble is None or trouble.step != step.name:
            return
        if trouble.ending is Ending.DIED:
            raise ProcessDied
        if next(self._strikes) < trouble.failures:
            raise trouble.fault.exception()


class Storyteller:
    """Let the engine itself write what the stories say, in their time."""

    def __init__(self, store: SqlCheckpointStore, sleep: Callable[[float], None]) -> None:
        self._sleep = sleep
        self._runners = [ResumeEngine(store, owner=name) for name in RUNNERS]
        self._workers = [ResumeEngine(store, owner=name) for name in WORKERS]

    def tell(self, story: Story) -> None:
        """Play one run from its start to where the story leaves it."""
        rng = Random(story.seed)
        steps = playable(story.workflow, PastStage(self._sleep, story.trouble))
        engine = rng.choice(self._runners)
        run = engine.start_run(
            story.workflow.name,
            run_id=story.run_id or str(uuid.UUID(int=rng.getrandbits(128), version=4)),
            environment=story.environment,
            metadata={"team": story.workflow.team, "trigger": rng.choice(["schedule", "webhook", "queue"])},
            actor=SCHEDULER,
        )
        initial_input = story.workflow.starts_with(rng) | story.marks
        try:
            engine.execute_workflow(run.run_id, steps, initial_input=initial_input)
        except ProcessDied:
            return
        except Exception:  # the failure that the story plans; the engine has recorded it
            self._aftermath(story, run.run_id, steps, rng)

    def _aftermath(self, story: Story, run_id: str, steps: list[Step], rng: Random) -> None:
        trouble = story.trouble
        assert trouble is not None
        while self._clear(story, trouble, run_id, rng):
            worker = rng.choice(self._workers)
            try:
                worker.resume(
                    run_id, steps, actor=Actor(name=worker.owner, role=Role.RUNNER, channel=Channel.WORKER)
                )
            except Exception:
                continue
            return

    def _clear(self, story: Story, trouble: Trouble, run_id: str, rng: Random) -> bool:
        """Do what the story says about the current failure; return whether a worker goes on then."""
        engine = self._runners[0]
        blockers = engine.get_resume_blockers(run_id)
        if not blockers:
            return self._wait_for_retry(run_id)
        if trouble.ending is Ending.OPEN:
            return False
        self._sleep(60 * story.minutes_to_decide * rng.uniform(0.8, 1.2))
        person = rng.choice(ON_CALL).actor()
        if trouble.ending is Ending.REJECTED:
            engine.decide(run_id, DecisionKind.REJECT, person, note=rng.choice(REJECTIONS))
            return False
        for blocker in blockers[:1] if trouble.ending is Ending.HALF_DECIDED else blockers:
            self._decide(blocker, trouble.fault, run_id, person, rng)
            self._sleep(rng.uniform(4, 40))
        return trouble.ending is Ending.MENDED

    def _wait_for_retry(self, run_id: str) -> bool:
        run = self._runners[0].store.load_summary(run_id)
        assert run is not None and run.failure is not None and run.status is RunStatus.FAILED
        if run.failure.attempts >= MAX_ATTEMPTS:
            return False
        self._sleep(BACKOFF.seconds(run.failure.attempts, run_id))
        return True

    def _decide(self, blocker: ResumeBlocker, fault: Fault, run_id: str, person: Actor, rng: Random) -> None:
        kind = DecisionKind(blocker.required_action)
        acknowledges = kind is DecisionKind.PROD_RESUME_ACK
        self._runners[0].decide(
            run_id,
            kind,
            person,
            failure_key=blocker.failure_key,
            note=rng.choice(ACKNOWLEDGEMENTS) if acknowledges else fault.fixed,
            result=fault.undo if kind is DecisionKind.COMPENSATION else None,
        )
