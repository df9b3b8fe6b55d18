"""What is asked for when somebody decides about a gate, and what a request must hold."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

from resume_engine.core import codec
from resume_engine.core.actor import Actor
from resume_engine.core.decision import DecisionKind
from resume_engine.core.errors import DecisionInputError, DecisionNotAllowedError
from resume_engine.core.payload import is_storable
from resume_engine.core.permissions import Permission, role_allows

ACTOR_MAX_CHARACTERS = 255
FAILURE_KEY_MAX_CHARACTERS = 32
NOTE_MAX_CHARACTERS = 2_000
RESULT_MAX_CHARACTERS = 64_000


@dataclass(frozen=True, kw_only=True)
class DecisionRequest:
    """Ask for one decision; `failure_key` is the failure event that was shown (None: the current one)."""

    run_id: str
    kind: DecisionKind
    actor: Actor
    failure_key: str | None = None
    note: str | None = None
    result: dict[str, Any] | None = None
    step_sequence: int | None = None
    display_name: str | None = None  # who a caller of the API says it is; the audit records `actor`
    version: int | None = None  # of the run that was shown; None: any, as long as the failure is the same


def is_blank(text: str | None) -> bool:
    """Return whether a text shows nothing: spaces, control characters and signs without a width."""
    return all(unicodedata.category(character)[0] in "CZ" for character in text or "")


def check_request(request: DecisionRequest) -> None:
    """Raise `DecisionInputError` or `DecisionNotAllowedError` when the request itself cannot be accepted."""
    if not role_allows(request.actor.role, Permission.GATES_DECIDE):
        raise DecisionNotAllowedError(request.actor.name, request.actor.role, request.kind)
    for field, name in (("actor", request.actor.name), ("display_name", request.display_name or None)):
        if name is not None and is_blank(name):
            raise DecisionInputError(field, "say who decides")
    _check_text("actor", request.actor.name, ACTOR_MAX_CHARACTERS)
    _check_text("display_name", request.display_name or "", ACTOR_MAX_CHARACTERS)
    _check_text("note", request.note or "", NOTE_MAX_CHARACTERS)
    _check_text("failure_key", request.failure_key or "", FAILURE_KEY_MAX_CHARACTERS)
    if request.kind is DecisionKind.REJECT and is_blank(request.note):
        raise DecisionInputError("note", "a rejection cancels the run for good: give the reason")
    _check_result(request)


def _check_text(field: str, value: str, longest: int) -> None:
    if len(value) > longest:
        raise DecisionInputError(field, f"has {len(value)} characters; at most {longest} are kept")
    if not is_storable(value):
        raise DecisionInputError(field, "must be text without NUL characters")


def _check_result(request: DecisionRequest) -> None:
    if request.result is None:
        return
    if request.kind is not DecisionKind.COMPENSATION:
        raise DecisionInputError("result", "only a compensation has a result")
    if not isinstance(request.result, dict):
        raise DecisionInputError("result", 'must be a JSON object, for example {"refund_id": "r-1"}')
    try:
        size = len(codec.dumps(request.result))
    except (TypeError, ValueError, RecursionError) as problem:
        raise DecisionInputError("result", f"is not JSON: {problem}") from problem
    if size > RESULT_MAX_CHARACTERS:
        raise DecisionInputError("result", f"has {size} characters; at most {RESULT_MAX_CHARACTERS} are kept")
