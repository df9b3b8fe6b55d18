"""Canonical JSON, input hashes, idempotency keys and run ids.

The formulas are part of the contract: records written by 0.2.0 carry the same values.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any

from resume_engine.core.errors import IdempotencyCollisionError

__all__ = [
    "IdempotencyCollisionError",
    "canonical_json",
    "generate_idempotency_key",
    "generate_run_id",
    "hash_input",
]


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=str)


def canonical_json(data: Any) -> str:
    """Return `data` as JSON with sorted keys and no spaces; what JSON lacks is written by `str`."""
    return _CANONICAL.encode(data)


def hash_input(data: dict[str, Any]) -> str:
    """Return the SHA-256 hex digest (64 characters) of the canonical JSON of a step's input."""
    return hashlib.sha256(canonical_json(data).encode("utf-8")).hexdigest()


def generate_idempotency_key(run_id: str, step_name: str, step_index: int, input_hash: str) -> str:
    """Return the key of one step call: SHA-256 hex of `run_id:step_name:step_index:input_hash`."""
    material = f"{run_id}:{step_name}:{step_index}:{input_hash}"
    return hashlib.sha256(material.encode("utf-8")).hexdigest()


def generate_run_id() -> str:
    """Return a new random run id (UUID4, 36 characters)."""
    return str(uuid.uuid4())
