"""Counters in memory: exact under threads, bounded in number."""

from __future__ import annotations

import threading

import pytest

from webapp.keys.guard import EVENTS, GUESSES, Guard
from webapp.keys.limits import Buckets, Memory, Rate, Seldom


class Ticking:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ticking() -> Ticking:
    """A clock that stands still."""
    return Ticking()


@pytest.mark.parametrize(
    ("text", "rate"),
    [("1000/second", Rate(1000, 1)), ("600 / Minute", Rate(600, 60)), ("5/hour", Rate(5, 3600))],
)
def test_rates_are_read(text: str, rate: Rate) -> None:
    assert Rate.parse(text) == rate


@pytest.mark.parametrize("text", ["", "0/second", "-1/second", "10", "10/day", "1e3/second", "١/second"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="expected a rate"):
        Rate.parse(text)


def test_a_bucket_empties_and_refills(ticking: Ticking) -> None:
    buckets = Buckets(Rate(10, 60), now=ticking)
    assert [buckets.take("a") for _ in range(10)] == [0.0] * 10
    assert buckets.take("a") == pytest.approx(6.0)
    assert buckets.take("b") == 0.0
    ticking.now += 5.9
    assert buckets.take("a") == pytest.approx(0.1)
    ticking.now += 0.2
    assert buckets.take("a") == 0.0
    ticking.now += 3_600
    assert sum(buckets.take("a") == 0.0 for _ in range(50)) == 10


def test_a_clock_that_seems_to_go_back_gives_nothing(ticking: Ticking) -> None:
    buckets = Buckets(Rate(1, 1), now=ticking)
    assert buckets.take("a") == 0.0
    ticking.now -= 50
    assert buckets.take("a") > 0
    ticking.now += 50
    assert buckets.take("a") > 0


def test_no_thread_finds_a_gap(ticking: Ticking) -> None:
    buckets = Buckets(Rate(100, 60), now=ticking)
    taken: list[float] = []

    def take() -> None:
        taken.extend(buckets.take("a") for _ in range(20))

    threads = [threading.Thread(target=take) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(taken) == 1_000
    assert taken.count(0.0) == 100


def test_names_are_forgotten_before_memory_ends() -> None:
    memory: Memory[int] = Memory(most=3)
    for name in ("a", "b", "c", "a", "d"):
        with memory.entry(name, int):
            pass
    assert len(memory) == 3
    assert [name in memory for name in "abcd"] == [True, False, True, True]


def test_things_are_told_seldom(ticking: Ticking) -> None:
    seldom = Seldom(60, Rate(5, 3600), now=ticking)
    assert [seldom.due("a") for _ in range(4)] == [0, None, None, None]
    ticking.now += 60
    assert seldom.due("a") == 3
    assert [seldom.due(f"other {number}") for number in range(10)].count(0) == 3  # five an hour, of all


class TestGuard:
    """What is remembered of callers."""

    def test_a_key_that_worked_is_always_looked_at(self, ticking: Ticking) -> None:
        guard = Guard(None, now=ticking)
        assert guard.wait_of_guess("10.0.0.7", "good") == 0.0
        guard.worked("10.0.0.7", "good")
        waits = [guard.wait_of_guess("10.0.0.7", f"guess {number}") for number in range(100)]
        assert waits.count(0.0) == GUESSES.times
        assert guard.wait_of_guess("10.0.0.7", "good") == 0.0
        assert guard.wait_of_guess("10.0.0.8", "guess") == 0.0
        guard.failed("good")
        assert guard.wait_of_guess("10.0.0.7", "good") > 0

    def test_events_are_bounded_for_all_addresses_together(self, ticking: Ticking) -> None:
        guard = Guard(None, now=ticking)
        told = [guard.refused_keys.due(f"address {number}") for number in range(2_000)]
        assert told.count(0) == EVENTS.times

    def test_without_a_limit_nobody_waits(self) -> None:
        guard = Guard(None)
        assert [guard.wait_of("a") for _ in range(5_000)] == [0.0] * 5_000

    def test_workers_share_what_is_allowed(self, ticking: Ticking) -> None:
        guards = [Guard(Rate(10, 60), processes=3, now=ticking) for _ in range(3)]
        passed = sum(guard.wait_of("a") == 0.0 for guard in guards for _ in range(20))
        assert passed == 12  # ten, each share of it rounded up
        guessed = sum(guard.wait_of_guess("10.0.0.7", str(n)) == 0.0 for guard in guards for n in range(40))
        assert guessed == GUESSES.times
