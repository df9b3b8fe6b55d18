"""Changes that the client of this release asks for: read, judged where the record is, written once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from resume_engine.core.actor import Actor
from resume_engine.core.clock import as_utc
from resume_engine.core.errors import (
    IdempotencyCollisionError,
    InvalidValueError,
    PayloadUnreadableError,
    StaleRunError,
)
from resume_engine.core.messages import read_intent, summary_message
from resume_engine.core.payload import from_text
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.runner_request import RunnerChange, Term, repeated
from resume_engine.core.store import CheckpointStore
from webapp.api import one_run
from webapp.api.runner_shapes import Change, Hold
from webapp.extensions import current_store
from webapp.permissions import current_actor

YEARS = (1970, 9998)
"""Beyond them there is no room to reckon with a moment."""

Given = TypeVar("Given", bound=RunnerChange)
Judge = Callable[[CheckpointStore, RunSummary, Given, Actor], RunChange]


def written(run_id: str, given: Given, judge: Judge[Given]) -> RunSummary:
    """Write what follows from a change, unless the same call has written it before; return the run."""
    store = current_store()
    run = one_run.load(run_id)
    if repeated(store, run, given):
        return run
    try:
        return store.commit(judge(store, run, given, current_actor()))
    except (StaleRunError, IdempotencyCollisionError):
        now = one_run.load(run_id)  # the same call may have come twice at once
        if repeated(store, now, given):
            return now
        raise


def answer(run: RunSummary) -> dict[str, Any]:
    """Return a run as its executors know it."""
    return one_run.status_answer(run) | {"run": summary_message(run)}


def common(change: Change) -> dict[str, Any]:
    """Return the fields that every change has."""
    intents = [intent.model_dump() for intent in change.in_flight]
    for intent in intents:
        moment("since", intent["since"])
    return {
        "change_id": change.change_id,
        "version": change.version,
        "lease": term(change.lease),
        "in_flight": tuple(read_intent(intent) for intent in intents),
        "retry_at": None if change.retry_at is None else moment("retry_at", change.retry_at),
    }


def term(hold: Hold | None) -> Term | None:
    """Return an executor's hold on a run."""
    return None if hold is None else Term(owner=hold.owner, token=hold.token, seconds=hold.seconds)


def moment(field: str, text: str) -> datetime:
    """Return the moment that a text names; raise `InvalidValueError`."""
    try:
        found = as_utc(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        raise InvalidValueError(field, f"must be a moment in ISO 8601, found {text!r:.60}") from None
    if not YEARS[0] <= found.year <= YEARS[1]:
        raise InvalidValueError(field, f"must be in the years {YEARS[0]} to {YEARS[1]}, found {text!r:.60}")
    return found


def payload(field: str, text: str) -> dict[str, Any]:
    """Return the payload that a text holds, as it is stored; raise `InvalidValueError` for anything else."""
    try:
        found: object = from_text(text)
    except (ValueError, RecursionError):
        raise InvalidValueError(field, "is not JSON") from None
    except PayloadUnreadableError:
        raise InvalidValueError(field, "holds a value that this release cannot read") from None
    if not isinstance(found, dict):
        raise InvalidValueError(field, f"must be a JSON object, found {type(found).__name__}")
    return found
