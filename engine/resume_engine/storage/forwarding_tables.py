"""What a machine that records here first knows of the control plane it forwards to."""

from __future__ import annotations

from sqlalchemy import Column, Integer, String, Table, Text

from resume_engine.storage.table_base import UtcDateTime, metadata

# On a machine that records here first: how far each run was forwarded to the control plane.
forwarded_runs = Table(
    "forwarded_runs",
    metadata,
    Column("run_id", String(36), primary_key=True),
    Column("records", Integer, nullable=False),  # so many step records are acknowledged there
    Column("version", Integer, nullable=False),  # of the run here, when all of it was there; -1: never
    Column("conflict", Text),  # why it is no longer forwarded
)

# Where the runs of this database are forwarded to: until they are there, they are nowhere else.
control_planes = Table(
    "control_planes",
    metadata,
    Column("address", String(2_000), primary_key=True),
    Column("since", UtcDateTime, nullable=False),
)
