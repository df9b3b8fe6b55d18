"""Payloads as the record holds them."""

from __future__ import annotations

import json
from typing import Any


def encode(data: Any) -> str:
    """Return `data` as JSON text; raise TypeError, ValueError or RecursionError for what JSON cannot hold."""
    return json.dumps(data, allow_nan=False)


def storable(text: str) -> str:
    """Return text that every database accepts: no NUL, no lone surrogates."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def is_storable(text: str) -> bool:
    """Return whether every database accepts `text` as it is."""
    return storable(text) == text


def as_recorded(data: dict[str, Any]) -> dict[str, Any]:
    """Return what a record will hold of `data`, so that a first run sees what a resumed one would."""
    decoded: dict[str, Any] = json.loads(encode(data))
    return decoded
