"""The samples of the published conformance tests, under the name that the tests here know."""

from resume_engine.conformance.samples import (
    NOON,
    change,
    completed,
    decision,
    event,
    failed,
    new_run,
    summary,
)

__all__ = ["NOON", "change", "completed", "decision", "event", "failed", "new_run", "summary"]
