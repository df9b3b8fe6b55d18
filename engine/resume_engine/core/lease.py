"""A lease: one executor at a time works on a run.

The lease says when someone else may take over; that a late owner cannot write is guaranteed by the run's
version, which every change raises.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from resume_engine.core import clock
from resume_engine.core.audit import AuditEvent
from resume_engine.core.errors import InvalidValueError, StaleRunError
from resume_engine.core.execution import assert_idle
from resume_engine.core.idempotency import hash_input
from resume_engine.core.run import RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.store import CheckpointStore

DEFAULT_LEASE_SECONDS = 30.0
LEASE_SECONDS_MIN = 0.1
LEASE_SECONDS_MAX = 86_400
_log = logging.getLogger(__name__)

LEASE_VARIABLE = "RESUME_ENGINE_LEASE_SECONDS"


def lease_seconds_from_environment() -> float:
    """Return the lease time in seconds from `RESUME_ENGINE_LEASE_SECONDS`, default 30."""
    text = os.environ.get(LEASE_VARIABLE, "")
    if not text:
        return DEFAULT_LEASE_SECONDS
    return check_lease_seconds(LEASE_VARIABLE, text)


def check_lease_seconds(field: str, value: object) -> float:
    """Return a lease time in seconds; raise `InvalidValueError` for anything but a number up to a day."""
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        seconds = 0.0
    if not LEASE_SECONDS_MIN <= seconds <= LEASE_SECONDS_MAX:
        bounds = f"{LEASE_SECONDS_MIN} to {LEASE_SECONDS_MAX}"
        raise InvalidValueError(field, f"must be a number of seconds from {bounds}, found {value!r:.80}")
    return seconds


class Lease:
    """Take, extend and keep alive the lease of one run for one owner."""

    def __init__(self, store: CheckpointStore, owner: str, seconds: float) -> None:
        self._store = store
        self._owner = owner
        self._length = timedelta(seconds=check_lease_seconds("lease_seconds", seconds))

    def take(
        self, run: RunSummary, *, steps_total: int, initial_input: dict[str, Any], event: AuditEvent | None
    ) -> RunSummary:
        """Claim the run and set it running, in one change; raise `RunBusyError` while a claim is live."""
        now = clock.utc_now()
        assert_idle(run)
        first = run.initial_input_hash is None
        after = replace(
            run,
            status=RunStatus.RUNNING,
            updated_at=now,
            steps_total=steps_total,
            lease_owner=self._owner,
            lease_token=run.lease_token + 1,
            lease_expires_at=now + self._length,
            initial_input_hash=hash_input(initial_input) if first else run.initial_input_hash,
        )
        change = RunChange(
            before=run,
            after=after,
            events=(event,) if event else (),
            initial_input=initial_input if first else None,
        )
        try:
            return self._store.commit(change)
        except StaleRunError:
            current = self._store.load_summary(run.run_id)
            if current is not None:
                assert_idle(current)  # of two at once the other was first
            raise

    def extend(self, run: RunSummary) -> RunSummary:
        """Return `run` with the lease moved on, or released when the run is no longer running."""
        if run.status is RunStatus.RUNNING:
            return replace(run, lease_expires_at=clock.utc_now() + self._length)
        return replace(run, lease_owner=None, lease_expires_at=None)

    @contextmanager
    def heartbeat(self, run: RunSummary) -> Iterator[None]:
        """Keep the lease alive from a thread of its own while the block runs, however long a step takes.

        A block left by an exception gives the lease up at once, so that nobody waits for its end.
        """
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(self._length.total_seconds() / 3):
                if self._renew(run, clock.utc_now() + self._length) is False:
                    return

        thread = threading.Thread(target=beat, name=f"lease-{run.run_id[:8]}", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            _stop(thread, ended)
            self._renew(run, clock.utc_now())
            raise
        _stop(thread, ended)

    def _renew(self, run: RunSummary, until: datetime) -> bool | None:
        """Return whether the lease is still ours; None when the store could not say."""
        try:
            return self._store.renew_lease(run.run_id, self._owner, run.lease_token, until)
        except Exception:
            # A database that is away for a moment must not end the beat, nor hide the step's own error.
            _log.warning("the lease of run %s could not be renewed", run.run_id, exc_info=True)
            return None


def _stop(thread: threading.Thread, ended: threading.Event) -> None:
    ended.set()
    thread.join()
