"""The address of the audit log: which events it lists, and the addresses that differ by one word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

from werkzeug.datastructures import MultiDict

from resume_engine.core.audit import EventType
from resume_engine.core.errors import InvalidValueError
from resume_engine.storage.audit_queries import EventFilter
from webapp.pages.list_address import (
    Chip,
    asked,
    quoted,
    read_end,
    read_length,
    read_moment,
    read_text,
    shown,
    shown_length,
    shown_moment,
)
from webapp.presentation import EVENTS

PATH = "/audit"
FILTERS = ("actor", "kind", "run", "since", "from", "to")
"""Every filter of the address, in the order in which it is written."""
LABELS = {"actor": "Actor", "kind": "Act", "run": "Run", "since": "Time", "from": "From", "to": "To"}
PAGES = ("before", "after")
FAMILIES: dict[str, str] = {
    "gate.": "all decisions",
    "run.": "all acts on runs",
    "auth.": "all sign-ins",
    "user.": "all changes of people",
    "access.": "all refused requests",
    "audit.": "all exports",
}
"""Groups of kinds that can be asked for at once: the beginning of their names, and the words for them."""
_DERIVED = EventType.STEP_RECORDED.value  # not stored; the run's own page has it


@dataclass(frozen=True, kw_only=True)
class AuditAddress:
    """Say what an address of the audit log asks for; `before` and `after` are event ids."""

    words: Mapping[str, str]
    filter: EventFilter
    before: int | None = None
    after: int | None = None

    @property
    def filters(self) -> dict[str, str]:
        """Return every filter's text, empty where it is off, for the form."""
        return {name: self.words.get(name, "") for name in FILTERS}

    @property
    def is_filtered(self) -> bool:
        """Return whether any filter is on."""
        return any(self.filters.values())

    @property
    def shows_everything(self) -> bool:
        """Return whether this is the first page of all events."""
        return self.is_first_page and not self.is_filtered

    @property
    def is_first_page(self) -> bool:
        """Return whether the address names no page behind the first."""
        return self.before is None and self.after is None

    def href(self, path: str = PATH, **changes: str | None) -> str:
        """Return the first page with some words changed; None takes a word away."""
        kept: dict[str, str | None] = {**self.words, **dict.fromkeys(PAGES), **changes}
        given = [(name, kept[name]) for name in (*FILTERS, *PAGES) if kept.get(name)]
        return f"{path}?{urlencode(given)}" if given else path

    def chips(self) -> list[Chip]:
        """Return the filters that are on, in the order of the form."""
        return [
            Chip(label=LABELS[name], value=_shown(name, text), without=self.href(PATH, **{name: None}))
            for name, text in self.filters.items()
            if text
        ]


def read(args: MultiDict[str, str], now: datetime) -> AuditAddress:
    """Return what an address asks for; raise `InvalidValueError` rather than show other events."""
    words = {name: args[name].strip() for name in (*FILTERS, *PAGES) if args.get(name, "").strip()}
    for name in words:
        if len(args.getlist(name)) > 1:
            raise InvalidValueError(name, "is given more than once. Keep one.")
        asked(words, name, read_text)
    return AuditAddress(
        words=words,
        filter=EventFilter(
            actor=words.get("actor"),
            kind=_kind(words.get("kind")),
            run_id=words.get("run"),
            since=_since(words, now),
            until=asked(words, "to", read_end),
        ),
        before=_event_id("before", words.get("before")),
        after=_event_id("after", words.get("after")),
    )


def kinds() -> list[tuple[str, str]]:
    """Return the choices of the filter: the groups first, then each kind of event that is stored."""
    single = [
        (kind.value, EVENTS.get(kind.value, kind.value)) for kind in EventType if kind.value != _DERIVED
    ]
    return [*FAMILIES.items(), *single]


def _kind(text: str | None) -> str | None:
    if text is None or text in dict(kinds()):
        return text
    raise InvalidValueError("kind", f"{quoted(text)} is not known. Choose one of {', '.join(dict(kinds()))}.")


def _since(words: Mapping[str, str], now: datetime) -> datetime | None:
    length = asked(words, "since", read_length)
    if length is None:
        return asked(words, "from", read_moment)
    if "from" in words:
        raise InvalidValueError("since", "give either a length of time or the day it begins, not both.")
    return now - length


def _event_id(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InvalidValueError(name, "is not the number of an event; start again at the first page.")
    return int(text)


def _shown(name: str, text: str) -> str:
    if name == "kind":
        return dict(kinds()).get(text, text)
    if name == "since":
        return shown_length(text)
    return shown_moment(text) if name in ("from", "to") else shown(text)
