"""A lease: one executor at a time works on a run.

The lease says when someone else may take over; that a late owner cannot write is guaranteed by the run's
version, which every change raises: the owner goes on from a newer one only where the run stands as it did.
Expiry is judged by the clock of the database. The owner itself trusts its lease only for its length counted
from the start of the last renewal, less a margin, by its own monotonic clock: so a slow answer never
stretches it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from resume_engine.core import clock, failpoints
from resume_engine.core.errors import InvalidValueError, LeaseLostError, RunBusyError, StaleRunError
from resume_engine.core.masking import masked_logger
from resume_engine.core.process_identity import is_gone
from resume_engine.core.run import RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary, StepInFlight
from resume_engine.core.step_record import COMPENSATION_PREFIX
from resume_engine.core.store import CheckpointStore

DEFAULT_LEASE_SECONDS = 30.0
LEASE_SECONDS_MIN = 0.1
LEASE_SECONDS_MAX = 86_400
_MARGIN = 1 / 6  # of the lease: what a call that is under way may still take
_BESIDE = frozenset(
    {"version", "change_id", "chain_seq", "chain_head", "updated_at", "lease_expires_at", "lease_live"}
)
"""What may change in the row of a run while its executor goes on."""
_log = masked_logger(__name__)

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


def assert_idle(run: RunSummary) -> None:
    """Raise `RunBusyError` while an executor is live on `run`.

    One that was a process of this machine and is gone is not waited for.
    """
    if run.lease_live and run.lease_owner and not is_gone(run.lease_owner):
        raise RunBusyError(run.run_id, run.lease_owner, run.lease_expires_at)


def is_held_as(ours: RunSummary, found: RunSummary) -> bool:
    """Return whether a run stands as it did when it was `ours`, whatever was noted beside it since.

    New metadata move its version, a heartbeat the end of its lease. Whoever takes it raises its token, and
    who records, decides or begins something changes more: then what a step was based on stands no longer.
    """
    before, now = vars(ours), vars(found)
    return all(before[name] == now[name] for name in before.keys() - _BESIDE)


def without_dead_owner(run: RunSummary) -> RunSummary:
    """Return `run` as interrupted when its executor was a process of this machine and is gone.

    Its lease may run on for a while; whoever takes the run over must know what that process left behind.
    """
    if run.lease_live and run.lease_owner and is_gone(run.lease_owner):
        return run.evolve(lease_live=False)
    return run


class Lease:
    """Take, extend and keep alive the lease of one run for one owner.

    An `exclusive` lease is for a whole workflow: the owner itself cannot take it twice. Otherwise several
    steps of one owner (parallel branches) may be under way in one run.
    """

    def __init__(self, store: CheckpointStore, owner: str, seconds: float, *, exclusive: bool) -> None:
        self.owner = owner
        self.exclusive = exclusive
        self._store = store
        self._seconds = check_lease_seconds("lease_seconds", seconds)
        self._length = timedelta(seconds=self._seconds)
        self._trusted_until: float | None = None  # None: nothing was taken
        self._process = os.getpid()
        self._attempts_before: dict[int, int] = {}

    def take(self, change: RunChange, status: RunStatus = RunStatus.RUNNING) -> RunSummary:
        """Claim the run in `change`, set it running, and write all of it; return the run.

        Raises `RunBusyError` while another owner is live, `StaleRunError` when the run moved on.
        """
        before = change.before
        self._assert_idle(before)
        self._count_attempts(before)
        after = self.extend(
            change.after.evolve(
                status=status,
                updated_at=clock.utc_now(),
                lease_owner=self.owner,
                lease_token=before.lease_token + (not self.shares(before)),
            )
        )
        failpoints.reach("before_intent")
        started = clock.monotonic()
        try:
            taken = self._store.commit(_with(change, after, self._seconds))
        except StaleRunError:
            current = self._store.load_summary(before.run_id)
            if current is not None:
                self._assert_idle(current)  # of two at once the other was first
            raise
        self._trust_from(started)
        failpoints.reach("after_intent")
        return taken

    def _count_attempts(self, run: RunSummary) -> None:
        """Note how often the steps of `run` were tried before; compensations count for themselves."""
        if run.retry_at is not None:
            return
        compensates = bool(run.blocked_by)  # nothing else is executed behind a closed gate
        if run.failure is not None and not compensates:
            self._attempts_before[run.failure.step_index] = run.failure.attempts
        for step in run.in_flight:
            if step.step_name.startswith(COMPENSATION_PREFIX) is compensates:
                self._attempts_before[step.step_index] = step.attempt

    def shares(self, run: RunSummary) -> bool:
        """Return whether another step of this owner is under way, so that both go on under one lease."""
        return not self.exclusive and run.lease_live and run.lease_owner == self.owner

    def _assert_idle(self, run: RunSummary) -> None:
        if not self.shares(run):
            assert_idle(run)

    def attempts_before(self, step_index: int) -> int:
        """Return how often a step was tried before this lease was taken."""
        return self._attempts_before.get(step_index, 0)

    def extend(self, run: RunSummary, in_flight: tuple[StepInFlight, ...] | None = None) -> RunSummary:
        """Return `run` with the lease moved on, or released when nobody works on it any more.

        `in_flight` are the intents it has then, its own if not given.
        Raises `LeaseLostError` in a child of a fork: the lease is its parent's.
        """
        self._assert_own_process(run)
        # A branch that fails does not end the others: nobody takes the run from under them.
        intents = run.in_flight if in_flight is None else in_flight
        over = run.status is not RunStatus.RUNNING if self.exclusive else not intents
        if over:
            return run.evolve(lease_owner=None, lease_expires_at=None, lease_live=False, in_flight=())
        until = clock.utc_now() + self._length
        return run.evolve(lease_expires_at=until, lease_live=True, in_flight=intents)

    def seconds_for(self, run: RunSummary) -> float | None:
        """Return how long the lease of `run` lasts from its commit on; None when it is released."""
        return self._seconds if run.lease_owner is not None else None

    def assert_trusted(self, run: RunSummary) -> None:
        """Raise `LeaseLostError` when the lease may have ended, or belongs to the parent of a fork."""
        self._assert_own_process(run)
        if self._trusted_until is None or clock.monotonic() < self._trusted_until:
            return
        if not self.renew(run):
            raise LeaseLostError(run.run_id, self.owner, None)

    def _assert_own_process(self, run: RunSummary) -> None:
        if os.getpid() != self._process:
            raise LeaseLostError(run.run_id, f"process {os.getpid()}", self.owner)

    def renew(self, run: RunSummary) -> bool:
        """Move the end of the lease; return whether it is still ours."""
        started = clock.monotonic()
        if not self._store.renew_lease(run.run_id, self.owner, run.lease_token, self._seconds):
            return False
        self._trust_from(started)
        return True

    @contextmanager
    def heartbeat(self, run: RunSummary) -> Iterator[None]:
        """Keep the lease alive from a thread of its own while the block runs, however long a step takes.

        A block left by an exception gives the lease up at once, so that nobody waits for its end; unless
        other branches may still need it.
        """
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(self._seconds / 3):
                if self._renewed(run) is False:
                    return

        thread = threading.Thread(target=beat, name=f"lease-{run.run_id[:8]}", daemon=True)
        thread.start()
        try:
            yield
        except BaseException as error:
            _stop(thread, ended)
            if self.exclusive or not isinstance(error, Exception):
                self._give_up(run)
            raise
        _stop(thread, ended)

    def _renewed(self, run: RunSummary) -> bool | None:
        """Return whether the lease is still ours; None when the store could not say."""
        try:
            return self.renew(run)
        except Exception:
            # A database that is away for a moment must not end the beat.
            _log.warning("the lease of run %s could not be renewed", run.run_id, exc_info=True)
            return None

    def _give_up(self, run: RunSummary) -> None:
        if os.getpid() != self._process:
            return  # the child of a fork ends here; its parent works on
        try:
            self._store.renew_lease(run.run_id, self.owner, run.lease_token, 0)
        except Exception:
            # The step's own error must not be hidden; the lease ends by itself.
            _log.warning("the lease of run %s could not be released", run.run_id, exc_info=True)

    def _trust_from(self, started: float) -> None:
        self._trusted_until = started + self._seconds * (1 - _MARGIN)


def _with(change: RunChange, after: RunSummary, seconds: float) -> RunChange:
    return RunChange(
        before=change.before,
        after=after,
        events=change.events,
        initial_input=change.initial_input,
        workflow=change.workflow,
        lease_seconds=seconds,
    )


def _stop(thread: threading.Thread, ended: threading.Event) -> None:
    ended.set()
    thread.join()
