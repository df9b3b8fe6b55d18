"""A lease: one executor at a time works on a run.

The lease says when someone else may take over; that a late owner cannot write is guaranteed by the run's
version, which every change raises.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

from resume_engine.core import clock
from resume_engine.core.audit import AuditEvent
from resume_engine.core.errors import InvalidValueError, RunBusyError
from resume_engine.core.idempotency import hash_input
from resume_engine.core.run import RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.store import CheckpointStore

DEFAULT_LEASE_SECONDS = 30.0
LEASE_VARIABLE = "RESUME_ENGINE_LEASE_SECONDS"


def lease_seconds_from_environment() -> float:
    """Return the lease time in seconds from `RESUME_ENGINE_LEASE_SECONDS`, default 30."""
    text = os.environ.get(LEASE_VARIABLE, "")
    if not text:
        return DEFAULT_LEASE_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 86_400:
        raise InvalidValueError(
            LEASE_VARIABLE, f"must be a number of seconds from 1 to 86400, found {text!r}"
        )
    return seconds


class Lease:
    """Take, extend and keep alive the lease of one run for one owner."""

    def __init__(self, store: CheckpointStore, owner: str, seconds: float) -> None:
        self._store = store
        self._owner = owner
        self._length = timedelta(seconds=seconds)

    def take(
        self, run: RunSummary, *, steps_total: int, initial_input: dict[str, Any], event: AuditEvent | None
    ) -> RunSummary:
        """Claim the run and set it running, in one change; raise `RunBusyError` while a claim is live."""
        now = clock.utc_now()
        if run.lease_owner and run.lease_expires_at and run.lease_expires_at > now:
            raise RunBusyError(run.run_id, run.lease_owner, run.lease_expires_at)
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
        return self._store.commit(change)

    def extend(self, run: RunSummary) -> RunSummary:
        """Return `run` with the lease moved on, or released when the run is no longer running."""
        if run.status is RunStatus.RUNNING:
            return replace(run, lease_expires_at=clock.utc_now() + self._length)
        return replace(run, lease_owner=None, lease_expires_at=None)

    @contextmanager
    def heartbeat(self, run: RunSummary) -> Iterator[None]:
        """Keep the lease alive from a thread of its own while the block runs, however long a step takes."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(self._length.total_seconds() / 3):
                until = clock.utc_now() + self._length
                if not self._store.renew_lease(run.run_id, self._owner, run.lease_token, until):
                    return

        thread = threading.Thread(target=beat, name=f"lease-{run.run_id[:8]}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
