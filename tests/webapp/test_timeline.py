"""The picture of a run: every piece has a place, however many there are."""

from __future__ import annotations

import pytest

from webapp import timeline
from webapp.timeline import Piece


def piece(kind: str = "completed", milliseconds: float = 40.0) -> Piece:
    return Piece(kind=kind, label=f"{kind} {milliseconds}", milliseconds=milliseconds)


def test_no_piece_no_mark() -> None:
    assert timeline.draw([]) == []


def test_marks_fill_the_axis_in_order() -> None:
    marks = timeline.draw([piece(), piece("failed", 30_000), piece("wait", 10_000_000), piece("decision", 0)])
    assert [mark.kind for mark in marks] == ["completed", "failed", "wait", "decision"]
    assert marks[0].x == 0
    assert marks[-1].x + marks[-1].width == pytest.approx(timeline.WIDTH, abs=0.1)


def test_the_shortest_stays_visible_beside_the_longest() -> None:
    short, long = timeline.draw([piece(milliseconds=1), piece("wait", 30 * 86_400_000)])
    assert short.width > timeline.WIDTH / 20
    assert long.width > short.width


def test_many_completed_steps_are_joined_but_no_failure_is() -> None:
    marks = timeline.draw([piece("failed" if n % 1_000 == 999 else "completed") for n in range(10_000)])
    assert len(marks) < 2 * timeline.MAX_MARKS
    assert sum(mark.kind == "failed" for mark in marks) == 10
    assert "completed steps up to" in marks[0].label
