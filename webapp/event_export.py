"""Audit events as files: JSON Lines, which loses nothing, and CSV, which no spreadsheet runs as a formula."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from flask import Response

from resume_engine.core.audit import AuditEvent
from resume_engine.core.idempotency import canonical_json

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
LINES_PER_CHUNK = 200  # a chunk of some tens of kB: few writes, little memory
# What a spreadsheet takes for the beginning of a formula, and what may hide one.
_FORMULA = re.compile(r"\s*[=+\-@\t\r\n\x00]")


@dataclass(frozen=True, kw_only=True)
class Format:
    """One way to write events down."""

    name: str
    content_type: str
    lines: Callable[[Iterable[AuditEvent]], Iterator[str]]


def jsonl_lines(events: Iterable[AuditEvent]) -> Iterator[str]:
    """Yield one JSON object a line."""
    for event in events:
        yield json.dumps(event.to_dict(), ensure_ascii=False, sort_keys=True) + "\n"


def csv_lines(events: Iterable[AuditEvent]) -> Iterator[str]:
    """Yield a header line, then one line an event, quoted as RFC 4180 says."""
    yield _csv_line(COLUMNS)
    for event in events:
        values = event.to_dict() | {"payload": canonical_json(event.payload) if event.payload else None}
        yield _csv_line([cell(values[name]) for name in COLUMNS])


def cell(value: object) -> str:
    """Return a value as text that a spreadsheet shows and never executes."""
    text = "" if value is None else str(value)
    return f"'{text}" if _FORMULA.match(text) else text


FORMATS: dict[str, Format] = {
    "jsonl": Format(name="jsonl", content_type="application/x-ndjson; charset=utf-8", lines=jsonl_lines),
    "csv": Format(name="csv", content_type="text/csv; charset=utf-8", lines=csv_lines),
}


def download(events: Iterable[AuditEvent], format_name: str, file_stem: str) -> Response:
    """Return the events as a file that is sent while it is read; raise KeyError for an unknown format."""
    chosen = FORMATS[format_name]
    response = Response(_chunks(chosen.lines(events)), content_type=chosen.content_type)
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", file_stem)[:100]
    response.headers["Content-Disposition"] = f'attachment; filename="{safe}.{chosen.name}"'
    return response


def _chunks(lines: Iterator[str]) -> Iterator[bytes]:
    held: list[str] = []
    for line in lines:
        held.append(line)
        if len(held) >= LINES_PER_CHUNK:
            yield "".join(held).encode("utf-8", "backslashreplace")
            held.clear()
    if held:
        yield "".join(held).encode("utf-8", "backslashreplace")


def _csv_line(values: Iterable[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(values)
    return line.getvalue()
