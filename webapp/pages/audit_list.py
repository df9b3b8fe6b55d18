"""The address of the audit log: which events it lists, and the addresses that differ by one word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from urllib.parse import urlencode

from werkzeug.datastructures import MultiDict

from resume_engine.core.audit import EventType
from resume_engine.core.clock import as_utc
from resume_engine.core.errors import InvalidValueError
from resume_engine.storage.audit_queries import EventFilter
from webapp import formats
from webapp.presentation import EVENTS

PATH = "/audit"
FILTERS = ("actor", "kind", "run", "since", "from", "to")
"""Every filter of the address, in the order in which it is written."""
LABELS = {"actor": "Actor", "kind": "Act", "run": "Run", "since": "Time", "from": "From", "to": "To"}
PAGES = ("before", "after")
TEXT_MAX_CHARACTERS = 255
SINCE: dict[str, tuple[str, timedelta]] = {
    "1h": ("last hour", timedelta(hours=1)),
    "24h": ("last 24 hours", timedelta(hours=24)),
    "7d": ("last 7 days", timedelta(days=7)),
    "30d": ("last 30 days", timedelta(days=30)),
}
FAMILIES: dict[str, str] = {
    "gate.": "all decisions",
    "run.": "all acts on runs",
    "auth.": "all sign-ins",
    "user.": "all changes of people",
    "access.": "all refusals",
    "audit.": "all exports",
}
"""Groups of kinds that can be asked for at once: the beginning of their names, and the words for them."""
_DERIVED = EventType.STEP_RECORDED.value  # not stored; the run's own page has it


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One filter that is on; `without` is the address that lacks it."""

    label: str
    value: str
    without: str


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
    for name, text in words.items():
        if len(args.getlist(name)) > 1:
            raise InvalidValueError(name, "is given more than once. Keep one.")
        if len(text) > TEXT_MAX_CHARACTERS:
            raise InvalidValueError(
                name, f"has {len(text)} characters; at most {TEXT_MAX_CHARACTERS} are looked for"
            )
    return AuditAddress(
        words=words,
        filter=EventFilter(
            actor=words.get("actor"),
            kind=_kind(words.get("kind")),
            run_id=words.get("run"),
            since=_since(words, now),
            until=_moment("to", words.get("to"), end=True),
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
    raise InvalidValueError("kind", f"“{text[:40]}” is not known. Choose one of {', '.join(dict(kinds()))}.")


def _since(words: Mapping[str, str], now: datetime) -> datetime | None:
    text = words.get("since")
    if text is None:
        return _moment("from", words.get("from"))
    if "from" in words:
        raise InvalidValueError("since", "give either a length of time or the day it begins, not both.")
    if text not in SINCE:
        raise InvalidValueError("since", f"“{text[:40]}” is not known. Choose one of {', '.join(SINCE)}.")
    return now - SINCE[text][1]


def _moment(name: str, text: str | None, *, end: bool = False) -> datetime | None:
    """Read a day or a moment, UTC unless it says otherwise; as an end, a day counts in full."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if end and len(text) == len("2026-11-22") and moment.time() == time():
            moment += timedelta(days=1)
        return as_utc(moment)
    except (ValueError, OverflowError):
        raise InvalidValueError(
            name, f"“{text[:40]}” is no time. Write it like 2026-11-22 or 2026-11-22T09:30 (UTC)."
        ) from None


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
        return SINCE[text][0] if text in SINCE else text
    if name in ("from", "to") and len(text) > len("2026-11-22"):
        moment = _moment(name, text)
        return formats.utc(moment.astimezone(UTC)) if moment else text
    return text if len(text) <= 60 else f"{text[:60]}…"
