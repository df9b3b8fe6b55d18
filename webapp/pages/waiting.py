"""How many runs wait for a person: one answer for heading and tabs of the queue, overview and header."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import Environment
from webapp.navigation import blocked_counts
from webapp.pages.gate_list import GateListAddress
from webapp.presentation import OPEN_GATES, gate_look


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """How many runs wait for one kind of decision, or for any, and since when the oldest does."""

    count: int
    oldest: datetime | None


@dataclass(frozen=True, kw_only=True)
class Tab:
    """One kind of decision above the queue; `count` is None where it would need a count of its own."""

    label: str
    href: str
    current: bool
    count: int | None
    count_id: str  # of the part of the page that shows the count


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Every number of the queue's page; `heading` is None where filters would need a count of their own."""

    tabs: list[Tab]
    heading: Waiting | None

    @property
    def version(self) -> str:
        """Return what changes whenever one of the numbers does."""
        words = [str(tab.count) for tab in self.tabs]
        return ".".join([*words, str(self.heading.oldest if self.heading else "")])


def waiting(kind: GateAction | None = None, environment: Environment | None = None) -> Waiting:
    """Return how many runs wait, from the counts that the header has read already."""
    found = [
        entry
        for entry in blocked_counts()
        if (kind is None or kind in entry.actions) and environment in (None, entry.environment)
    ]
    return Waiting(
        count=sum(entry.count for entry in found), oldest=min((e.oldest for e in found), default=None)
    )


def counts(address: GateListAddress) -> Counts:
    """Return what the page of the queue counts under the filters of its address."""
    counted = not (address.workflow or address.cause)
    kinds: list[GateAction | None] = [None, *(GateAction(word) for word in OPEN_GATES)]
    tabs = [
        Tab(
            label=gate_look(kind.value).label.capitalize() if kind else "All",
            href=address.href(kind=kind.value if kind else None),
            current=address.kind is kind,
            count=waiting(kind, address.environment).count if counted else None,
            count_id=f"count-{kind.value if kind else 'all'}",
        )
        for kind in kinds
    ]
    return Counts(tabs=tabs, heading=waiting(address.kind, address.environment) if counted else None)
