"""What the header of every page shows beside the links."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from flask import Flask, g
from sqlalchemy.exc import SQLAlchemyError

from resume_engine.storage.run_queries import BlockedCount
from webapp.extensions import run_queries

logger = logging.getLogger(__name__)


def blocked_counts() -> Sequence[BlockedCount]:
    """Return what waits for a person; one statement a request, however many parts of a page ask."""
    if "blocked_counts" not in g:
        g.blocked_counts = run_queries().count_blocked()
    found: Sequence[BlockedCount] = g.blocked_counts
    return found


class Navigation:
    """Numbers that are read only by templates that show them: fragments cost no statement."""

    @property
    def gates(self) -> int:
        """Return how many runs wait for a person."""
        try:
            return sum(entry.count for entry in blocked_counts())
        except SQLAlchemyError:
            logger.warning("the number of gates could not be read", exc_info=True)
            return 0  # the page itself says what is wrong


def register(app: Flask) -> None:
    """Give every template `nav`."""
    app.context_processor(lambda: {"nav": Navigation()})
