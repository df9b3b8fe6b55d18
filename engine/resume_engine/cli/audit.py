"""`resume-engine audit`: the audit trail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TextIO

import click

from resume_engine.cli.database import database_option, opened
from resume_engine.cli.person import as_option, person
from resume_engine.cli.printing import moment, one_line, table
from resume_engine.cli.reveal import note_reveal, reveal_option
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.audit_export import csv_lines, jsonl_lines
from resume_engine.core.clock import utc_now
from resume_engine.core.errors import RunNotFoundError
from resume_engine.core.masking import mask_json_text
from resume_engine.core.run import trace_lines
from resume_engine.storage.audit_queries import AuditQueries, EventFilter
from resume_engine.storage.compliance_export import compliance_export
from resume_engine.storage.sealing import seal
from resume_engine.storage.signing import signer_from_environment
from resume_engine.storage.sql_store import SqlCheckpointStore


@click.group()
def audit() -> None:
    """Show or export audit events and traces."""


@audit.command()
@database_option
@click.argument("run_id", required=False)
@click.option("--actor", help="Only what this person or worker did.")
@click.option("--kind", help="An event type, or a family like `gate.`")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
def show(database: str, run_id: str | None, actor: str | None, kind: str | None, limit: int) -> None:
    """Show the latest governance events, of one run or of all."""
    with opened(database) as store:
        _require_run(store, run_id)
        wanted = EventFilter(run_id=run_id, actor=actor, kind=kind)
        events, more = AuditQueries(store).list_events(wanted, limit=limit)
    if not events:
        click.echo("No event matches." if run_id or actor or kind else "There are no events yet.")
        return
    table(("TIME", "EVENT", "ACTOR", "CHANNEL", "RUN", "DETAILS"), [_line(event) for event in events])
    if more:
        click.echo("\nThere are older events; raise --limit, or use `resume-engine audit export`.")


@audit.command()
@database_option
@click.argument("run_id", required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["trace", "jsonl", "csv"]),
    help="trace: the deterministic trace of a run [default with RUN_ID]; jsonl, csv: the events.",
)
@click.option(
    "--bundle", is_flag=True, help="All of a run in one JSON file that proves itself; seals the audit first."
)
@reveal_option
@as_option
@click.option("--output", type=click.File("w", encoding="utf-8", lazy=False), default="-")
def export(
    database: str,
    run_id: str | None,
    form: str | None,
    bundle: bool,
    reveal: bool,
    name: str | None,
    output: TextIO,
) -> None:
    """Write the audit trail of a run, or of everything; the export is an audit event too."""
    if bundle and (run_id is None or form is not None):
        raise click.UsageError(
            "A bundle is of one run and has its own format: give RUN_ID, leave out --format."
        )
    form = "bundle" if bundle else form
    form = form or ("trace" if run_id else "jsonl")
    if form == "trace" and run_id is None:
        raise click.UsageError("A trace belongs to one run: add its RUN_ID, or choose --format jsonl.")
    if reveal and form not in ("trace", "bundle"):
        raise click.UsageError("Events are always masked; --reveal goes with --format trace or --bundle.")
    with opened(database) as store:
        _require_run(store, run_id)
        store.append_event(
            AuditEvent.by(
                person(name), EventType.AUDIT_EXPORTED, utc_now(), run_id=run_id, payload={"format": form}
            )
        )
        count = 0
        if reveal and run_id is not None:
            note_reveal(store, run_id, "audit log", name)
        for line in _lines(store, run_id, form, reveal=reveal):
            output.write(line)
            count += 1
    if output.name != "-" and output.name != "<stdout>":
        click.echo(f"Wrote {count} lines to {one_line(output.name)}.", err=True)


def _lines(store: SqlCheckpointStore, run_id: str | None, form: str, *, reveal: bool) -> Iterator[str]:
    if form == "bundle" and run_id is not None:
        signer = signer_from_environment()
        seal(store, signer)
        yield from compliance_export(store, run_id, signer=signer, reveal=reveal)
        return
    queries = AuditQueries(store)
    if form == "trace" and run_id is not None:
        trace = _trace(store, run_id)
        yield from trace if reveal else map(mask_json_text, trace)
        return
    events = queries.stream_run(run_id) if run_id else queries.stream(EventFilter())
    yield from csv_lines(events) if form == "csv" else jsonl_lines(events)


def _trace(store: SqlCheckpointStore, run_id: str) -> Iterator[str]:
    """Yield the trace with no newline behind its last line: byte for byte what `get_audit_log` returns."""
    run = store.load_summary(run_id)
    if run is None:
        raise RunNotFoundError(run_id)
    for number, line in enumerate(trace_lines(run_id, run.workflow_name, store.iter_steps(run_id))):
        yield f"\n{line}" if number else line


def _require_run(store: SqlCheckpointStore, run_id: str | None) -> None:
    if run_id is not None and store.load_summary(run_id) is None:
        raise RunNotFoundError(run_id)


def _line(event: AuditEvent) -> tuple[str, ...]:
    details = [event.failure_key or "", event.note or "", json.dumps(event.payload) if event.payload else ""]
    return (
        moment(event.created_at),
        one_line(event.event_type),
        one_line(event.actor, 40),
        one_line(event.channel),
        one_line(event.run_id or "-"),
        one_line(" ".join(part for part in details if part), 100),
    )
