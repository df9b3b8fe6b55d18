"""A write whose outcome is unknown because the connection was lost in its middle."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy.exc import DBAPIError, IntegrityError

from resume_engine.core.decision import Decision
from resume_engine.core.errors import StaleRunError
from resume_engine.core.step_record import StepRecord
from resume_engine.storage.driver import connection_was_lost

_UNREACHABLE_SECONDS = 30.0


def surely(write: Callable[[], None], is_written: Callable[[], bool]) -> None:
    """Write; when the outcome is unknown, find out and write again only what was not written.

    Raises what `write` raised last when the database stays away for half a minute.
    """
    wait, give_up, in_doubt = 0.05, 0.0, False
    while True:
        try:
            write()
            return
        except (IntegrityError, StaleRunError):
            # The first write may have happened after all: then it is our own that is in the way.
            if in_doubt and _answered(is_written):
                return
            raise
        except DBAPIError as error:
            if _answered(is_written):
                return
            give_up = give_up or time.monotonic() + _UNREACHABLE_SECONDS
            if not connection_was_lost(error) or time.monotonic() > give_up:
                raise
        in_doubt = True
        time.sleep(wait)
        wait = min(wait * 2, 2.0)


def is_same_attempt(stored: StepRecord | None, given: StepRecord) -> bool:
    """Return whether what is stored is the attempt that was to be written."""
    return stored is not None and _attempt_of(stored) == _attempt_of(given)


def is_same_decision(stored: Decision, given: Decision) -> bool:
    """Return whether what is stored is the decision that was to be written."""
    return _decided_by(stored) == _decided_by(given)


def _attempt_of(record: StepRecord) -> tuple[object, ...]:
    return record.idempotency_key, record.status, record.attempt, record.worker, record.started_at


def _decided_by(decision: Decision) -> tuple[object, ...]:
    return decision.failure_key, decision.kind, decision.actor, decision.channel, decision.decided_at


def _answered(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except DBAPIError:
        return False  # still away: the next round finds out
