"""What the addresses of the lists share: of runs, of the gate queue, of the audit log.

The readers raise `ValueError` with a sentence about the text they were given; which filter it is in is known
to those who call them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from typing import TypeVar

from resume_engine.core.clock import as_utc
from resume_engine.core.errors import InvalidValueError
from webapp import formats

TEXT_MAX_CHARACTERS = 255
SINCE: dict[str, tuple[str, timedelta]] = {
    "1h": ("last hour", timedelta(hours=1)),
    "24h": ("last 24 hours", timedelta(hours=24)),
    "7d": ("last 7 days", timedelta(days=7)),
    "30d": ("last 30 days", timedelta(days=30)),
}
"""The lengths of time that can be asked for, with their words."""
_DAY = len("2026-11-22")
_QUOTED_CHARACTERS = 40
_SHOWN_CHARACTERS = 60

Word = TypeVar("Word", bound=StrEnum)
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One filter that is on; `without` is the address that lacks it."""

    label: str
    value: str
    without: str


def since_choices() -> list[tuple[str, str]]:
    """Return the choices of the filter by time, each with its words."""
    return [(word, label.capitalize()) for word, (label, _) in SINCE.items()]


def asked(words: Mapping[str, str], name: str, read: Callable[[str], Value]) -> Value | None:
    """Return what `read` makes of the filter `name`, None where it is off; raise `InvalidValueError`."""
    if name not in words:
        return None
    try:
        return read(words[name])
    except ValueError as problem:
        raise InvalidValueError(name, str(problem)) from None


def one_of(words: type[Word]) -> Callable[[str], Word]:
    """Return a reader of one of some words."""

    def read_word(text: str) -> Word:
        try:
            return words(text)
        except ValueError:
            known = ", ".join(word.value for word in words)
            raise ValueError(f"{quoted(text)} is not known. Choose one of {known}.") from None

    return read_word


def read_length(text: str) -> timedelta:
    """Return a length of time, one of `SINCE`."""
    if text not in SINCE:
        raise ValueError(
            f"{quoted(text)} is not known. Choose one of {', '.join(SINCE)}, or use from and to."
        )
    return SINCE[text][1]


def read_text(text: str) -> str:
    """Return a text that is looked for."""
    if len(text) > TEXT_MAX_CHARACTERS:
        raise ValueError(
            f"has {len(text):,} characters, at most {TEXT_MAX_CHARACTERS} are looked for. Shorten it."
        )
    if "\x00" in text:
        raise ValueError("holds a NUL character, which no name does. Remove it.")
    return text


def read_moment(text: str, *, end: bool = False) -> datetime:
    """Return a day or a moment, UTC unless it says otherwise; as an end, a day counts in full."""
    try:
        moment = datetime.fromisoformat(text)
        if end and len(text) == _DAY and moment.time() == time():
            moment += timedelta(days=1)
        return as_utc(moment)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{quoted(text)} is no time. Write it like 2026-11-22 or 2026-11-22T09:30 (UTC)."
        ) from None


def read_end(text: str) -> datetime:
    """Return the end of a period; a day counts in full."""
    return read_moment(text, end=True)


def quoted(text: str) -> str:
    """Return what was given, short enough for a sentence."""
    return f"“{text[:_QUOTED_CHARACTERS]}…”" if len(text) > _QUOTED_CHARACTERS else f"“{text}”"


def shown(text: str) -> str:
    """Return a text as a chip says it."""
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def shown_length(text: str) -> str:
    """Return a length of time as a chip says it."""
    return SINCE[text][0] if text in SINCE else shown(text)


def shown_moment(text: str) -> str:
    """Return a day or a moment as a chip says it."""
    try:
        moment = as_utc(datetime.fromisoformat(text)).astimezone(UTC)
    except (ValueError, OverflowError):
        return text[:_QUOTED_CHARACTERS]
    return formats.utc(moment) if len(text) > _DAY else f"{moment:%Y-%m-%d} UTC"
