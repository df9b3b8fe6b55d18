"""The thread that forwards runs in the background: begun when needed, gone with its process."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from resume_engine.core.errors import RemoteUnreachableError, ResumeEngineError, SyncConflictError
from resume_engine.core.masking import masked_logger
from resume_engine.storage.forwarding import Forwarding
from resume_engine.storage.forwarding_marks import ForwardingMarks

_FIRST_WAIT, _LONGEST_WAIT = 0.2, 30.0
_WARN_EVERY_SECONDS = 60.0
_log = masked_logger(__name__)


class ForwardingThread:
    """Forward what waits, one run after the other, until stopped; a child of a fork has none.

    While the control plane is away it is asked again after a random wait that doubles, and one warning a
    minute says so. The run that found it away comes last then: a proxy may refuse that one alone.
    """

    def __init__(
        self,
        forwarding: Forwarding,
        marks: ForwardingMarks,
        poll_seconds: float,
        on_conflict: Callable[[SyncConflictError], None],
    ) -> None:
        self._forwarding = forwarding
        self._marks = marks
        self._poll_seconds = poll_seconds
        self._on_conflict = on_conflict
        self._process = os.getpid()
        self._thread: threading.Thread | None = None
        self._due = threading.Event()
        self._turn = threading.Lock()  # one forwards at a time: the thread, or who asks for one run
        self._is_over = False
        self._wait = _FIRST_WAIT
        self._warned_at: float | None = None
        self._unanswered: set[str] = set()
        self.is_away = False  # the control plane, when it was last asked

    @property
    def is_own(self) -> bool:
        """Return whether this process is the one that forwards, not a child that was forked from it."""
        return self._process == os.getpid()

    def wake(self) -> None:
        """See to it that what was just written is forwarded soon."""
        if not self.is_own or self._is_over:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="forward-runs", daemon=True)
            self._thread.start()
        self._due.set()

    def stop(self) -> None:
        """Let the thread end after the run it is at."""
        self._is_over = True
        self._due.set()

    def forward_now(self, run_id: str, patience: float) -> None:
        """Forward one run, unless the control plane is known to be away or the turn does not come in time."""
        if not self.is_own or self.is_away or not self._turn.acquire(timeout=patience):
            return
        try:
            self._forward(run_id)
        finally:
            self._turn.release()

    def _run(self) -> None:
        while not self._is_over:
            self._due.clear()
            self._round()
            self._due.wait(self._pause())

    def _round(self) -> None:
        try:
            for run_id in sorted(self._marks.waiting(), key=self._unanswered.__contains__):
                with self._turn:
                    if self._is_over or not self._forward(run_id):
                        return
        except Exception as trouble:  # of the database here: the thread must outlive it
            self._warn(trouble)

    def _forward(self, run_id: str) -> bool:
        """Forward one run; return whether the control plane answers."""
        progress = self._forwarding.progress
        try:
            self._forwarding.forward(run_id)
        except SyncConflictError as conflict:
            self._on_conflict(conflict)
        except RemoteUnreachableError as trouble:
            self.is_away = True
            self._unanswered.add(run_id)
            if self._forwarding.progress != progress:
                self._wait = _FIRST_WAIT
            self._warn(trouble)
            return False
        except ResumeEngineError as trouble:  # of this run: the others need not wait for it
            self._warn(trouble)
        self.is_away = False
        self._unanswered.discard(run_id)
        self._wait = _FIRST_WAIT
        return True

    def _pause(self) -> float:
        if not self.is_away:
            return self._poll_seconds
        wait = random.uniform(self._wait / 2, self._wait)
        self._wait = min(self._wait * 2, _LONGEST_WAIT)
        time.sleep(min(wait, 0.2))  # what is written meanwhile does not hurry anybody
        return max(0.0, wait - 0.2)

    def _warn(self, trouble: Any) -> None:
        now = time.monotonic()
        if self._warned_at is not None and now - self._warned_at < _WARN_EVERY_SECONDS:
            return
        self._warned_at = now
        _log.warning("Runs are recorded here and wait to be forwarded to the control plane: %s", trouble)
