"""How often something may happen: counters in the memory of one process, bounded in number.

Of a server of several processes each gives out its share, so that all of them together allow what is set.
It is a limit on load, not the wall that keys stand behind: that one is their 256 random bits.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

MOST_NAMES = 10_000
_RATE = re.compile(r"([1-9][0-9]{0,8})\s*/\s*(second|minute|hour)", re.ASCII)
_SECONDS = {"second": 1, "minute": 60, "hour": 3_600}

Entry = TypeVar("Entry")
Clock = Callable[[], float]


@dataclass(frozen=True)
class Rate:
    """So many times in so many seconds; all of them may come at once."""

    times: int
    seconds: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the rate that a text such as `1000/second` names; raise `ValueError`."""
        found = _RATE.fullmatch(text.strip().lower())
        if found is None:
            raise ValueError(f"is {text!r}; expected a rate such as 1000/second, 600/minute or off")
        return cls(int(found[1]), _SECONDS[found[2]])

    def shared_by(self, processes: int) -> Rate:
        """Return the share of one of so many processes, rounded up: each of them allows something."""
        return Rate(-(-self.times // processes), self.seconds)


class Memory(Generic[Entry]):
    """Entries by name; the one that was not asked for longest is forgotten when there are too many."""

    def __init__(self, most: int = MOST_NAMES) -> None:
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._most = most
        self._lock = threading.Lock()

    @contextmanager
    def entry(self, name: str, new: Callable[[], Entry]) -> Iterator[Entry]:
        """Hold the entry of a name, made when there is none, while nobody else does."""
        with self._lock:
            found = self._entries.get(name)
            if found is None:
                found = self._entries[name] = new()
                if len(self._entries) > self._most:
                    self._entries.popitem(last=False)
            self._entries.move_to_end(name)
            yield found

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: str) -> bool:
        with self._lock:
            return name in self._entries

    def forget(self, name: str) -> None:
        """Drop the entry of a name, if there is one."""
        with self._lock:
            self._entries.pop(name, None)


@dataclass
class _Bucket:
    tokens: float
    filled_at: float


class Buckets:
    """A bucket of tokens for every name: it is full at first, and refills evenly."""

    def __init__(self, rate: Rate, *, most: int = MOST_NAMES, now: Clock = time.monotonic) -> None:
        self._rate = rate
        self._now = now
        self._buckets: Memory[_Bucket] = Memory(most)

    def take(self, name: str) -> float:
        """Take a token and return 0.0, or take none and return in how many seconds there is one."""
        now, per_second = self._now(), self._rate.times / self._rate.seconds
        with self._buckets.entry(name, lambda: _Bucket(self._rate.times, now)) as bucket:
            # Two threads may come here in another order than they looked at the clock.
            grown = max(0.0, now - bucket.filled_at) * per_second
            bucket.tokens = min(self._rate.times, bucket.tokens + grown)
            bucket.filled_at = max(now, bucket.filled_at)
            if bucket.tokens < 1:
                return (1 - bucket.tokens) / per_second
            bucket.tokens -= 1
        return 0.0

    def give_back(self, name: str) -> None:
        """Return a token that was taken for nothing."""
        with self._buckets.entry(name, lambda: _Bucket(self._rate.times, self._now())) as bucket:
            bucket.tokens = min(self._rate.times, bucket.tokens + 1)


@dataclass
class _Told:
    at: float | None = None
    left_out: int = 0


class Seldom:
    """Tell of a thing once in a while, and of all things together no more than a rate allows."""

    def __init__(self, seconds: float, at_most: Rate, *, now: Clock = time.monotonic) -> None:
        self._seconds = seconds
        self._now = now
        self._told: Memory[_Told] = Memory()
        self._all = Buckets(at_most, most=1, now=now)

    def due(self, name: str) -> int | None:
        """Return how often it was left out since it was told last when it is to be told now, else None."""
        now = self._now()
        with self._told.entry(name, _Told) as told:
            if (told.at is not None and now - told.at < self._seconds) or self._all.take("all") > 0:
                told.left_out += 1
                return None
            left_out, told.at, told.left_out = told.left_out, now, 0
        return left_out
