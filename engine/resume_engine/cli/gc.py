"""`resume-engine gc`: remove runs that were finished long ago."""

from __future__ import annotations

from datetime import timedelta

import click

from resume_engine.cli.database import database_option, opened
from resume_engine.cli.person import as_option, person
from resume_engine.cli.printing import moment, next_step
from resume_engine.cli.runs import duration
from resume_engine.core.clock import utc_now
from resume_engine.storage.garbage import collect, count_unforwarded


@click.command()
@database_option
@click.option(
    "--older-than",
    required=True,
    callback=duration,
    metavar="DURATION",
    help="Only runs that were completed or cancelled so long ago: 90d, 36h ...",
)
@click.option("--dry-run", is_flag=True, help="Say what would be deleted; delete nothing.")
@click.option(
    "--unforwarded",
    is_flag=True,
    help="Also runs that are to be forwarded to a control plane, and are not there yet.",
)
@as_option
def gc(database: str, older_than: timedelta, dry_run: bool, unforwarded: bool, name: str | None) -> None:
    """Delete completed and cancelled runs with their steps and decisions; their audit events are kept.

    A run that waits for a person or is being executed is never deleted, nor is one that is recorded here
    first and not on the control plane yet. Batches are transactions of their own: an interrupted collection
    is simply started again.
    """
    before = utc_now() - older_than
    found = records = decided = 0
    with opened(database) as store:
        kept = 0 if unforwarded else count_unforwarded(store, before)
        for garbage in collect(store, before, actor=person(name), dry_run=dry_run, unforwarded=unforwarded):
            found += len(garbage.run_ids)
            records += garbage.step_records
            decided += garbage.decisions
    if kept:
        click.echo(f"Kept {_count(kept, 'finished run')}: not on the control plane yet.")
    if not found:
        click.echo(f"No run was finished before {moment(before)}; nothing to delete.")
        return
    done = "Would delete" if dry_run else "Deleted"
    click.echo(
        f"{done} {_count(found, 'run')} finished before {moment(before)}, "
        f"with {_count(records, 'step record')} and {_count(decided, 'decision')}."
    )
    if dry_run:
        next_step("the same command without --dry-run deletes them. Their audit events are kept.")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
