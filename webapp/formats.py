"""Times, lengths of time, counts and ids, written for people.

`static/app.js` writes ages with the same words: change both together.
"""

from __future__ import annotations

from datetime import datetime

from resume_engine.core.clock import as_utc, utc_now

MINUTE, HOUR, DAY = 60, 3_600, 86_400
SHORT_ID_LENGTH = 8


def age(seconds: float) -> str:
    """Return a length of time for a list: `12 s`, `4 min`, `3 h 12 m`, `2 d 4 h`, `40 d`."""
    whole = max(0, int(seconds))
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min"
    if whole < DAY:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE} m"
    if whole < 14 * DAY:
        return f"{whole // DAY} d {whole % DAY // HOUR} h"
    return f"{whole // DAY} d"


def age_of(moment: datetime, now: datetime | None = None) -> str:
    """Return how long ago `moment` was, without the word ago."""
    return age(((now or utc_now()) - as_utc(moment)).total_seconds())


def ago(moment: datetime, now: datetime | None = None) -> str:
    """Return `moment` relative to now: `just now`, `4 min ago`, `in 3 h 12 m`."""
    seconds = ((now or utc_now()) - as_utc(moment)).total_seconds()
    if -5 < seconds < 5:
        return "just now"
    return f"{age(seconds)} ago" if seconds > 0 else f"in {age(-seconds)}"


def utc(moment: datetime) -> str:
    """Return the exact time for people, `2026-11-22 09:04:33 UTC`."""
    return f"{as_utc(moment):%Y-%m-%d %H:%M:%S} UTC"


def utc_clock(moment: datetime) -> str:
    """Return the time of day in UTC, for moments whose day is said elsewhere."""
    return f"{as_utc(moment):%H:%M:%S} UTC"


def iso(moment: datetime) -> str:
    """Return the exact time for a `datetime` attribute, `2026-11-22T09:04:33Z`."""
    return f"{as_utc(moment):%Y-%m-%dT%H:%M:%SZ}"


def duration(milliseconds: float | None) -> str:
    """Return how long something took: `340 ms`, `1.2 s`, `2 min 05 s`, `1 h 04 min`; a dash when unknown."""
    if milliseconds is None:
        return "–"
    if milliseconds < 1_000:
        return f"{round(milliseconds)} ms"
    seconds = milliseconds / 1_000
    if seconds < MINUTE:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE:02d} s"
    if whole < DAY:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE:02d} min"
    return f"{whole // DAY} d {whole % DAY // HOUR} h"


def compact(number: int) -> str:
    """Return a count that fits a tile: `9,412`, `41.2 k`, `1.3 M`."""
    if number < 10_000:
        return f"{number:,}"
    if number < 1_000_000:
        return f"{number / 1_000:.1f}".removesuffix(".0") + " k"
    return f"{number / 1_000_000:.1f}".removesuffix(".0") + " M"


def bytes_size(count: int) -> str:
    """Return a size in bytes as `312 B`, `1.4 kB`, `2.0 MB`."""
    if count < 1_000:
        return f"{count} B"
    return f"{count / 1_000:.1f} kB" if count < 1_000_000 else f"{count / 1_000_000:.1f} MB"


def short_id(identifier: object) -> str:
    """Return the first eight characters of an id."""
    return str(identifier)[:SHORT_ID_LENGTH]


def executor(owner: str) -> str:
    """Return an executor's name as people read it: `host:process` of the names the engine makes."""
    return ":".join(owner.split(":")[:2]) if owner.count(":") >= 4 else owner


def first_line(text: str | None) -> str:
    """Return the first line of a message that holds anything, without the blanks around it."""
    return next((line.strip() for line in (text or "").splitlines() if line.strip()), "")


def plural(count: int, one: str, many: str | None = None) -> str:
    """Return `1 run`, `2 runs`, `1,204 runs`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
