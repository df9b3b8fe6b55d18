"""Fixtures of the page tests; applications, people and clients come from `tests/provision/app_fixtures`."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from resume_engine.core import clock


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        """Return the time."""
        return self.now

    def forward(self, **by: float) -> None:
        """Move on, for example `forward(minutes=31)`."""
        self.now += timedelta(**by)


@pytest.fixture
def fake_clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Stop the clock of sessions, links and attempts."""
    fake = FakeClock(clock.utc_now())
    monkeypatch.setattr(clock, "utc_now", fake)
    return fake
