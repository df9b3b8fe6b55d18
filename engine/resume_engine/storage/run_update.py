"""The row of a run, moved on by one change while it still stands at the version the change is based on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, update

from resume_engine.core.errors import StaleRunError
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.storage import run_rows
from resume_engine.storage.payload_codec import PayloadCodec
from resume_engine.storage.schema import runs


def update_run_in_tx(
    conn: Connection,
    change: RunChange,
    after: RunSummary,
    codec: PayloadCodec,
    database_now: Callable[[float], Any],
) -> None:
    """Write what a change makes of the row, by the database's clock; raise `StaleRunError` if it moved on."""
    values = run_rows.summary_values(after, codec)
    if after.failure == change.before.failure:
        del values["failure_message"]  # it stands already, and sealing it anew would only cost time
    if change.workflow is not None:
        values["workflow_json"] = json.dumps(list(change.workflow))
    if change.initial_input is not None:
        values["initial_input_json"] = codec.encode(change.initial_input)
    if change.metadata is not None:
        values["metadata_json"] = run_rows.encode_metadata(change.metadata, codec)
    statement = update(runs)
    if change.lease_seconds is not None:
        del values["lease_expires_at"]
        statement = statement.values(lease_expires_at=database_now(change.lease_seconds))
    elif after.lease_expires_at == change.before.lease_expires_at:
        del values["lease_expires_at"]  # a heartbeat may have moved it since
    still = [runs.c.run_id == after.run_id, runs.c.version == change.before.version]
    if change.before.lease_owner is not None and after.lease_token != change.before.lease_token:
        # A heartbeat does not change the version: an owner that lives after all keeps its run.
        still.append(runs.c.lease_expires_at == change.before.lease_expires_at)
    written = conn.execute(statement.where(*still), values)
    if written.rowcount != 1:
        raise moved_on(change)


def moved_on(change: RunChange) -> StaleRunError:
    """Return the error for a change that was based on an outdated version of its run."""
    return StaleRunError(change.before.run_id, f"version {change.before.version}", "a newer version")
