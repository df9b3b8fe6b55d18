"""The one source of the time of day and of durations, replaceable in tests and in the demo.

Modules may import `utc_now` and `monotonic` by name: what is replaced is the clock they ask.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol


class Clock(Protocol):
    """Tell the time of day and measure durations."""

    def now(self) -> datetime:
        """Return the current time as an aware UTC datetime."""
        ...

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start, never going back."""
        ...


class SystemClock:
    """The clock of the machine: its time, and its performance counter in seconds."""

    # Asked many times a step: no function of ours stands between.
    now = staticmethod(partial(datetime.now, UTC))
    monotonic = staticmethod(time.perf_counter)


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, moment: datetime) -> None:
        self._moment = as_utc(moment)
        self._start = self._moment

    def now(self) -> datetime:
        """Return the moment the clock was moved to."""
        return self._moment

    def monotonic(self) -> float:
        """Return the seconds the clock was moved in all."""
        return (self._moment - self._start).total_seconds()

    def advance(self, seconds: float) -> None:
        """Move the clock on by `seconds`."""
        self._moment += timedelta(seconds=seconds)

    def move_to(self, moment: datetime) -> None:
        """Set the clock to `moment`, earlier or later."""
        self._moment = as_utc(moment)


_clock: Clock = SystemClock()


def utc_now() -> datetime:
    """Return the current time as an aware UTC datetime."""
    return _clock.now()


def monotonic() -> float:
    """Return seconds for measuring durations."""
    return _clock.monotonic()


def pause(seconds: float, sleep: Callable[[float], object] = time.sleep) -> None:
    """Wait; a clock that stands still is moved on instead. `sleep` says how real time is waited for."""
    if isinstance(_clock, ManualClock):
        _clock.advance(seconds)
    else:
        sleep(seconds)


@contextmanager
def replaced_by(clock: Clock) -> Iterator[None]:
    """Let the whole process ask `clock` while the block runs, all threads included."""
    global _clock
    before = _clock
    _clock = clock
    try:
        yield
    finally:
        _clock = before


def as_utc(moment: datetime) -> datetime:
    """Return `moment` in UTC; a naive value is taken to be UTC already, as 0.2.0 stored it."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


_written: tuple[tuple[datetime, str], ...] = ()


def utc_text(moment: datetime) -> str:
    """Return `moment` in UTC as `2026-11-20T15:00:00.000000+00:00`, always with six digits."""
    global _written
    for known, text in _written:
        if known is moment:
            return text
    utc = moment if moment.tzinfo is UTC else as_utc(moment)
    text = utc.isoformat(timespec="microseconds")
    _written = (moment, text), *_written[:1]  # a step writes each of its two moments several times
    return text
