"""The replaceable clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from resume_engine import ResumeEngine, SQLiteCheckpointStore
from resume_engine.core import clock

MONDAY = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)


def test_a_replaced_clock_is_what_every_record_shows() -> None:
    manual = clock.ManualClock(MONDAY)

    def slow(state: dict, key: str) -> dict:
        manual.advance(90)
        return {}

    with clock.replaced_by(manual), SQLiteCheckpointStore("sqlite:///:memory:") as store:
        engine = ResumeEngine(store)
        run = engine.start_run("import")
        finished = engine.execute_workflow(run.run_id, [("load", slow)])
        assert finished.created_at == MONDAY
        assert finished.steps[0].started_at == MONDAY
        assert finished.steps[0].timestamp == MONDAY + timedelta(seconds=90)
        assert finished.steps[0].duration_ms == 90_000
        assert {event.created_at.date() for event in engine.store.list_events(run.run_id)} == {MONDAY.date()}


def test_the_clock_before_comes_back_after_the_block() -> None:
    with clock.replaced_by(clock.ManualClock(MONDAY)):
        with clock.replaced_by(clock.ManualClock(MONDAY + timedelta(days=1))):
            assert clock.utc_now().day == 3
        assert clock.utc_now().day == 2
    assert abs((datetime.now(UTC) - clock.utc_now()).total_seconds()) < 5


def test_a_manual_clock_moves_only_when_told() -> None:
    manual = clock.ManualClock(MONDAY)
    before = manual.monotonic()
    manual.advance(2.5)
    assert manual.monotonic() - before == 2.5
    manual.move_to(MONDAY)
    assert manual.now() == MONDAY
