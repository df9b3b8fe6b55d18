"""`resume-engine gates`: what waits for a person, and the decisions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from resume_engine.cli.database import database_option, opened
from resume_engine.cli.person import as_option, person
from resume_engine.cli.printing import moment, next_step, one_line, table
from resume_engine.cli.runs import choice, commands_for, summary_json
from resume_engine.core.clock import utc_now
from resume_engine.core.decisions import DecisionKind, DecisionRequest, decide
from resume_engine.core.gate_standing import GateStanding
from resume_engine.core.policy_file import policy_from_environment
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import Environment, RunStatus
from resume_engine.core.run_summary import RunSummary
from resume_engine.storage.gate_queries import GateQueries
from resume_engine.storage.keyset import Cursor
from resume_engine.storage.run_queries import RunQueries

Command = TypeVar("Command", bound=Callable[..., Any])

_DONE = {
    DecisionKind.HUMAN_APPROVAL: "Approved",
    DecisionKind.COMPENSATION: "Compensation recorded",
    DecisionKind.PROD_RESUME_ACK: "Prod resume acknowledged",
    DecisionKind.REJECT: "Rejected",
}


@click.group()
def gates() -> None:
    """List what waits for a person, and decide it."""


@gates.command("list")
@database_option
@click.option("--kind", type=choice(GateAction), help="Only runs that wait for this.")
@click.option("--environment", type=choice(Environment))
@click.option("--workflow", help="Exact workflow name.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--cursor", metavar="TEXT", help="Go on where the list before ended.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per run.")
def list_gates(
    database: str,
    kind: str | None,
    environment: str | None,
    workflow: str | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List everything that waits for a person, the longest waiting first."""
    policy = policy_from_environment()
    with opened(database) as store:
        page = RunQueries(store).list_blocked(
            action=GateAction(kind) if kind else None,
            environment=Environment(environment) if environment else None,
            workflow=workflow,
            cursor=Cursor.decode(cursor) if cursor else None,
            limit=limit,
        )
        progress = GateQueries(store).progress(page.items, policy, utc_now())
    if as_json:
        for run in page.items:
            click.echo(json.dumps(summary_json(run, progress.get(run.run_id, ()))))
        return
    if not page.items:
        narrowed = kind or environment or workflow
        click.echo("Nothing that matches waits for a person." if narrowed else "Nothing waits for a person.")
        return
    table(
        ("RUN", "WORKFLOW", "ENV", "FAILURE", "STEP", "SINCE", "WAITS FOR", "ERROR"),
        [_line(run, progress.get(run.run_id, ())) for run in page.items],
    )
    if page.next_cursor:
        click.echo(f"\nMore: add --cursor {page.next_cursor}")
    next_step("\n      ".join(commands_for(page.items[0])))


def _line(run: RunSummary, progress: Sequence[GateStanding]) -> tuple[str, ...]:
    failure = run.failure
    words = {gate.action: f" ({one_line(gate.words)})" for gate in progress if gate.words}
    return (
        one_line(run.run_id),
        one_line(run.workflow_name, 32),
        run.environment.value,
        failure.key if failure else "-",
        one_line(failure.step_name, 32) if failure else "-",
        moment(run.blocked_since),
        " + ".join(action.value + words.get(action, "") for action in run.blocked_by),
        one_line(failure.message, 60) if failure else "",
    )


def _decision_options(command: Command) -> Command:
    """Add what every decision takes: run, database, who, and the failure that was looked at."""
    for option in (
        click.option(
            "--failure",
            "failure_key",
            metavar="KEY",
            help="The failure you looked at (column FAILURE); refused if the run moved on since.",
        ),
        as_option,
        database_option,
        click.argument("run_id"),
    ):
        command = option(command)
    return command


@gates.command()
@_decision_options
@click.option("--note", help="Why the step may run again.")
def approve(run_id: str, note: str | None, **given: Any) -> None:
    """Let the step of a permanent failure run again."""
    _decide(DecisionKind.HUMAN_APPROVAL, run_id, note=note, **given)


@gates.command()
@_decision_options
@click.option("--note", help="What was undone.")
@click.option("--result", metavar="JSON", help='What came of it, for example {"refund_id": "r-1"}.')
def compensate(run_id: str, note: str | None, result: str | None, **given: Any) -> None:
    """Record that the side effects of a partial failure were undone."""
    _decide(DecisionKind.COMPENSATION, run_id, note=note, result=_parsed(result), **given)


@gates.command()
@_decision_options
@click.option("--note", help="What was checked before the resume in prod.")
def ack(run_id: str, note: str | None, **given: Any) -> None:
    """Acknowledge that a run in prod is resumed."""
    _decide(DecisionKind.PROD_RESUME_ACK, run_id, note=note, **given)


@gates.command()
@_decision_options
@click.option("--note", "--reason", required=True, help="Why the run is cancelled.")
def reject(run_id: str, note: str, **given: Any) -> None:
    """Cancel a failed run, for good."""
    _decide(DecisionKind.REJECT, run_id, note=note, **given)


def _decide(
    kind: DecisionKind,
    run_id: str,
    *,
    database: str,
    name: str | None,
    failure_key: str | None,
    note: str | None,
    result: dict[str, Any] | None = None,
) -> None:
    request = DecisionRequest(
        run_id=run_id, kind=kind, actor=person(name), failure_key=failure_key, note=note, result=result
    )
    policy = policy_from_environment()
    with opened(database) as store:
        run, decision = decide(store, request, policy)
        progress = GateQueries(store).progress([run], policy, utc_now()).get(run_id, [])
    click.echo(
        f"{_DONE[kind]}: run {one_line(run_id)}, failure {one_line(decision.failure_key)}, "
        f"by {one_line(decision.actor)} at {moment(decision.decided_at)}."
    )
    for gate in progress:
        if gate.action.value == kind.value:
            click.echo(f"That is {one_line(gate.words)}. {plural(gate.missing)} needed.")
    if run.cleared_until is not None:
        click.echo(f"It counts until {moment(run.cleared_until)}; resume the run before that.")
    _say_what_follows(run)


def plural(people: int) -> str:
    """Return how many other people are meant, as the beginning of a sentence."""
    return "Another person is" if people == 1 else f"{people} other people are"


def _say_what_follows(run: RunSummary) -> None:
    if run.status is RunStatus.CANCELLED:
        click.echo("The run is cancelled for good; nothing more is written to it.")
    elif run.blocked_by:
        waits = " + ".join(action.value for action in run.blocked_by)
        failure = f" (failure {run.failure.key})" if run.failure else ""
        click.echo(f"The run still waits for {waits}{failure}.")
        next_step("\n      ".join(commands_for(run)))
    else:
        click.echo("No gate of the run is closed now.")
        next_step("a running worker resumes it, or call engine.resume(run_id, steps).")


def _parsed(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        result = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise click.BadParameter(f"is not JSON: {one_line(problem)}", param_hint="--result") from problem
    if not isinstance(result, dict):
        raise click.BadParameter('must be a JSON object like {"refund_id": "r-1"}', param_hint="--result")
    return result
