"""`resume-engine runs`: look at runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Any

import click

from resume_engine.cli.database import database_option, opened
from resume_engine.cli.person import as_option
from resume_engine.cli.printing import moment, next_step, one_line, table
from resume_engine.cli.reveal import note_reveal, reveal_option
from resume_engine.core.clock import utc_now
from resume_engine.core.errors import RunNotFoundError
from resume_engine.core.gate_progress import with_progress
from resume_engine.core.gate_standing import GateStanding
from resume_engine.core.masking import mask_json_text
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import Environment
from resume_engine.core.run_summary import RunState, RunSummary, blockers_of
from resume_engine.core.step_record import FailureClassification
from resume_engine.storage.keyset import Cursor
from resume_engine.storage.run_filter import RunFilter
from resume_engine.storage.run_queries import RunHead, RunQueries
from resume_engine.storage.step_queries import StepQueries, StepView

COMMAND_OF_ACTION = {
    GateAction.COMPENSATION: "compensate",
    GateAction.HUMAN_APPROVAL: "approve",
    GateAction.PROD_RESUME_ACK: "ack",
}
_LAST_STEPS = 20
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def duration(ctx: click.Context, param: click.Parameter, value: str | None) -> timedelta | None:
    """Return a length of time like 30m, 24h or 7d; complain about anything else."""
    if value is None:
        return None
    number, unit = value[:-1], value[-1:]
    if unit not in _UNITS or not number.isascii() or not number.isdigit() or len(number) > 5:
        raise click.BadParameter(f"{value!r} is not a duration; write 30m, 24h or 7d.", ctx, param)
    return timedelta(**{_UNITS[unit]: int(number)})


def choice(words: type[StrEnum]) -> click.Choice[str]:
    """Return a choice of an enum's values."""
    return click.Choice([word.value for word in words])


@click.group()
def runs() -> None:
    """List runs, or show one."""


@runs.command("list")
@database_option
@click.option("--state", type=choice(RunState), help="As shown in the list: blocked waits for a person.")
@click.option("--workflow", help="Exact workflow name.")
@click.option("--environment", type=choice(Environment))
@click.option("--failure", type=choice(FailureClassification), help="Class of the current failure.")
@click.option("--blocked-by", type=choice(GateAction))
@click.option("--since", callback=duration, metavar="DURATION", help="Created within 30m, 24h, 7d ...")
@click.option("--search", help="Beginning of a run id, or part of a workflow name.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--cursor", metavar="TEXT", help="Go on where the list before ended.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per run.")
def list_runs(database: str, limit: int, cursor: str | None, as_json: bool, **filters: Any) -> None:
    """List runs, newest first."""
    with opened(database) as store:
        page = RunQueries(store).list_runs(
            _run_filter(**filters), cursor=Cursor.decode(cursor) if cursor else None, limit=limit
        )
    now = utc_now()
    if as_json:
        for run in page.items:
            click.echo(json.dumps(summary_json(run)))
        return
    if not page.items:
        click.echo("No run matches." if any(filters.values()) else "There are no runs yet.")
        return
    table(
        ("RUN", "WORKFLOW", "ENV", "STATE", "STEPS", "CREATED", "WAITS FOR / ERROR"),
        [_line(run, run.state(now)) for run in page.items],
    )
    if page.next_cursor:
        click.echo(f"\nMore: add --cursor {page.next_cursor}")
    if any(run.blocked_by for run in page.items):
        next_step("resume-engine gates list")


@runs.command()
@database_option
@click.argument("run_id")
@click.option("--json", "as_json", is_flag=True, help="The whole run with its steps, as JSON.")
@reveal_option
@as_option
def show(database: str, run_id: str, as_json: bool, reveal: bool, name: str | None) -> None:
    """Show a run: what happened, what blocks it, what to do next."""
    with opened(database) as store:
        if as_json:
            run = store.get_run(run_id)
            if run is None:
                raise RunNotFoundError(run_id)
            if reveal:
                note_reveal(store, run_id, "run", name)
            text = json.dumps(run.to_dict(), indent=2)
            click.echo(text if reveal else mask_json_text(text))
            return
        head = RunQueries(store).load_head(run_id)
        if head is None:
            raise RunNotFoundError(run_id)
        first = max(head.summary.next_sequence - _LAST_STEPS, 0)
        steps, _ = StepQueries(store).list_steps(run_id, after=first - 1, limit=_LAST_STEPS)
    _print_head(head)
    _print_steps(steps, earlier=first)
    _print_next(head.summary)


