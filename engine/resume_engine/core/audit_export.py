"""Audit events as lines of a file: JSONL and CSV, for pages, API and command line alike."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence

from resume_engine.core.audit import AuditEvent

COLUMNS = (
    "event_id",
    "created_at",
    "event_type",
    "actor",
    "role",
    "channel",
    "run_id",
    "failure_key",
    "note",
    "payload",
)
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def jsonl_lines(events: Iterable[AuditEvent]) -> Iterator[str]:
    """Yield one JSON object per event."""
    for event in events:
        yield json.dumps(event.to_dict()) + "\n"


def csv_lines(events: Iterable[AuditEvent]) -> Iterator[str]:
    """Yield a line of heads, then one per event; no cell is taken for a formula by a spreadsheet."""
    yield _csv_line(COLUMNS)
    for event in events:
        values = event.to_dict() | {"payload": json.dumps(event.payload)}
        yield _csv_line(["" if values[name] is None else formula_safe(str(values[name])) for name in COLUMNS])


def formula_safe(cell: str) -> str:
    """Return a cell with an apostrophe before whatever a spreadsheet would take for a formula."""
    return f"'{cell}" if cell.lstrip(" ").startswith(_FORMULA_STARTS) else cell


def _csv_line(cells: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue()
