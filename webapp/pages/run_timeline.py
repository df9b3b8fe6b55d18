"""What happened in a run, in order: its attempts, the waits between them, and what people decided."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from resume_engine.core.decisions import Decision
from resume_engine.core.run_summary import RunState, RunSummary
from resume_engine.core.step_record import StepKind, StepStatus
from resume_engine.storage.step_queries import AttemptMark
from webapp.formats import age, duration, plural
from webapp.presentation import gate_look
from webapp.timeline import Piece

LATEST_ATTEMPTS = 100
"""As many as the picture has room for: a run of 10,000 steps is drawn from its end."""
SHORTEST_WAIT = timedelta(seconds=2)
"""Less than that between two attempts is the engine's own work and not a wait."""


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The pieces to draw, and the same in a sentence."""

    pieces: Sequence[Piece]
    words: str


@dataclass(kw_only=True)
class _Totals:
    work_ms: float = 0
    waited_ms: float = 0


def timeline_of(
    run: RunSummary, attempts: Sequence[AttemptMark], decisions: Sequence[Decision], now: datetime
) -> Timeline:
    """Return the timeline of the given attempts, oldest first; a pure function."""
    totals = _Totals()
    pieces: list[Piece] = []
    if attempts:
        pieces = list(_pieces(attempts, decisions, totals))
        last = max(attempts[-1].recorded_at, *(d.decided_at for d in decisions), attempts[0].recorded_at)
        pieces += _still_going(run, max(now - last, timedelta()), now, totals)
    return Timeline(pieces=pieces, words=_words(run, attempts, totals))


def _pieces(
    attempts: Sequence[AttemptMark], decisions: Sequence[Decision], totals: _Totals
) -> Iterator[Piece]:
    """Yield attempts by sequence, each decision before the first attempt that began after it."""
    end = _start(attempts[0])
    pending = [decision for decision in decisions if decision.decided_at >= end]
    for attempt in [*attempts, None]:
        while pending and (attempt is None or pending[0].decided_at <= _start(attempt)):
            decision = pending.pop(0)
            yield from _gap(decision.decided_at - end, totals)
            yield _decision(decision)
            end = max(end, decision.decided_at)
        if attempt is not None:
            yield from _gap(_start(attempt) - end, totals)
            yield _attempt(attempt, totals)
            end = max(end, attempt.recorded_at)


def _gap(length: timedelta, totals: _Totals) -> Iterator[Piece]:
    if length >= SHORTEST_WAIT:
        yield _wait(length, "waited", totals)


def _start(attempt: AttemptMark) -> datetime:
    """Return when an attempt began; records of 0.2.0 know only when it ended."""
    return attempt.started_at or attempt.recorded_at


def _attempt(attempt: AttemptMark, totals: _Totals) -> Piece:
    totals.work_ms += attempt.duration_ms or 0
    what = "compensation of step" if attempt.kind is StepKind.COMPENSATION else "step"
    took = f" after {duration(attempt.duration_ms)}" if attempt.duration_ms is not None else ""
    name = attempt.step_name.removeprefix("__compensate__")
    return Piece(
        kind=_look(attempt),
        label=f"{what} {attempt.step_index} {name}: {attempt.status.replace('_', ' ')}{took}",
        milliseconds=attempt.duration_ms or 0,
    )


def _look(attempt: AttemptMark) -> str:
    undone = attempt.kind is StepKind.COMPENSATION and attempt.status is StepStatus.COMPLETED
    return "compensation" if undone else attempt.status.value


def _decision(decision: Decision) -> Piece:
    words = f"{gate_look(decision.kind).done} by {decision.shown_name}"
    return Piece(kind="decision", label=words, milliseconds=0)


def _wait(length: timedelta, words: str, totals: _Totals) -> Piece:
    milliseconds = length.total_seconds() * 1_000
    totals.waited_ms += milliseconds
    return Piece(kind="wait", label=f"{words} {age(length.total_seconds())}", milliseconds=milliseconds)


def _still_going(run: RunSummary, since: timedelta, now: datetime, totals: _Totals) -> list[Piece]:
    """Return the piece that is not over yet."""
    state = run.state(now)
    if state is RunState.RUNNING:
        words = f"step {run.resume_from_index}: running for {age(since.total_seconds())}"
        return [Piece(kind="running", label=words, milliseconds=since.total_seconds() * 1_000)]
    waits_for = {
        RunState.BLOCKED: "waiting for a person for",
        RunState.CLEARED: "waiting for a runner for",
        RunState.FAILED: "waiting for the next try for",
        RunState.INTERRUPTED: "silent for",
    }.get(state)
    return [_wait(since, waits_for, totals)] if waits_for else []


def _words(run: RunSummary, attempts: Sequence[AttemptMark], totals: _Totals) -> str:
    if not attempts:
        return ""
    earlier = run.next_sequence > len(attempts)
    count = plural(len(attempts), "attempt")
    failed = sum(1 for attempt in attempts if attempt.status is StepStatus.FAILED)
    parts = [f"the latest {count} of {run.next_sequence:,}" if earlier else count]
    if any(attempt.duration_ms is not None for attempt in attempts):
        parts[0] += f", {duration(totals.work_ms)} of work"
    if failed:
        parts.append(f"{failed:,} failed")
    if totals.waited_ms:
        parts.append(f"{age(totals.waited_ms / 1_000)} of waiting")
    return ", ".join(parts)
