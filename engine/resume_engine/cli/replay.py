"""`resume-engine replay`: does this workflow still fit what was recorded?"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Sequence

import click

from resume_engine.cli.database import database_option, opened
from resume_engine.cli.printing import one_line
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import InvalidValueError, ReplayDivergenceError, ResumeEngineError
from resume_engine.core.step import Step, as_steps

DIVERGED = 1
UNUSABLE = 2


class Unusable(click.ClickException):
    """What was asked for could not be read: nothing was compared."""

    exit_code = UNUSABLE


@click.command()
@database_option
@click.option(
    "--workflow",
    "source",
    required=True,
    metavar="MODULE:STEPS",
    help="Where the steps are: a list of them, or a function that returns one. Looked for from here.",
)
@click.argument("run_id")
def replay(database: str, source: str, run_id: str) -> None:
    """Walk a workflow against the record of a run, without calling a step and without writing.

    Exit code 0: it gives the recorded trace byte for byte. 1: it does not; the first difference is shown.
    2: the run or the workflow could not be read.
    """
    steps = steps_from(source)
    from resume_engine.storage.open_store import DATABASE_ERRORS, describe_database_error

    try:
        with opened(database) as store:
            run, trace = ResumeEngine(store).replay_run(run_id, steps)
    except ReplayDivergenceError as divergence:
        for line in str(divergence).split("\n"):
            click.echo(one_line(line))
        sys.exit(DIVERGED)
    except (ResumeEngineError, click.ClickException) as error:
        raise Unusable(one_line(error)) from error
    except DATABASE_ERRORS as error:
        reason = one_line(describe_database_error(error))
        raise Unusable(f"The database cannot be used: {reason}.") from error
    done = len(run.completed_indexes())
    click.echo(
        f"Identical: run {one_line(run.run_id)} ({one_line(run.workflow_name)}), {done} completed steps."
    )
    click.echo(f"Trace SHA-256: {hashlib.sha256(trace.encode()).hexdigest()}")


def steps_from(source: str) -> Sequence[Step]:
    """Return the steps that `module:attribute` names; complain about anything else."""
    module_name, colon, path = source.partition(":")
    if not (module_name and colon and path):
        raise click.BadParameter(
            "write it as module:steps, for example billing.flow:STEPS", param_hint="--workflow"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: object = importlib.import_module(module_name)
        for name in path.split("."):
            found = getattr(found, name)
        return as_steps(found() if callable(found) else found)  # type: ignore[arg-type]
    except InvalidValueError as problem:
        raise click.BadParameter(
            f"{one_line(source)}: {one_line(problem)}", param_hint="--workflow"
        ) from problem
    except Exception as problem:  # whatever a module of the user's raises while it is loaded
        reason = f"{type(problem).__name__}: {one_line(problem, 300)}"
        raise click.BadParameter(
            f"{one_line(source)} cannot be loaded ({reason})", param_hint="--workflow"
        ) from problem
