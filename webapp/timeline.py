"""Lay the attempts, waits and decisions of one run out on one axis, for a server-drawn picture.

A step of 40 ms beside a wait of three hours cannot share a linear scale: lengths grow with the logarithm
of time, so that nothing vanishes, and every mark carries its real length in words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 1_000.0
MAX_MARKS = 160
"""More marks than this would be narrower than a pixel: neighbours that went well are drawn as one."""
SHORTEST, LONGEST_RATIO = 1.0, 9.0


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One piece of the axis, `x` and `width` in thousandths of it."""

    kind: str
    label: str
    x: float
    width: float


@dataclass(kw_only=True)
class Piece:
    """One stretch of time before it has a place on the axis."""

    kind: str
    label: str
    milliseconds: float
    steps: int = 1


def draw(pieces: Sequence[Any]) -> list[Mark]:
    """Place pieces (`kind`, `label`, `milliseconds`, in order) side by side over the whole axis."""
    shown = _merged(
        [Piece(kind=str(p.kind), label=p.label, milliseconds=p.milliseconds or 0) for p in pieces]
    )
    if not shown:
        return []
    weights = [_weight(piece.milliseconds) for piece in shown]
    scale = WIDTH / sum(weights)
    marks, x = [], 0.0
    for piece, weight in zip(shown, weights, strict=True):
        marks.append(Mark(kind=piece.kind, label=piece.label, x=round(x, 2), width=round(weight * scale, 2)))
        x += weight * scale
    return marks


def _weight(milliseconds: float) -> float:
    return min(SHORTEST + math.log10(1 + max(0.0, milliseconds) / 50), LONGEST_RATIO)


def _merged(pieces: list[Piece]) -> list[Piece]:
    """Join neighbouring completed steps until the picture holds no more marks than it can show."""
    if len(pieces) <= MAX_MARKS:
        return pieces
    per_mark = math.ceil(len(pieces) / MAX_MARKS)
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if last and last.kind == piece.kind == "completed" and last.steps < per_mark:
            last.steps += 1
            last.milliseconds += piece.milliseconds
            last.label = f"{last.steps} completed steps up to {piece.label}"
        else:
            joined.append(piece)
    return joined
