"""Secrets at the command line: masked, unless asked for and recorded."""

from __future__ import annotations

import click

from resume_engine.cli.person import person
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.clock import utc_now
from resume_engine.storage.sql_store import SqlCheckpointStore

reveal_option = click.option(
    "--reveal", is_flag=True, help="Do not mask passwords, tokens and the like; recorded as an audit event."
)


def note_reveal(store: SqlCheckpointStore, run_id: str, field: str, name: str | None) -> None:
    """Record who sees what of a run, before it is printed."""
    event = AuditEvent.by(
        person(name), EventType.PAYLOAD_REVEALED, utc_now(), run_id=run_id, payload={"field": field}
    )
    store.append_event(event)
