"""What all rows have in common; rows never leave the storage package."""

from __future__ import annotations

from typing import Any

from resume_engine.core.payload import storable
from resume_engine.storage.payload_codec import LockedText, PayloadCodec

AnyRow = Any
"""A SQLAlchemy row; its generic type differs between the 2.0 and 2.1 series."""


def encode_text(text: str | None, codec: PayloadCodec) -> str | None:
    """Return a message or note as stored, None for none."""
    if text is None:
        return None
    return codec.encode_text(text if isinstance(text, LockedText) else storable(text))


def decode_text(text: str | None, codec: PayloadCodec) -> str | None:
    """Return a stored message or note, None for none."""
    return None if text is None else codec.decode_text(text)
