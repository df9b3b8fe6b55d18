"""How long to wait between attempts to sign in: per account and per address, growing, never for ever.

The first few are free. After that each further attempt doubles the wait, up to a few minutes; an hour
without attempts forgets them. Nobody is locked out: a sign-in link is not throttled.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

WINDOW = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """Say how many attempts are free and where the wait stops growing."""

    free: int
    longest: timedelta


ALLOWANCES = {
    "email": Allowance(free=5, longest=timedelta(minutes=2)),
    "confirm": Allowance(free=5, longest=timedelta(minutes=2)),
    # An office shares one address; a guesser tries many accounts from it.
    "address": Allowance(free=30, longest=timedelta(minutes=5)),
}


def email_scope(email: str) -> str:
    """Return the scope of attempts on one account, existing or not."""
    return f"email:{email}"


def confirm_scope(email: str) -> str:
    """Return the scope of attempts to give the password once more, by whoever is signed in as `email`."""
    return f"confirm:{email}"


def address_scope(address: str | None) -> str:
    """Return the scope of attempts from one address."""
    return f"address:{address or 'unknown'}"


def wait_after(scope: str, attempts: int, latest: datetime | None, now: datetime) -> timedelta:
    """Return how long the next attempt has to wait: 1 s after the last free one, doubled with each more.

    With 5 free attempts: the 6th waits 1 s after the 5th, the 7th 2 s after the 6th, the 8th 4 s.
    """
    allowance = ALLOWANCES[scope.partition(":")[0]]
    over = attempts - allowance.free
    if over < 0 or latest is None:
        return timedelta()
    pause = min(timedelta(seconds=2 ** min(over, 12)), allowance.longest)
    return max(timedelta(), latest + pause - now)
