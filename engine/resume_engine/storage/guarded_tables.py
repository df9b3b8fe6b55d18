"""What the guards of the audit say: which tables are append-only, and by what release 0.2.0 is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from resume_engine.core.audit_chain import CONTROL
from resume_engine.core.run import FINISHED_STATUSES
from resume_engine.storage.payload_codec import SEALED_MARK
from resume_engine.storage.schema import metadata

PREFIX = "audit_guard_"


@dataclass(frozen=True)
class Guard:
    """Something of a database that refuses a write: its name, its table, how it is made and taken away."""

    name: str
    table: str
    make: Sequence[str]
    unmake: str


@dataclass(frozen=True)
class Key:
    """Columns that no two rows share, of all rows or of those where `among` holds."""

    columns: str
    among: str | None = None  # in terms of columns

    @property
    def is_taken(self) -> str:
        """Return the condition that a new row finds its key taken; the index of the key answers it."""
        same = " AND ".join(f"{name} = NEW.{name}" for name in self.columns.split(", "))
        if self.among is None:
            return f"EXISTS (SELECT 1 FROM {{table}} WHERE {same})"
        return f"(NEW.{self.among} AND EXISTS (SELECT 1 FROM {{table}} WHERE {same} AND {self.among}))"


@dataclass(frozen=True)
class Guarded:
    """A table of the audit: what may become sealed, when a row may go, and keys that no other row may take.

    SQLite's `INSERT OR REPLACE` deletes what is in the way without asking its triggers: there an insert
    that finds a key taken is refused, in the words of SQLite itself.
    """

    name: str
    keys: Sequence[Key]
    sealable: Sequence[str] = ()
    kept_while: str | None = None  # in terms of OLD; None: for ever

    @property
    def changes(self) -> Iterator[tuple[str, bool]]:
        """Yield every column, and whether it may become sealed."""
        for column in metadata.tables[self.name].c:
            yield column.name, column.name in self.sealable


RUN_IS_THERE = "EXISTS (SELECT 1 FROM runs WHERE runs.run_id = OLD.run_id)"
GUARDED = (
    Guarded("audit_events", [Key("event_id"), Key("stream, chain_seq")], ["payload_json", "note"]),
    Guarded(
        "step_records",
        [
            Key("id"),
            Key("run_id, sequence, legacy_duplicate"),
            Key("idempotency_key, legacy_duplicate", "status IN ('completed', 'skipped_replay')"),
        ],
        ["input_json", "output_json", "error_message", "error_traceback"],
        RUN_IS_THERE,
    ),
    Guarded(
        "decisions",
        [Key("decision_id"), Key("run_id, failure_key, kind, ordinal")],
        ["note", "result_json"],
        RUN_IS_THERE,
    ),
    Guarded("audit_checkpoints", [Key("checkpoint_id")]),
    Guarded("audit_checkpoint_leaves", [Key("checkpoint_id, stream")]),
)
_FINISHED = ", ".join(f"'{status.value}'" for status in sorted(FINISHED_STATUSES))
UNFINISHED = f"OLD.status NOT IN ({_FINISHED})"
# The head of a run's chain moves before its events are written; that of the control stream afterwards.
OUT_OF_PLACE = f"""
    NEW.stream IS NULL OR NEW.chain_seq IS NULL OR NEW.chain_hash IS NULL
    OR (NEW.stream = '{CONTROL}' AND NOT EXISTS (
        SELECT 1 FROM audit_streams s WHERE s.stream = NEW.stream
        AND s.chain_seq + 1 = NEW.chain_seq AND s.chain_head = COALESCE(NEW.prev_hash, '')))
    OR (NEW.stream <> '{CONTROL}' AND NOT EXISTS (
        SELECT 1 FROM runs r WHERE r.run_id = NEW.stream
        AND (r.chain_seq > NEW.chain_seq OR (r.chain_seq = NEW.chain_seq AND r.chain_head = NEW.chain_hash))))
"""
OLD_RELEASE = (
    "this database was upgraded, and release 0.2.0 of resume_engine may not write to it any more: "
    "update the package (pip install --upgrade resume_engine) or record over HTTP (RemoteCheckpointStore)"
)
"""What a process of 0.2.0 is told. A new row of its own lacks these columns, and it counts no version."""
FILLED = {"runs": "chain_head", "step_records": "chain_hash"}
UNVERSIONED = "NEW.version = OLD.version"
TOUCHED = "NEW.updated_at <> OLD.updated_at"
HEAD_JUMPS = "NEW.stream <> OLD.stream OR NEW.chain_seq <> OLD.chain_seq + 1"


def is_sealed(column: str) -> str:
    """Return the condition that a payload became a sealed one."""
    return f"substr(NEW.{column}, 1, {len(SEALED_MARK)}) = '{SEALED_MARK}'"


REDECIDED = (
    "(NEW.status <> OLD.status "
    f"OR (NEW.metadata_json <> OLD.metadata_json AND NOT {is_sealed('metadata_json')}))"
)
