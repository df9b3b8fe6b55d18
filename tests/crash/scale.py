"""How much is done: little in `make test`, much in `make torture` (which sets `TORTURE=1`)."""

from __future__ import annotations

import os
import random
from pathlib import Path

LONG = os.environ.get("TORTURE", "") not in ("", "0")
SEED = int(os.environ.get("CRASH_SEED") or random.SystemRandom().randrange(2**31))
"""Set `CRASH_SEED` to repeat the schedule of a run; every test prints the one it used."""


REPORT = Path(__file__).parents[2] / "test-results" / "torture.txt"


def tell(figures: str) -> None:
    """Print what was counted; the long version keeps it, whichever process has counted."""
    print(figures)
    if LONG:
        REPORT.parent.mkdir(exist_ok=True)
        with REPORT.open("a", encoding="utf-8") as report:
            report.write(f"{figures}\n")


def times(short: int, long: int) -> int:
    """Return how often something is done in this run."""
    share = float(os.environ.get("TORTURE_SHARE") or 1)  # a part of the long version, where time is short
    return max(short, round(long * share)) if LONG else short


def schedule(name: str) -> random.Random:
    """Return the random numbers of one test, the same for the same seed; print what repeats it."""
    tell(f"{name}: CRASH_SEED={SEED}")
    return random.Random(f"{SEED}:{name}")
