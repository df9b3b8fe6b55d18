"""What happened to a run since a person decided: told in lines until there is nothing more to wait for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from resume_engine.core.decisions import Decision, DecisionKind
from resume_engine.core.run import RunStatus
from resume_engine.core.run_summary import RunState, RunSummary
from resume_engine.storage.gate_queries import Aftermath
from resume_engine.storage.step_queries import AttemptMark
from webapp.formats import executor, first_line, utc
from webapp.presentation import gate_look

EAGER_FOR = timedelta(minutes=2)  # somebody who just pressed is still looking
AWAITED_SECONDS, MOVING_SECONDS, CALM_SECONDS = 1, 2, 5


@dataclass(frozen=True, kw_only=True)
class StoryLine:
    """One thing that happened; `tone` is done, now, bad or empty."""

    text: str
    at: datetime | None = None
    tone: str = "done"


@dataclass(frozen=True, kw_only=True)
class Story:
    """What happened since the decision, and whether more is to come."""

    lines: tuple[StoryLine, ...] = ()
    ended: bool = False


def tell(
    run: RunSummary,
    failure_key: str,
    decisions: Sequence[Decision],
    aftermath: Aftermath | None,
    now: datetime,
) -> Story:
    """Return what happened to `run` since one of its failures was decided; a pure function."""
    if not decisions:
        return Story()
    if decisions[-1].kind is DecisionKind.REJECT:
        line = StoryLine(text="The run is cancelled. Nothing of it runs again.", tone="bad")
        return Story(lines=(line,), ended=True)
    if _still_blocked(run, failure_key):
        last = decisions[-1]
        if last.opened and last.kind.value in run.blocked_by:
            return _over(last)
        if not last.opened:
            return Story()  # how many people are missing is told where the next of them decides
        waits = " and ".join(gate_look(kind).label for kind in run.blocked_by)
        return Story(lines=(StoryLine(text=f"Not yet enough: it still waits for {waits}.", tone="now"),))
    return _after_clearing(run, failure_key, aftermath or Aftermath(resumed=None, attempts=()), now)


def seconds_between_looks(run: RunSummary, now: datetime) -> int:
    """Return how often a page that shows `run` asks for news, in seconds."""
    fresh = now - run.updated_at < EAGER_FOR
    if fresh and run.cleared_at is not None and not run.blocked_by:
        return AWAITED_SECONDS
    return MOVING_SECONDS if fresh and run.status is RunStatus.RUNNING else CALM_SECONDS


def _still_blocked(run: RunSummary, failure_key: str) -> bool:
    return bool(run.blocked_by) and run.failure is not None and run.failure.key == failure_key


def _over(decision: Decision) -> Story:
    when = f" at {utc(decision.expires_at)}" if decision.expires_at is not None else ""
    text = f"What was decided ended{when}, before anybody resumed the run. It is needed again."
    return Story(lines=(StoryLine(text=text, tone="bad"),))


def _after_clearing(run: RunSummary, failure_key: str, aftermath: Aftermath, now: datetime) -> Story:
    lines: list[StoryLine] = []
    if aftermath.resumed is not None:
        text = f"Resumed by {aftermath.resumed.actor}"
        lines.append(StoryLine(text=text, at=aftermath.resumed.created_at))
    retried = next(
        (a for a in aftermath.attempts if a.step_index == int(failure_key.partition(":")[0])), None
    )
    if retried is not None:
        lines.append(_outcome(retried))
    state = run.state(now)
    failed_on = run.failure is not None and run.failure.key != failure_key
    if (
        failed_on
        and run.failure is not None
        and state in (RunState.BLOCKED, RunState.FAILED, RunState.CLEARED)
    ):
        if retried is None or f"{retried.step_index}:{retried.sequence}" != run.failure.key:
            why = first_line(run.failure.message)
            text = f"Step {run.failure.step_index} {run.failure.step_name} failed: {why}"
            lines.append(StoryLine(text=text, at=run.failure.failed_at, tone="bad"))
        return Story(lines=(*lines, _what_next(state)), ended=True)
    ending = _ending(run, state, started=bool(lines), retried=retried)
    return Story(lines=(*lines, *ending), ended=state in (RunState.COMPLETED, RunState.CANCELLED))


def _outcome(attempt: AttemptMark) -> StoryLine:
    if attempt.classification is None and attempt.error_message is None:
        return StoryLine(text=f"Step {attempt.step_index} passed", at=attempt.recorded_at)
    why = first_line(attempt.error_message)
    text = f"Step {attempt.step_index} failed again: {why}"
    return StoryLine(text=text, at=attempt.recorded_at, tone="bad")


def _what_next(state: RunState) -> StoryLine:
    words = {
        RunState.BLOCKED: "It waits for a person again.",
        RunState.FAILED: "A runner tries again by itself.",
        RunState.CLEARED: "Somebody decided that too; it waits for a runner.",
    }
    return StoryLine(text=words[state], tone="now")


def _ending(
    run: RunSummary, state: RunState, *, started: bool, retried: AttemptMark | None
) -> tuple[StoryLine, ...]:
    if state is RunState.COMPLETED:
        return (StoryLine(text="The run is completed", at=run.finished_at),)
    if state is RunState.CANCELLED:
        return (StoryLine(text="The run was cancelled", at=run.finished_at, tone="bad"),)
    if state is RunState.INTERRUPTED:
        runner = executor(run.lease_owner) if run.lease_owner else "Its runner"
        words = f"{runner} went silent. Another runner takes over by itself."
        return (StoryLine(text=words, tone="bad"),)
    if state is RunState.RUNNING:
        if retried is None and run.failure is not None:
            return (StoryLine(text=f"Step {run.failure.step_index} is running", tone="now"),)
        of = f" of {run.steps_total}" if run.steps_total else ""
        return (StoryLine(text=f"Going on: {run.steps_completed}{of} steps done", tone="now"),)
    if run.cleared_until is not None:
        words = f"Waiting for a runner. What was decided counts until {utc(run.cleared_until)}"
        return (StoryLine(text=words, tone="now"),)
    return (StoryLine(text="Waiting for a runner", tone="now"),)
