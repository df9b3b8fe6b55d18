"""The explorer's address: which runs it asks for, and the addresses that differ from it by one filter.

Every filter is in the address: a list can be sent to somebody, survives an act and comes back with Back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from werkzeug.datastructures import MultiDict

from resume_engine.core.errors import InvalidValueError
from resume_engine.core.payload import is_storable
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import Environment
from resume_engine.core.run_summary import RunState
from resume_engine.core.step_record import FailureClassification
from resume_engine.storage.keyset import Cursor
from resume_engine.storage.run_filter import RunFilter
from webapp import presentation
from webapp.pages.list_address import (
    Chip,
    one_of,
    quoted,
    read_end,
    read_length,
    read_moment,
    read_text,
    shown,
    shown_length,
    shown_moment,
)

PATH = "/runs"
LABELS: dict[str, str] = {
    "q": "Search",
    "status": "State",
    "workflow": "Workflow",
    "environment": "Environment",
    "failure": "Failure class",
    "blocked_by": "Blocked by",
    "since": "Created",
    "from": "From",
    "to": "To",
    "error_type": "Error",
    "message": "Message",
    "cursor": "Page",
}
"""Every parameter of the address, in the order in which it is written, with the word people read."""
LIVE_PARAMETERS = frozenset({"live", "shown"})
"""Sent by the page about itself when it renews; they are never part of a shown address."""

_VERBATIM = frozenset({"error_type", "message"})


@dataclass(frozen=True, kw_only=True)
class RunListAddress:
    """Say what an address of the explorer asks for.

    `words` holds the parameters as they are written; `problems` says, a sentence each, what cannot be
    understood: then the filter is not the one that was meant, and no list must be shown for it.
    """

    words: Mapping[str, str]
    filter: RunFilter
    cursor: Cursor | None = None
    problems: tuple[str, ...] = ()

    @property
    def filters(self) -> dict[str, str]:
        """Return every filter's text, empty where it is off, for the form."""
        return {name: self.words.get(name, "") for name in LABELS if name != "cursor"}

    @property
    def is_filtered(self) -> bool:
        """Return whether any filter is on."""
        return any(self.filters.values())

    def href(self, **changes: str | None) -> str:
        """Return this list's first page with some parameters changed; None takes one away."""
        kept = {name: text for name, text in self.words.items() if name != "cursor"}
        return href(**{**kept, **changes})

    def chips(self) -> list[Chip]:
        """Return the filters that are on, in the order of the form."""
        return [
            Chip(label=LABELS[name], value=_shown(name, text), without=self.href(**{name: None}))
            for name, text in self.filters.items()
            if text
        ]


def href(**words: str | None) -> str:
    """Return the address of a list of runs, for example `href(status="failed", since="24h")`."""
    given = [(name, words[name]) for name in LABELS if words.get(name)]
    return f"{PATH}?{urlencode(given)}" if given else PATH


def live_href(asked: RunListAddress) -> str:
    """Return the address by which a page asks what became of it; its rows add what they show, as `shown`."""
    words = [(name, asked.words[name]) for name in LABELS if name in asked.words]
    return f"{PATH}?{urlencode([*words, ('live', '1')])}"


def read_shown(args: MultiDict[str, str], limit: int) -> dict[str, str]:
    """Return the runs that a page shows, at most `limit` of them, by id with what it shows of them."""
    parts = [text.partition(":") for text in args.getlist("shown")[:limit]]
    return {run_id: look for look, _, run_id in parts if run_id and is_storable(run_id)}


def read(args: MultiDict[str, str], now: datetime) -> RunListAddress:
    """Return what an address asks for; what cannot be understood becomes a problem, never a silent "any"."""
    words, problems = _collect(args)
    values: dict[str, Any] = {}
    for name, text in words.items():
        try:
            values[name] = _READERS[name](text)
        except ValueError as problem:
            problems.append(f"{LABELS[name]}: {problem}")
    since, until = _period(values, now, problems)
    return RunListAddress(
        words=words,
        cursor=values.get("cursor"),
        problems=tuple(problems),
        filter=RunFilter(
            state=values.get("status"),
            workflow=values.get("workflow"),
            environment=values.get("environment"),
            classification=values.get("failure"),
            blocked_by=values.get("blocked_by"),
            since=since,
            until=until,
            search=values.get("q"),
            error_type=values.get("error_type"),
            message_start=values.get("message"),
        ),
    )


def _collect(args: MultiDict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the parameters that say something, and what is wrong with how they are given."""
    words, problems = {}, []
    for name in LABELS:
        given = [_trimmed(name, text) for text in args.getlist(name) if text.strip()]
        if len(set(given)) > 1:
            problems.append(f"{LABELS[name]}: given {len(given)} times. Keep one.")
        elif given:
            words[name] = given[0]
    unknown = sorted(set(args) - set(LABELS) - LIVE_PARAMETERS)
    if unknown:
        known = ", ".join(name for name in LABELS if name != "cursor")
        problems.append(f"There is no filter called {quoted(unknown[0])}. There are: {known}.")
    return words, problems


def _trimmed(name: str, text: str) -> str:
    # A cause is compared with what is recorded, letter by letter; a form writes line ends its own way.
    return text.replace("\r\n", "\n") if name in _VERBATIM else text.strip()


def _period(
    values: Mapping[str, Any], now: datetime, problems: list[str]
) -> tuple[datetime | None, datetime | None]:
    since, until = values.get("from"), values.get("to")
    if "since" in values:
        begun = now - values["since"]
        since = begun if since is None else max(since, begun)
    if since is not None and until is not None and since >= until:
        problems.append("From: begins after the time given as To. Exchange the two.")
    return since, until


def _cursor(text: str) -> Cursor:
    try:
        return Cursor.decode(text)
    except InvalidValueError:
        raise ValueError("this address does not lead to a page. Begin again at the newest runs.") from None


_READERS: dict[str, Callable[[str], Any]] = {
    "q": read_text,
    "status": one_of(RunState),
    "workflow": read_text,
    "environment": one_of(Environment),
    "failure": one_of(FailureClassification),
    "blocked_by": one_of(GateAction),
    "since": read_length,
    "from": read_moment,
    "to": read_end,
    "error_type": read_text,
    "message": read_text,
    "cursor": _cursor,
}


def _shown(name: str, text: str) -> str:
    """Return a filter's value as its chip says it."""
    if name == "since":
        return shown_length(text)
    if name == "blocked_by":
        return presentation.gate_look(text).label
    if name in ("from", "to"):
        return shown_moment(text)
    return shown(text)
