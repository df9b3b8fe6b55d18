"""Keyset pages: a page starts behind a row, not after a number of rows, so page 1,000 costs what 1 costs."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from resume_engine.core.clock import as_utc
from resume_engine.core.errors import InvalidValueError

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """Point between two rows of a list ordered by (time, id); `backwards` asks for the rows before it."""

    moment: datetime
    row_id: str
    backwards: bool = False

    def encode(self) -> str:
        """Return the cursor as URL-safe text."""
        parts = [self.moment.isoformat(), self.row_id, int(self.backwards)]
        return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Read a cursor; raise `InvalidValueError` for text that `encode` did not write."""
        try:
            padded = text.encode("ascii") + b"=" * (-len(text) % 4)
            moment, row_id, backwards = json.loads(base64.urlsafe_b64decode(padded))
            row_id = str(row_id)[:64]
            if "\x00" in row_id:
                raise ValueError("no id holds a NUL")
            row_id.encode()  # a lone surrogate is no text for a database
            return cls(
                moment=as_utc(datetime.fromisoformat(moment)), row_id=row_id, backwards=bool(backwards)
            )
        except (ValueError, TypeError, OverflowError, binascii.Error, RecursionError) as problem:
            raise InvalidValueError(
                "cursor", "is not one of ours; start again at the first page"
            ) from problem


@dataclass(frozen=True, kw_only=True)
class Page(Generic[Item]):
    """One page of a list, with the cursors of its neighbours (None at an end)."""

    items: Sequence[Item]
    next_cursor: str | None = None
    previous_cursor: str | None = None


def cut_page(
    fetched: Sequence[Item], cursor: Cursor | None, limit: int, key: Callable[[Item], tuple[datetime, str]]
) -> Page[Item]:
    """Return the page out of up to `limit` + 1 rows fetched in the direction of `cursor`."""
    more = len(fetched) > limit
    items = list(fetched[:limit])
    backwards = cursor is not None and cursor.backwards
    if backwards:
        items.reverse()
    if not items:
        return Page(items=items)
    has_next, has_previous = (True, more) if backwards else (more, cursor is not None)
    first, last = key(items[0]), key(items[-1])
    return Page(
        items=items,
        next_cursor=Cursor(moment=last[0], row_id=last[1]).encode() if has_next else None,
        previous_cursor=(
            Cursor(moment=first[0], row_id=first[1], backwards=True).encode() if has_previous else None
        ),
    )
