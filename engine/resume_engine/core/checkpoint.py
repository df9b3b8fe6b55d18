"""Checkpoints of the audit: what the streams were at one moment, in one hash that somebody signs.

A checkpoint seals the streams that moved since the one before it, and holds the hash of that one: none can
be taken out. Written to a place that the owner of the database cannot change, it proves what was there.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from resume_engine.core.audit_chain import canonical, moment_text
from resume_engine.core.merkle import leaf_hash

_DOMAIN = b"resume-engine/checkpoint/1\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaf:
    """The end of one stream when it was sealed."""

    stream: str
    seq: int
    head: str

    @property
    def hash(self) -> bytes:
        """Return the hash of the leaf in the tree of its checkpoint."""
        return leaf_hash(canonical({"head": self.head, "seq": self.seq, "stream": self.stream}).encode())


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One checkpoint; `root` is of the Merkle tree over its leaves, sorted by stream."""

    number: int
    created_at: datetime
    streams: int
    entries: int
    root: str
    previous_hash: str | None
    key_id: str
    algorithm: str
    signature: str = ""

    @property
    def message(self) -> bytes:
        """Return what is hashed and signed."""
        header = {
            "algorithm": self.algorithm,
            "created_at": moment_text(self.created_at),
            "entries": self.entries,
            "key_id": self.key_id,
            "number": self.number,
            "previous_hash": self.previous_hash,
            "root": self.root,
            "streams": self.streams,
            "v": 1,
        }
        return _DOMAIN + canonical(header).encode()

    @property
    def hash(self) -> str:
        """Return the hash that the next checkpoint holds."""
        return hashlib.sha256(self.message).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the checkpoint as JSON."""
        header: dict[str, Any] = json.loads(self.message.removeprefix(_DOMAIN))
        return header | {"hash": self.hash, "signature": self.signature}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Read a checkpoint; raise KeyError, TypeError or ValueError when it is none."""
        found = cls(
            number=int(data["number"]),
            created_at=datetime.fromisoformat(data["created_at"]),
            streams=int(data["streams"]),
            entries=int(data["entries"]),
            root=str(data["root"]),
            previous_hash=data["previous_hash"],
            key_id=str(data["key_id"]),
            algorithm=str(data["algorithm"]),
            signature=str(data["signature"]),
        )
        if found.hash != data["hash"]:
            raise ValueError(f"checkpoint {found.number} has another hash than what it says")
        return found