def summary_json(run: RunSummary, progress: Sequence[GateStanding] = ()) -> dict[str, Any]:
    """Return what a list says about a run, as JSON."""
    return {
        "run_id": run.run_id,
        "workflow_name": run.workflow_name,
        "environment": run.environment.value,
        "state": run.state(utc_now()).value,
        "status": run.status.value,
        "created_at": run.created_at.isoformat(),
        "updated_at": run.updated_at.isoformat(),
        "steps_completed": run.steps_completed,
        "steps_total": run.steps_total,
        "resume_from_index": run.resume_from_index,
        "resume_blockers": [b.to_dict() for b in with_progress(blockers_of(run), progress)],
    }


def commands_for(run: RunSummary) -> list[str]:
    """Return the commands that would open the closed gates of a run."""
    return [f"resume-engine gates {COMMAND_OF_ACTION[action]} {run.run_id}" for action in run.blocked_by]


def _run_filter(
    *,
    state: str | None,
    workflow: str | None,
    environment: str | None,
    failure: str | None,
    blocked_by: str | None,
    since: timedelta | None,
    search: str | None,
) -> RunFilter:
    return RunFilter(
        state=RunState(state) if state else None,
        workflow=workflow,
        environment=Environment(environment) if environment else None,
        classification=FailureClassification(failure) if failure else None,
        blocked_by=GateAction(blocked_by) if blocked_by else None,
        since=utc_now() - since if since is not None else None,
        search=search,
    )


def _line(run: RunSummary, state: RunState) -> tuple[str, ...]:
    error = run.failure.message if run.failure else ""
    waits = " + ".join(action.value for action in run.blocked_by)
    return (
        one_line(run.run_id),
        one_line(run.workflow_name, 32),
        run.environment.value,
        state.value,
        progress(run),
        moment(run.created_at),
        one_line(": ".join(part for part in (waits, error) if part), 60),
    )


def progress(run: RunSummary) -> str:
    """Return completed steps of all, as far as the total is known."""
    done = str(run.steps_completed)
    return done if run.steps_total is None else f"{done}/{run.steps_total}"


def _print_head(head: RunHead) -> None:
    run = head.summary
    click.echo(f"Run {one_line(run.run_id)}: {one_line(run.workflow_name)} ({run.environment.value})")
    click.echo(f"State     {run.state(utc_now()).value}")
    click.echo(f"Progress  {progress(run)} steps completed, goes on at step {run.resume_from_index}")
    click.echo(f"Created   {moment(run.created_at)}, changed {moment(run.updated_at)}")
    if run.failure is not None:
        failure = run.failure
        click.echo(
            f"Failure   {failure.key} step {failure.step_index} {one_line(failure.step_name)}: "
            f"{failure.classification.value}, {one_line(failure.error_type or 'error')}: "
            f"{one_line(failure.message, 300)}"
        )
    if run.blocked_by:
        waits = " + ".join(action.value for action in run.blocked_by)
        click.echo(f"Waits for {waits} since {moment(run.blocked_since)}")
    if run.cleared_until is not None and not run.blocked_by:
        click.echo(f"Cleared   until {moment(run.cleared_until)}; resumed later its gates close again")
    for decision in head.decisions:
        note = f": {one_line(decision.note, 200)}" if decision.note else ""
        note = note if decision.opened else f" (more people were needed){note}"
        click.echo(
            f"Decision  {one_line(decision.failure_key)} {decision.kind.value} by "
            f"{one_line(decision.shown_name)} "
            f"({one_line(decision.channel)}) at {moment(decision.decided_at)}{note}"
        )


def _print_steps(steps: list[StepView], *, earlier: int) -> None:
    if not steps:
        click.echo("\nNo step was recorded yet.")
        return
    click.echo(f"\n({earlier} earlier records are not shown; --json has them all.)" if earlier else "")
    table(
        ("SEQ", "STEP", "NAME", "STATUS", "ATTEMPT", "RECORDED", "MS", "ERROR"),
        [
            (
                str(step.sequence),
                str(step.step_index),
                one_line(step.step_name, 40),
                step.status.value,
                str(step.attempt),
                moment(step.recorded_at),
                "-" if step.duration_ms is None else str(step.duration_ms),
                one_line(step.error_message or "", 60),
            )
            for step in steps
        ],
    )


def _print_next(run: RunSummary) -> None:
    state = run.state(utc_now())
    if run.blocked_by:
        next_step("\n      ".join(commands_for(run)))
    elif state in (RunState.CLEARED, RunState.FAILED, RunState.INTERRUPTED):
        next_step("a running worker resumes it, or call engine.resume(run_id, steps).")
