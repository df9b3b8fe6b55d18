"""What one process remembers of callers: how often they came, and what was said of them already."""

from __future__ import annotations

import hashlib
import time

from webapp.keys.limits import Buckets, Clock, Memory, Rate, Seldom

GUESSES = Rate(30, 60)
"""Keys that do not work, for one address."""
TELL_AGAIN_SECONDS = 600.0
EVENTS = Rate(120, 3_600)
"""Audit events about requests that were refused, of each kind; guesses must not fill the database."""


class Guard:
    """Count requests and guesses; all of it may be used by many threads at once."""

    def __init__(self, rate: Rate | None, *, processes: int = 1, now: Clock = time.monotonic) -> None:
        self._requests = Buckets(rate.shared_by(processes), now=now) if rate is not None else None
        self._guesses = Buckets(GUESSES.shared_by(processes), now=now)
        self._proven: Memory[bool] = Memory()
        self.refused_keys = Seldom(TELL_AGAIN_SECONDS, EVENTS.shared_by(processes), now=now)
        self.denials = Seldom(60.0, EVENTS.shared_by(processes), now=now)
        self.foreign = Seldom(60.0, EVENTS.shared_by(processes), now=now)
        self.foreign_by_strangers = Seldom(60.0, EVENTS.shared_by(processes), now=now)

    def wait_of(self, caller: str) -> float:
        """Return how many seconds a caller with a key has to wait; 0.0 counts the request."""
        return self._requests.take(caller) if self._requests is not None else 0.0

    def wait_of_guess(self, address: str, key: str) -> float:
        """Return how long an address has to wait before a key of it is looked at; 0.0 counts the attempt.

        A key that worked here before is looked at in any case: who shares an address with a guesser, or
        with a runner whose key is over, is not locked out by it.
        """
        if _digest(key) in self._proven:
            return 0.0
        return self._guesses.take(address)

    def worked(self, address: str, key: str) -> None:
        """Note that a key works; the attempt was no guess."""
        name = _digest(key)
        if name not in self._proven:
            self._guesses.give_back(address)
            with self._proven.entry(name, lambda: True):
                pass

    def failed(self, key: str) -> None:
        """Note that a key does not work, or no longer."""
        self._proven.forget(_digest(key))


def _digest(key: str) -> str:
    """Return what a key is remembered by: not the key itself."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
