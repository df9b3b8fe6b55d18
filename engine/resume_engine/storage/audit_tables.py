"""The audit: its events, the ends of its chains, and signed checkpoints of them."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, String, Table, Text

from resume_engine.storage.table_base import UtcDateTime, metadata

audit_events = Table(
    "audit_events",
    metadata,
    Column("event_id", Integer, primary_key=True, autoincrement=True),
    Column("event_type", String(64), nullable=False),
    Column("run_id", String(36)),
    Column("actor", String(255), nullable=False),
    Column("role", String(32), nullable=False),
    Column("channel", String(32), nullable=False),
    Column("failure_key", String(32)),
    Column("note", Text),
    Column("payload_json", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # The chain an event stands in: its run's, or "control" for what changes no run.
    Column("stream", String(36)),
    Column("chain_seq", Integer),
    Column("prev_hash", String(64)),
    Column("chain_hash", String(64)),
)
_newest = (audit_events.c.created_at, audit_events.c.event_id)
Index("ix_audit_events_created", *_newest)
Index("ix_audit_events_run", audit_events.c.run_id, *_newest)
Index("ix_audit_events_type", audit_events.c.event_type, *_newest)
Index("ix_audit_events_actor", audit_events.c.actor, *_newest, audit_events.c.event_type)
Index("uq_audit_events_stream", audit_events.c.stream, audit_events.c.chain_seq, unique=True)

# The last entry of every chain that is not a run's own; runs keep theirs on their row.
audit_streams = Table(
    "audit_streams",
    metadata,
    Column("stream", String(36), primary_key=True),
    Column("chain_seq", Integer, nullable=False),
    Column("chain_head", String(64), nullable=False),
)

audit_checkpoints = Table(
    "audit_checkpoints",
    metadata,
    Column("checkpoint_id", Integer, primary_key=True, autoincrement=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("streams", Integer, nullable=False),  # how many moved since the checkpoint before
    Column("entries", Integer, nullable=False),
    Column("root", String(64), nullable=False),
    Column("previous_hash", String(64)),
    Column("hash", String(64), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("algorithm", String(16), nullable=False),
    Column("signature", Text, nullable=False),
)

audit_checkpoint_leaves = Table(
    "audit_checkpoint_leaves",
    metadata,
    Column("checkpoint_id", Integer, primary_key=True),
    Column("stream", String(36), primary_key=True),
    Column("chain_seq", Integer, nullable=False),
    Column("chain_head", String(64), nullable=False),
)
Index(
    "ix_audit_checkpoint_leaves_stream",
    audit_checkpoint_leaves.c.stream,
    audit_checkpoint_leaves.c.checkpoint_id,
)
