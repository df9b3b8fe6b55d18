"""The run that an address names, as far as the caller may see it."""

from __future__ import annotations

from typing import Any

from flask import g

from resume_engine.core import clock
from resume_engine.core.errors import RunNotFoundError
from resume_engine.core.gate_progress import RunNow, judged_now, rests_on_decisions
from resume_engine.core.masking import mask_text
from resume_engine.core.permissions import Permission
from resume_engine.core.resume_gates import ResumeBlocker
from resume_engine.core.run import RunStatus
from resume_engine.core.run_summary import RunSummary
from webapp.extensions import current_policy, current_store, step_queries
from webapp.keys.caller import assert_may_touch, current_caller


def load(run_id: str) -> RunSummary:
    """Return a run; raise `RunNotFoundError`, or `AccessDeniedError` when the key is not for it."""
    run = current_store().load_summary(run_id)
    if run is None:
        raise RunNotFoundError(run_id)
    return allowed(run)


def allowed(run: RunSummary) -> RunSummary:
    """Return the run; raise `AccessDeniedError` when the key is not for it."""
    assert_may_touch(run.environment, run.run_id)
    return run


def sees_secrets() -> bool:
    """Return whether the caller gets values as they are recorded.

    Whoever may run steps does, since a resume needs them; auditors get them masked.
    """
    return current_caller().may(Permission.PAYLOADS_READ)


def needs_decisions(run: RunSummary) -> bool:
    """Return whether `judged` reads anything for this run."""
    return rests_on_decisions(run, current_policy(), clock.utc_now())


def judged(run: RunSummary) -> RunNow:
    """Return a run and what it waits for by now; judged once in a request, so that tag and body agree."""
    known: dict[tuple[str, int], RunNow] = g.setdefault("judged_runs", {})
    seen = (run.run_id, run.version)
    if seen not in known:
        known[seen] = judged_now(current_store(), run, current_policy())
    return known[seen]


def status_answer(run: RunSummary) -> dict[str, Any]:
    """Return what `GET /runs/{id}/status` and every change of a run answer."""
    now, blockers = judged(run)
    return {
        "run_id": run.run_id,
        "workflow_name": run.workflow_name,
        "status": now.status.value,
        "environment": run.environment.value,
        "steps_completed": run.steps_completed,
        "last_completed_step": step_queries().last_completed_index(run),
        "resume_from_index": run.resume_from_index,
        "can_resume": not blockers and can_resume(now),
        "resume_blockers": [blocker_answer(blocker) for blocker in blockers],
    }


def can_resume(run: RunSummary) -> bool:
    """Return whether no gate is closed and nobody has cancelled the run."""
    return not run.blocked_by and run.status is not RunStatus.CANCELLED


def blocker_answer(blocker: ResumeBlocker) -> dict[str, Any]:
    """Return one missing decision as the caller may see it."""
    found = blocker.to_dict()
    return found if sees_secrets() else found | {"message": mask_text(blocker.message)}
