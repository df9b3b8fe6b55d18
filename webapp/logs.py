"""The log of the server: one line an entry, whatever was in it."""

from __future__ import annotations

import logging
import sys

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


def configure(level: str) -> None:
    """Send the log to standard error from `level` upwards; a library must not do this, a program may."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(SecretsFilter())
    handler.setFormatter(OneLineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Its warning about a full queue is about itself, not about anything an operator can do.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
