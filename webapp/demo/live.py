"""The present of the demo: runs that keep starting, and workers that resume what an operator clears."""

from __future__ import annotations

import itertools
import logging
import threading
from random import Random

from resume_engine import Environment, FailureClassification, ResumeEngine
from resume_engine.storage.run_queries import RunQueries
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.worker import Worker
from webapp.demo.people import SCHEDULER
from webapp.demo.plan import STEADY, class_of, ordinary_story
from webapp.demo.stories import BACKOFF, MAX_ATTEMPTS, RUNNERS, WORKERS, Story, Trouble
from webapp.demo.workflows import PLAYED_LIVE
from webapp.demo.workflows.definition import DemoStep, State, playable

logger = logging.getLogger(__name__)

OPEN_GATES_MOST = 15
"""With so many runs waiting for somebody, only failures that need nobody are played."""

RUNS_AT_ONCE = 5
SECONDS_BETWEEN_RUNS = (3.0, 7.0)
STEP_SECONDS = (0.2, 2.0)
ACCELERATION = 6  # a step of 6 s in the stories takes 1 s live
POLL_SECONDS = 0.4
SECOND_FAILURE_SHARE = 0.03


class LiveStage:
    """Play steps in real time, only faster; let the planned one fail as often as planned."""

    def __init__(self, stop: threading.Event, trouble: Trouble | None = None) -> None:
        self._stop = stop
        self._trouble = trouble

    def spend(self, seconds: float) -> None:
        """Wait a moment; when the demo is being stopped, do not."""
        least, most = STEP_SECONDS
        self._stop.wait(min(max(seconds / ACCELERATION, least), most))

    def strike(self, step: DemoStep, state: State, key: str) -> None:
        """Raise when the step is the one that is to fail."""
        if self._trouble is not None and self._trouble.step == step.name:
            raise self._trouble.fault.exception()


class ResumedStage(LiveStage):
    """Play steps of runs that are resumed: mostly the cause is gone, now and then something fails again."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__(stop)
        self._struck: set[str] = set()

    def strike(self, step: DemoStep, state: State, key: str) -> None:
        """Raise for a small share of the keys, once each, and never in the three fixed runs."""
        if key in self._struck or not step.faults or STEADY.items() <= state.items():
            return
        rng = Random(f"again:{key}")
        if rng.random() < SECOND_FAILURE_SHARE:
            self._struck.add(key)
            raise rng.choice(step.faults).exception()


class LiveTraffic:
    """Start runs and resume them, in threads, until stopped."""

    def __init__(self, store: SqlCheckpointStore, *, seed: int | None = None) -> None:
        self._queries = RunQueries(store)
        self._stop = threading.Event()
        self._rng = Random(seed)
        self._slots = threading.Semaphore(RUNS_AT_ONCE)
        self._runners = itertools.cycle([ResumeEngine(store, owner=name) for name in RUNNERS])
        stage = ResumedStage(self._stop)
        workflows = {workflow.name: playable(workflow, stage) for workflow in PLAYED_LIVE}
        self._workers = [
            Worker(
                ResumeEngine(store, owner=name),
                workflows,
                name=name,
                poll_seconds=POLL_SECONDS,
                backoff=BACKOFF,
                max_attempts=MAX_ATTEMPTS,
            )
            for name in WORKERS
        ]
        self._starter = threading.Thread(target=self._keep_starting, name="demo traffic", daemon=True)
        self._running: set[threading.Thread] = set()

    def start(self) -> None:
        """Start runs every few seconds, and the workers."""
        for worker in self._workers:
            worker.start()
        self._starter.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Stop; steps under way end without waiting, so that no run is left in the middle."""
        self._stop.set()
        for worker in self._workers:
            worker.stop(timeout)
        for thread in (self._starter, *self._running):
            thread.join(timeout)

    def _keep_starting(self) -> None:
        while not self._stop.is_set():
            try:
                story = self._next_story()
                if self._slots.acquire(blocking=False):
                    self._start_run(story)
            except Exception:  # for example a database that is busy: the next one may start
                logger.warning("no run could be started", exc_info=True)
            self._stop.wait(self._rng.uniform(*SECONDS_BETWEEN_RUNS))

    def _next_story(self) -> Story:
        crowded = sum(waiting.count for waiting in self._queries.count_blocked()) >= OPEN_GATES_MOST
        while True:
            story = ordinary_story(self._rng)
            if not crowded or not needs_somebody(story):
                return story

    def _start_run(self, story: Story) -> None:
        engine = next(self._runners)
        thread = threading.Thread(target=self._play, args=(engine, story), name="demo run", daemon=True)
        self._running = {other for other in self._running if other.is_alive()} | {thread}
        thread.start()

    def _play(self, engine: ResumeEngine, story: Story) -> None:
        try:
            run = engine.start_run(
                story.workflow.name,
                environment=story.environment,
                metadata={"team": story.workflow.team, "trigger": "live demo"},
                actor=SCHEDULER,
            )
            steps = playable(story.workflow, LiveStage(self._stop, story.trouble))
            engine.execute_workflow(
                run.run_id, steps, initial_input=story.workflow.starts_with(Random(story.seed))
            )
        except Exception as error:  # planned: the engine has recorded it
            logger.info("%s: %s", story.workflow.name, error)
        finally:
            self._slots.release()


def needs_somebody(story: Story) -> bool:
    """Return whether the failure of a story closes a gate."""
    if story.trouble is None:
        return False
    transient = class_of(story.trouble.fault) is FailureClassification.TRANSIENT
    return story.environment == Environment.PROD or not transient
