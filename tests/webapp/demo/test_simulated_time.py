"""Stories run side by side on a clock that jumps."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from resume_engine.core.clock import ManualClock
from webapp.demo.simulated_time import SimulatedTime

START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
END = START + timedelta(hours=1)


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def test_what_stories_do_is_in_the_order_of_time() -> None:
    clock = ManualClock(START)
    time = SimulatedTime(clock, END)
    seen: list[tuple[str, float]] = []

    def story(name: str, pause: float) -> Callable[[], None]:
        def tell() -> None:
            for _ in range(3):
                seen.append((name, (clock.now() - START).total_seconds() / 60))
                time.sleep(pause * 60)

        return tell

    time.add(START + minutes(5), story("late", 1))
    time.add(START, story("early", 4))
    time.play()
    assert seen == [("early", 0), ("early", 4), ("late", 5), ("late", 6), ("late", 7), ("early", 8)]


def test_nothing_happens_after_the_end() -> None:
    clock = ManualClock(START)
    time = SimulatedTime(clock, END)
    seen: list[str] = []

    def endless() -> None:
        try:
            while True:
                time.sleep(20 * 60)
                seen.append("awake")
        finally:
            seen.append("left")

    time.add(START, endless)
    time.add(END + minutes(1), lambda: seen.append("never"))
    time.play()
    assert seen == ["awake", "awake", "awake", "left"]
    assert clock.now() == END


def test_an_error_in_a_story_reaches_the_caller() -> None:
    time = SimulatedTime(ManualClock(START), END)

    def broken() -> None:
        time.sleep(1)
        raise LookupError("a mistake in the story")

    time.add(START, broken)
    with pytest.raises(LookupError, match="a mistake in the story"):
        time.play()
