"""When a failed step is tried again: inside its run by the executor, or later by a worker."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from resume_engine.core.errors import InvalidValueError


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Say how long a failed step or run waits before its next attempt.

    wait = min(cap_seconds, base_seconds * factor ** (failures in a row - 1)), then up to `jitter` of it
    more. The share is taken from run id and failure count, so it is the same on every machine and spreads
    runs that failed together. With the defaults, in seconds:

    | failures in a row | wait  | with the most jitter |
    |-------------------|-------|----------------------|
    | 1                 | 2.0   | 2.2                  |
    | 2                 | 6.0   | 6.6                  |
    | 3                 | 18.0  | 19.8                 |
    | 4                 | 54.0  | 59.4                 |
    | 5                 | 162.0 | 178.2                |
    | 6 and more        | 300.0 | 330.0                |

    Example: a step that fails at 10:00:00, 10:00:02, 10:00:08, 10:00:26 and 10:01:20 (no jitter) has
    failed five times in 80 seconds; a worker with `max_attempts=5` then leaves it to a person.
    """

    base_seconds: float = 2.0
    factor: float = 3.0
    cap_seconds: float = 300.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        for field, value, least in (
            ("base_seconds", self.base_seconds, 0),
            ("factor", self.factor, 1),
            ("cap_seconds", self.cap_seconds, self.base_seconds),
            ("jitter", self.jitter, 0),
        ):
            if not value >= least:
                raise InvalidValueError(field, f"must be at least {least:g}, found {value!r}")

    def seconds(self, failures: int, run_id: str) -> float:
        """Return the wait in seconds after so many failures in a row (1 is the first)."""
        # The exponent is capped too: the cap is reached long before a float overflows.
        wait = min(self.cap_seconds, self.base_seconds * self.factor ** min(max(failures, 1) - 1, 200))
        digest = hashlib.sha256(f"{run_id}:{failures}".encode()).digest()
        return wait * (1 + self.jitter * int.from_bytes(digest[:4], "big") / 2**32)


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Try a step up to `attempts` times in one go when it fails as transient, waiting as `backoff` says.

    A receiver that asks for a longer wait (`retry_after` on the exception, in seconds, or the HTTP header
    of its response) gets it, up to `backoff.cap_seconds`.
    """

    attempts: int = 3
    backoff: Backoff = Backoff(base_seconds=1.0, factor=2.0, cap_seconds=60.0)

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1:
            raise InvalidValueError("attempts", f"must be a whole number from 1, found {self.attempts!r}")

    def wait_seconds(self, failures: int, run_id: str, exc: BaseException) -> float:
        """Return the wait after so many failures in a row (1 is the first)."""
        wait = self.backoff.seconds(failures, run_id)
        wish = _retry_after(exc)
        return wait if wish is None else max(wait, min(wish, self.backoff.cap_seconds))


NO_RETRY = RetryPolicy(attempts=1)
"""A failure ends the execution; a worker or a caller resumes the run."""


def _retry_after(exc: BaseException) -> float | None:
    wish = getattr(exc, "retry_after", None)
    if wish is None:
        headers = getattr(getattr(exc, "response", None), "headers", None)
        wish = headers.get("Retry-After") if headers is not None and hasattr(headers, "get") else None
    try:
        seconds = float(wish) if wish is not None else None
    except (TypeError, ValueError):
        return None  # an HTTP date: the policy's own wait is used
    return seconds if seconds is not None and 0 <= seconds < float("inf") else None
