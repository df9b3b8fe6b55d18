"""Payloads as the record holds them."""

from __future__ import annotations

import json
from json.encoder import encode_basestring_ascii
from typing import Any

from resume_engine.core import codec
from resume_engine.core.errors import PayloadError
from resume_engine.core.idempotency import canonical_json, hash_input

MAX_REQUEST_BYTES = 10_000_000
"""What a control plane takes at once, and a client sends."""
_SAME_WHEN_READ = frozenset({str, int, float, bool, type(None)})


def encode(data: Any) -> str:
    """Return `data` as JSON text; raise TypeError, ValueError or RecursionError for what cannot be kept."""
    return codec.dumps(data)


def sent_length(text: str) -> int:
    """Return how long a payload text is when it is sent: as a JSON string, every character of it ASCII."""
    return len(encode_basestring_ascii(text))


def storable(text: str) -> str:
    """Return text that every database accepts: no NUL, no lone surrogates."""
    if text.isascii() and "\x00" not in text:
        return text
    clean = text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
    return text if clean == text else clean


def is_storable(text: str) -> bool:
    """Return whether every database accepts `text` as it is."""
    return storable(text) == text


def as_recorded(data: dict[str, Any]) -> dict[str, Any]:
    """Return what a record will hold of `data`, so that a first run sees what a resumed one would."""
    return from_text(codec.dumps(data))


def from_text(text: str) -> dict[str, Any]:
    """Return the payload that `encode` wrote: a new object each time."""
    decoded: dict[str, Any] = codec.loads(text)
    return decoded


def recorded_output(output: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the text of an output and what a record holds of it, a new object; raise as `encode` does."""
    text = codec.dumps(output)
    for name, value in output.items():
        if type(name) is not str or type(value) not in _SAME_WHEN_READ:
            return text, from_text(text)
    if codec.ENVELOPE in output or "\\ud" in text:  # halves of a character become one when they are read
        return text, from_text(text)
    return text, dict(output)


def payload_hash(data: dict[str, Any], text: str | None = None) -> str:
    """Return the hash of what a record holds of `data`: `hash_input` of plain JSON, of the tagged form else.

    The text of an object may leave fields out; two inputs that differ must not look the same. `text` is
    what `encode` wrote of `data`, when the caller has it.
    """
    written = codec.dumps(data) if text is None else text
    return hash_input(json.loads(written) if codec.TAG in written else data)


def is_hash_of(input_hash: str, text: str) -> bool:
    """Return whether an input hash was made of the input that a record holds as `text`."""
    try:
        return hash_input(json.loads(hashed_text(input_hash, text))) == input_hash
    except (PayloadError, ValueError, TypeError):
        return False


def hashed_text(input_hash: str, text: str) -> str:
    """Return the JSON text that an input hash was made of, where it is that of an input held as `text`.

    An input that looks like an envelope stands in one, and its hash is of the input itself.
    """
    written = json.loads(text)
    if codec.ENVELOPE not in written or codec.TAG in text or hash_input(written) == input_hash:
        return text
    return canonical_json(codec.from_json(written))
