"""The worker: resumes what needs nobody, on one or many machines over one database.

It takes runs whose gates a person has cleared, at once, and runs that failed for a transient reason, after
a wait. What a closed gate blocks it never sees: a failure in prod waits for its acknowledgement first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.async_bridge import needs_loop, run_on_own_loop
from resume_engine.core.clock import utc_now
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import (
    InvalidValueError,
    ResumeBlockedError,
    RunBusyError,
    RunFinishedError,
    RunNotFoundError,
    StaleRunError,
)
from resume_engine.core.masking import masked_logger
from resume_engine.core.permissions import Role
from resume_engine.core.retry import Backoff
from resume_engine.core.run import RunStatus
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step import StepLike, as_steps

logger = masked_logger(__name__)

RUNS_PER_PASS = 50
"""Runs read in one pass; few, so that what is cleared meanwhile does not wait behind them."""

TAKEN = (RunBusyError, StaleRunError, ResumeBlockedError, RunFinishedError, RunNotFoundError)
"""Somebody else was quicker: another worker took the run, or it failed again, was rejected, is gone."""


@dataclass(frozen=True)
class _SetAside:
    """A run this worker cannot resume, and until when it leaves it alone."""

    until: datetime
    times: int


class Worker:
    """Resume runs of the given workflows.

    `workflows` maps a workflow name to its steps; runs of other workflows are left alone. Steps may be
    coroutine functions: such a run gets an event loop of its own. Any number of workers may share a
    database: the claim of a run is a conditional write that one of them wins. A run whose step failed
    `max_attempts` times in a row for a transient reason is left to a person.
    """

    def __init__(
        self,
        engine: ResumeEngine,
        workflows: Mapping[str, Iterable[StepLike]],
        *,
        name: str | None = None,
        poll_seconds: float = 1.0,
        backoff: Backoff | None = None,
        max_attempts: int = 5,
    ) -> None:
        if poll_seconds <= 0:
            raise InvalidValueError("poll_seconds", f"must be more than 0, found {poll_seconds!r}")
        if max_attempts < 1:
            raise InvalidValueError("max_attempts", f"must be at least 1, found {max_attempts!r}")
        self.name = name or engine.owner
        self._engine = engine
        self._workflows = {workflow: as_steps(steps) for workflow, steps in workflows.items()}
        self._poll_seconds = poll_seconds
        self._backoff = backoff or Backoff()
        self._max_attempts = max_attempts
        self._actor = Actor(name=self.name, role=Role.RUNNER, channel=Channel.WORKER)
        self._set_aside: dict[str, _SetAside] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def run_once(self, stop_event: threading.Event | None = None) -> int:
        """Resume what is due now, one run after the other; return how many were taken.

        A run that fails again counts: the engine has recorded it. Raises what the store raises when it
        cannot be read.
        """
        taken = 0
        for run in self._due():
            if stop_event is not None and stop_event.is_set():
                break
            taken += self._resume(run)
        return taken

    def run_forever(self, stop_event: threading.Event | None = None) -> None:
        """Resume what is due until `stop_event` is set or `stop` is called; a run under way is finished."""
        stop_event = stop_event or self._stop
        troubles = 0
        while not stop_event.is_set():
            wait = 0.0
            try:
                if not self.run_once(stop_event):
                    wait = self._poll_seconds
                troubles = 0
            except Exception:  # for example the database restarts: the worker outlives that
                troubles += 1
                wait = max(self._poll_seconds, self._backoff.seconds(troubles, self.name))
                logger.warning("%s: looking for runs failed; again in %.1f s", self.name, wait, exc_info=True)
            if wait:
                stop_event.wait(wait)

    def start(self) -> None:
        """Run in a thread of its own; a worker that is started already stays as it is."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self.run_forever, args=(self._stop,), name=f"worker {self.name}", daemon=True
        )
        self._thread.start()

    def stop(self, timeout: float | None = None) -> bool:
        """Stop the thread after the run it works on; return whether it ended within `timeout` seconds."""
        self._stop.set()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # Finding

    def _due(self) -> list[RunSummary]:
        """Return runs to resume, cleared ones first: behind each of them a person has just decided."""
        now = utc_now()
        self._forget_old(now)
        names = list(self._workflows)
        limit = RUNS_PER_PASS + len(self._set_aside)
        # No failed run has had 0 failures: this asks for cleared runs only.
        cleared = self._engine.store.find_resumable(names, failed_before=now, max_attempts=0, limit=limit)
        due = [run for run in cleared if not self._is_set_aside(run, now)]
        return (due + self._due_retries(names, now, limit))[:RUNS_PER_PASS]

    def _due_retries(self, names: list[str], now: datetime, limit: int) -> list[RunSummary]:
        earliest = now - timedelta(seconds=self._backoff.base_seconds)
        while True:
            found = self._engine.store.find_resumable(
                names, failed_before=earliest, max_attempts=self._max_attempts, limit=limit
            )
            due = [run for run in found if self._may_retry(run, now) and not self._is_set_aside(run, now)]
            if due or len(found) < limit:
                return due
            limit *= 4  # everything found still waits for its time: what is due may stand behind it

    def _may_retry(self, run: RunSummary, now: datetime) -> bool:
        if run.status is not RunStatus.FAILED or run.failure is None:
            return False
        wait = self._backoff.seconds(run.failure.attempts, run.run_id)
        return run.failure.failed_at + timedelta(seconds=wait) <= now

    # Resuming

    def _resume(self, run: RunSummary) -> bool:
        """Resume one run; return whether this worker took it."""
        try:
            logger.info("%s: resuming run %s (%s)", self.name, run.run_id, run.workflow_name)
            steps = self._workflows[run.workflow_name]
            # Another worker may have resumed it since, and it may have failed again: then it waits anew.
            if any(needs_loop(step) for step in steps):
                awaited = self._engine.aresume(run.run_id, steps, actor=self._actor, if_version=run.version)
                run_on_own_loop(awaited)
            else:
                self._engine.resume(run.run_id, steps, actor=self._actor, if_version=run.version)
        except TAKEN as reason:
            logger.debug("%s: run %s is not taken: %s", self.name, run.run_id, reason)
            return False
        except Exception as error:
            return self._after_error(run, error)
        self._set_aside.pop(run.run_id, None)
        return True

    def _after_error(self, run: RunSummary, error: Exception) -> bool:
        if self._is_recorded(run):
            logger.info("%s: run %s failed again: %s", self.name, run.run_id, error)
            return True
        times = self._set_aside[run.run_id].times + 1 if run.run_id in self._set_aside else 1
        wait = self._backoff.seconds(times, run.run_id)
        self._set_aside[run.run_id] = _SetAside(utc_now() + timedelta(seconds=wait), times)
        logger.warning(
            "%s: run %s (%s) cannot be resumed; next try in %.1f s",
            self.name,
            run.run_id,
            run.workflow_name,
            wait,
            exc_info=error,
        )
        return False

    def _is_recorded(self, run: RunSummary) -> bool:
        """Return whether the engine recorded a new failure of the run: then it is a step that failed."""
        try:
            current = self._engine.store.load_summary(run.run_id)
        except Exception:
            return False
        failure = current.failure if current is not None else None
        return failure is not None and failure.sequence >= run.next_sequence

    # Runs set aside

    def _is_set_aside(self, run: RunSummary, now: datetime) -> bool:
        entry = self._set_aside.get(run.run_id)
        return entry is not None and entry.until > now

    def _forget_old(self, now: datetime) -> None:
        """Drop entries long past: such a run was resumed elsewhere, or nobody asks for it any more."""
        oldest = now - timedelta(seconds=10 * self._backoff.cap_seconds)
        self._set_aside = {run_id: e for run_id, e in self._set_aside.items() if e.until > oldest}
