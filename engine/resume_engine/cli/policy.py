"""`resume-engine policy`: who may decide what, and why."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click

from resume_engine.cli.database import database_option, opened
from resume_engine.cli.printing import moment, one_line, table
from resume_engine.cli.question import Question
from resume_engine.cli.runs import choice
from resume_engine.core import clock
from resume_engine.core.actor import Actor, Channel
from resume_engine.core.decision import DecisionKind
from resume_engine.core.errors import RunNotFoundError
from resume_engine.core.gate_progress import run_now, standings
from resume_engine.core.permissions import Role
from resume_engine.core.policy import Policy, PolicyTest
from resume_engine.core.policy_file import POLICY_VARIABLE, policy_from_environment, read_policy
from resume_engine.core.policy_words import failed_expectation, named, needs, why_not
from resume_engine.core.run import Environment

Command = TypeVar("Command", bound=Callable[..., Any])
ALLOWED, REFUSED, UNANSWERED = 0, 1, 2


def policy_option(command: Command) -> Command:
    """Add `--policy FILE` to a command; it arrives as `file`."""
    return click.option(
        "--policy",
        "file",
        metavar="FILE",
        help=f"The policy [default: what {POLICY_VARIABLE} names].",
    )(command)


@click.group()
def policy() -> None:
    """Look at the policy of who may decide what, and try it."""


@policy.command(cls=Question, unanswered=UNANSWERED)
@policy_option
def show(file: str | None) -> None:
    """List the rules in their order; the first that fits a decision counts."""
    found = _read(file)
    if not found.rules:
        click.echo(f"No policy: operators and admins decide, each alone. {POLICY_VARIABLE} names none.")
        return
    click.echo(f"{one_line(found.source or 'policy')}: the first rule that fits counts\n")
    table(
        ("RULE", "DECISIONS", "ENV", "WORKFLOWS", "NEEDS"),
        [
            (
                one_line(rule.name, 40),
                "+".join(kind.value for kind in DecisionKind if kind in rule.decisions),
                "+".join(e.value for e in Environment if e in rule.environments),
                one_line(" ".join(rule.workflows), 40),
                ", ".join(needs(rule.requirement)),
            )
            for rule in found.rules
        ],
    )
    click.echo("\nWhat no rule fits: operators and admins decide, each alone.")


@policy.command(cls=Question, unanswered=UNANSWERED)
@policy_option
@database_option
@click.option("--run", "run_id", metavar="ID", help="Ask about the closed gates of this run.")
@click.option("--kind", type=choice(DecisionKind), help="Ask about this decision.")
@click.option("--environment", type=choice(Environment), default="prod", show_default=True)
@click.option("--workflow", default="any workflow", help="Name of the workflow.")
@click.option("--actor", "name", metavar="NAME", default="somebody", help="Who decides.")
@click.option("--role", type=choice(Role), default="operator", show_default=True)
@click.option("--channel", type=choice(Channel), default="dashboard", show_default=True)
@click.option("--started-by", metavar="NAME", default="somebody else", help="Who started the run.")
@click.option("--edited-by", metavar="NAME", help="Who changed the input of the run.")
def test(file: str | None, database: str, run_id: str | None, kind: str | None, **given: Any) -> None:
    """Say who may decide what, and why; without a question run the tests in the policy file.

    Exit code 0: allowed, or all tests hold. 1: refused, or a test does not hold. 2: no answer; the policy
    or the database cannot be used, the run is unknown, or it waits for no such decision.
    """
    found = _read(file)
    if run_id is not None:
        sys.exit(_about_run(found, database, run_id, kind, given))
    if kind is not None:
        sys.exit(_about_kind(found, DecisionKind(kind), given))
    sys.exit(_own_tests(found))


def _read(file: str | None) -> Policy:
    return read_policy(file) if file else policy_from_environment()


def _own_tests(found: Policy) -> int:
    if not found.tests:
        click.echo(f"The policy can be used: {len(found.rules)} rules. It has no [[test]] of its own.")
        return ALLOWED
    failed = 0
    for expected in found.tests:
        problem = failed_expectation(found, expected)
        failed += problem is not None
        click.echo(f"{'ok    ' if problem is None else 'FAILED'} {one_line(expected.name)}", nl=False)
        click.echo("" if problem is None else f": {one_line(problem)}")
    click.echo(f"{len(found.tests) - failed} of {len(found.tests)} tests hold.")
    return REFUSED if failed else ALLOWED


def _about_kind(found: Policy, kind: DecisionKind, given: dict[str, Any]) -> int:
    asked = PolicyTest(
        name="asked",
        kind=kind,
        environment=Environment(given["environment"]),
        workflow=given["workflow"],
        actor=given["name"],
        role=Role(given["role"]),
        channel=Channel(given["channel"]),
        started_by=given["started_by"],
        input_edited_by=given["edited_by"],
        allowed=True,
    )
    needed = found.requirement(asked.kind, asked.environment, asked.workflow)
    click.echo(f"{kind.value} in {asked.environment.value}: {', '.join(needs(needed))} ({named(needed)}).")
    return _verdict(asked.actor, asked.role, why_not(needed, asked))


def _about_run(found: Policy, database: str, run_id: str, kind: str | None, given: dict[str, Any]) -> int:
    actor = Actor(name=given["name"], role=Role(given["role"]), channel=Channel(given["channel"]))
    at = clock.utc_now()
    with opened(database) as store:
        stored = store.load_summary(run_id)
        if stored is None:
            raise RunNotFoundError(run_id)
        run, decided = run_now(store, stored, at)
        gates = standings(store, run, decided, found, at, names=[actor.name])
    asked = [gate for gate in gates if kind in (None, gate.action.value)]
    if not asked:
        _nothing_waits(run_id, kind)
    verdicts = []
    for gate in asked:
        words = f"; {gate.words}" if gate.words else ""
        click.echo(
            f"{gate.action.value}: {', '.join(needs(gate.requirement))} ({named(gate.requirement)})"
            f"{one_line(words)}."
        )
        if gate.ends_at is not None:
            click.echo(f"What is given counts until {moment(gate.ends_at)}.")
        mine = gate.by(actor)
        reason = gate.objection(actor) if mine is None else "has decided already, another person is needed"
        verdicts.append(_verdict(actor.name, actor.role, reason))
    return max(verdicts)


def _nothing_waits(run_id: str, kind: str | None) -> NoReturn:
    about = f"for {kind}" if kind else "for a decision"
    raise click.ClickException(f"Run {one_line(run_id)} does not wait {about}.")


def _verdict(name: str, role: Role, reason: str | None) -> int:
    if reason is None:
        click.echo(f"{one_line(name)} ({role.value}) may decide.")
        return ALLOWED
    click.echo(f"{one_line(name)} ({role.value}) may not decide: {one_line(reason)}.")
    return REFUSED
