"""`resume-engine db`: the schema of a database."""

from __future__ import annotations

import click

from resume_engine.cli.database import database_option, refuse_missing_file
from resume_engine.cli.printing import next_step, one_line
from resume_engine.storage.encryption import KEYS_VARIABLE, EncryptedCodec
from resume_engine.storage.key_rotation import rotate_keys as seal_all
from resume_engine.storage.open_store import open_store
from resume_engine.storage.verification import verify as find_faults


@click.group()
def db() -> None:
    """Bring a database to this release's schema, or verify it."""


@db.command()
@database_option
def upgrade(database: str) -> None:
    """Create the schema, or migrate an older database; make a backup first."""
    with open_store(database, check_schema=False) as store:
        before, after = store.upgrade_schema()
        shown = one_line(store.url)
    if before == after:
        click.echo(f"{shown} is at {after} already; nothing was changed.")
    else:
        click.echo(f"Upgraded {shown} from {before} to {after}. Runs, steps and decisions were kept.")
    next_step("resume-engine db verify")


@db.command()
@database_option
def verify(database: str) -> None:
    """Check schema, counters and durable settings without changing anything."""
    refuse_missing_file(database)
    with open_store(database, check_schema=False) as store:
        faults = find_faults(store)
        shown = one_line(store.url)
    for fault in faults:
        click.echo(f"- {one_line(fault)}")
    if faults:
        raise click.ClickException(
            f"{shown} does not pass: {len(faults)} finding(s). An older schema is migrated by "
            "`resume-engine db upgrade`; for anything else restore a backup or report the finding."
        )
    click.echo(f"{shown} is sound: schema, counters and durable settings are as expected.")


@db.command("generate-key")
def generate_key() -> None:
    """Print a new key for RESUME_ENGINE_ENCRYPTION_KEYS; whoever has it can read the payloads."""
    click.echo(EncryptedCodec.generate_key())


@db.command("rotate-keys")
@database_option
def rotate_keys(database: str) -> None:
    """Seal every payload with the first key of RESUME_ENGINE_ENCRYPTION_KEYS, whatever sealed it before.

    What lies in the clear is sealed too. An interrupted rotation goes on where it stopped.
    """
    refuse_missing_file(database)
    with open_store(database) as store:
        count = seal_all(store)
        left_to_do = store.scrub()
        shown = one_line(store.url)
    click.echo(f"{count} row(s) of {shown} were sealed with the newest key; none is left under another.")
    if left_to_do:
        click.echo(f"To remove what was overwritten as well: {left_to_do}.")
    next_step(f"leave the old keys out of {KEYS_VARIABLE}.")
