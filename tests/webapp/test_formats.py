"""Times, lengths, counts and ids as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from webapp import formats

NOW = datetime(2026, 11, 22, 9, 4, 33, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3_599, "59 min"),
        (11_520, "3 h 12 m"),
        (187_200, "2 d 4 h"),
        (40 * 86_400, "40 d"),
        (-5, "0 s"),
    ],
)
def test_age(seconds: float, words: str) -> None:
    assert formats.age(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(2, "just now"), (240, "4 min ago"), (-90, "in 1 min"), (-2, "just now")]
)
def test_ago(seconds: int, words: str) -> None:
    assert formats.ago(NOW - timedelta(seconds=seconds), NOW) == words


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [
        (None, "–"),
        (0, "0 ms"),
        (340, "340 ms"),
        (1_240, "1.2 s"),
        (65_000, "1 min 05 s"),
        (3_840_000, "1 h 04 min"),
        (90_000_000, "1 d 1 h"),
    ],
)
def test_duration(milliseconds: float | None, words: str) -> None:
    assert formats.duration(milliseconds) == words


def test_times_are_shown_in_utc_whatever_their_zone() -> None:
    berlin = NOW.astimezone(timezone(timedelta(hours=1)))
    assert formats.utc(berlin) == "2026-11-22 09:04:33 UTC"
    assert formats.utc_clock(berlin) == "09:04:33 UTC"
    assert formats.iso(berlin) == "2026-11-22T09:04:33Z"


@pytest.mark.parametrize(
    ("number", "words"),
    [(7, "7"), (9_412, "9,412"), (41_200, "41.2 k"), (40_000, "40 k"), (1_300_000, "1.3 M")],
)
def test_compact(number: int, words: str) -> None:
    assert formats.compact(number) == words


def test_sizes_ids_lines_and_plurals() -> None:
    assert formats.bytes_size(312) == "312 B"
    assert formats.bytes_size(1_400) == "1.4 kB"
    assert formats.short_id("5f2c81d4-0000-4000-8000-000000000000") == "5f2c81d4"
    assert formats.first_line("\n  first \nsecond") == "first"
    assert formats.first_line(None) == ""
    assert formats.plural(1, "run") == "1 run"
    assert formats.plural(1_204, "run") == "1,204 runs"
    assert formats.plural(2, "run waits", "runs wait") == "2 runs wait"


def test_executors_are_shown_by_host_and_process() -> None:
    assert formats.executor("build-7:4711:99812:a1b2c3d4:0f0f0f") == "build-7:4711"
    assert formats.executor("worker-2") == "worker-2"
