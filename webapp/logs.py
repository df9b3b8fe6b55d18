"""The log of the server: one line an entry, whatever was in it."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import TextIO

from flask import g, has_request_context, request, session

from resume_engine.cli.printing import one_line
from resume_engine.core.masking import SecretsFilter


class OneLineFormatter(logging.Formatter):
    """Escape what could forge another line or move a terminal's cursor; tracebacks keep their lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the entry as text."""
        text = super().format(record)
        return (
            "\n".join(one_line(line) for line in text.splitlines())
            if record.exc_info or record.exc_text
            else one_line(text)
        )


class JsonFormatter(logging.Formatter):
    """Write an entry as one line of JSON in ASCII: whatever it holds, it can forge nothing."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the entry as JSON."""
        entry = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **request_ids(),
        }
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            entry["traceback"] = record.exc_text
        return json.dumps(entry)


def request_ids() -> dict[str, str]:
    """Return which request this is, whose it is and what run it is about, as far as that is known."""
    if not has_request_context():
        return {}
    ids = {"request_id": g.get("request_id"), "run_id": (request.view_args or {}).get("run_id")}
    with suppress(Exception):  # a log line never fails for what it could also have told
        caller, person = g.get("api_caller"), getattr(session, "person", None)
        ids["actor"] = caller.actor.name if caller is not None else person.email if person else None
    return {name: str(value) for name, value in ids.items() if value}


def handler(log_format: str) -> logging.StreamHandler[TextIO]:
    """Return what writes entries to standard error, secrets masked."""
    writing = logging.StreamHandler(sys.stderr)
    writing.addFilter(SecretsFilter())
    writing.setFormatter(
        JsonFormatter()
        if log_format == "json"
        else OneLineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    return writing


def configure(level: str, log_format: str = "text") -> None:
    """Send the log to standard error from `level` upwards; a library must not do this, a program may."""
    logging.basicConfig(level=level.upper(), handlers=[handler(log_format)], force=True)
    # Its warning about a full queue is about itself, not about anything an operator can do.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
