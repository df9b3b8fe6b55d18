"""What a control plane refuses, raised here as the error that it was there."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from resume_engine.core import errors
from resume_engine.core.resume_gates import ResumeBlocker
from resume_engine.core.step_record import FailureClassification


def code_of(name: str) -> str:
    """Return the code that the API gives to an error class."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.removesuffix("Error")).lower()


_CLASSES = {
    code_of(name): found
    for name, found in vars(errors).items()
    if isinstance(found, type) and issubclass(found, errors.ResumeEngineError)
}


def raised_again(problem: dict[str, Any], message: str) -> Exception | None:
    """Return the engine's error behind a refusal, None when it is none of the engine's."""
    if problem.get("code") == "invalid_shape":
        faults = problem.get("errors") or [{}]
        field = str(faults[0].get("field", "body")).removeprefix("change.")
        return errors.InvalidValueError(field, message)
    kind = _CLASSES.get(str(problem.get("code")))
    if kind is None:
        return None
    if kind is errors.ResumeBlockedError:
        detail = problem.get("detail")
        found = detail.get("blockers", []) if isinstance(detail, dict) else []
        return errors.ResumeBlockedError([read_blocker(blocker) for blocker in found])
    error: Exception = kind.__new__(kind)
    Exception.__init__(error, message)
    about = dict(problem.get("about") or {})
    if about.get("until"):
        about["until"] = datetime.fromisoformat(about["until"])
    vars(error).update({"owner": None, "held_by": None, "until": None} | about)
    return error


def read_blocker(found: dict[str, Any]) -> ResumeBlocker:
    """Return a missing decision as the API tells it; release 0.2.0 counts no people."""
    return ResumeBlocker(
        classification=FailureClassification(found["classification"]),
        step_index=found["step_index"],
        step_name=found["step_name"],
        failure_key=found["failure_key"],
        message=found["message"],
        required_action=found["required_action"],
        approvals_needed=found.get("approvals_needed", 1),
        approvals_given=found.get("approvals_given", 0),
    )
