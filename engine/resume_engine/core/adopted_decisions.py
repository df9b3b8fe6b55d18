"""Decisions that were made and judged on a control plane, recorded here as they were made there."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from resume_engine.core import clock
from resume_engine.core.actor import Actor, Channel
from resume_engine.core.decision import Decision, DecisionKind
from resume_engine.core.decision_request import DecisionRequest
from resume_engine.core.decisions import event_of
from resume_engine.core.errors import RunNotFoundError
from resume_engine.core.gate_closing import closed_again
from resume_engine.core.judgement import judge
from resume_engine.core.open_failures import after_clearing
from resume_engine.core.permissions import Role
from resume_engine.core.policy import NO_REQUIREMENT
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary

if TYPE_CHECKING:
    from resume_engine.core.store import CheckpointStore


def adopt(store: CheckpointStore, made: Decision, made_on: str) -> RunSummary:
    """Record a decision with the actor, role, channel, note and time it has on `made_on`.

    Whether it was allowed was judged there. It must still be about the run's current failure, and its gate
    closed, at least since an earlier decision ended: else this raises what `decide` raises.
    """
    before = store.load_summary(made.run_id)
    if before is None:
        raise RunNotFoundError(made.run_id)
    actor = Actor(name=made.actor, role=Role(made.role), channel=Channel(made.channel))
    run, ended = closed_again(store, before, actor, made.decided_at)
    after = _after(store, run, made, actor, clock.utc_now())
    event = event_of(made, actor, NO_REQUIREMENT)
    event = replace(event, payload=event.payload | {"made_on": made_on})
    decision = replace(made, decision_id=None)
    events = (event,) if ended is None else (ended, event)
    return store.commit(RunChange(before=before, after=after, decisions=(decision,), events=events))


def _after(
    store: CheckpointStore, run: RunSummary, made: Decision, actor: Actor, now: datetime
) -> RunSummary:
    request = DecisionRequest(
        run_id=made.run_id,
        kind=made.kind,
        actor=actor,
        failure_key=made.failure_key,
        note=made.note,
        result=made.result,
        step_sequence=made.step_sequence,
        display_name=made.display_name,
    )
    # Those that opened nothing were one of several people's: they are on record, and stand in nobody's way.
    earlier = [d for d in store.list_decisions(made.run_id, failure_key=made.failure_key) if d.opened]
    after = judge(run, earlier, request, made.decided_at).evolve(updated_at=now)
    if not made.opened:
        return run.evolve(updated_at=now)
    if made.kind is DecisionKind.REJECT:
        return after
    ends = [end for end in (after.cleared_until, made.expires_at) if end is not None]
    return after_clearing(store, after.evolve(cleared_until=min(ends, default=None)), now)
