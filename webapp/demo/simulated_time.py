"""A past that takes no time: stories run side by side on a clock that jumps from one event to the next."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from resume_engine.core.clock import ManualClock


class SimulationEnded(BaseException):
    """Leave a story that would go past the end; no `Exception`, so no step records it as a failure."""


class SimulatedTime:
    """Play stories in the order of their times, one at a time.

    Each story is a plain function in a thread of its own that calls `sleep`. Only one thread ever runs;
    when it sleeps or ends, the clock moves to the next moment at which one wants to go on. So what the
    stories write has the order and the times of a real past.
    """

    def __init__(self, clock: ManualClock, end: datetime) -> None:
        self._clock = clock
        self._end = end
        self._waiting: list[tuple[datetime, int, _Actor]] = []
        self._order = itertools.count()
        self._handed_back = threading.Semaphore(0)
        self._current: _Actor | None = None

    def add(self, at: datetime, story: Callable[[], None]) -> None:
        """Let `story` begin at a moment."""
        self._queue(at, _Actor(story, self._handed_back))

    def sleep(self, seconds: float) -> None:
        """Let the calling story wait; the others go on meanwhile."""
        actor = self._current
        assert actor is not None, "only a story may sleep"
        self._queue(self._clock.now() + timedelta(seconds=max(seconds, 0)), actor)
        actor.wait_for_turn()

    def play(self) -> None:
        """Play everything up to the end; raise what a story raised."""
        while self._waiting:
            at, _, actor = heapq.heappop(self._waiting)
            if at > self._end:
                actor.ended = True
            else:
                self._clock.move_to(at)
            self._current = actor
            actor.go_on()
            self._handed_back.acquire()
            if actor.error is not None:
                raise actor.error

    def _queue(self, at: datetime, actor: _Actor) -> None:
        heapq.heappush(self._waiting, (at, next(self._order), actor))


class _Actor:
    """A story in its thread, which runs only when it is told to."""

    def __init__(self, story: Callable[[], None], handed_back: threading.Semaphore) -> None:
        self.ended = False
        self.error: Exception | None = None
        self._story = story
        self._handed_back = handed_back
        self._turn = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._play, daemon=True)

    def go_on(self) -> None:
        if self._thread.ident is None:
            self._thread.start()
        self._turn.release()

    def wait_for_turn(self) -> None:
        """Hand over, then wait; raise `SimulationEnded` when there is no later."""
        self._handed_back.release()
        self._turn.acquire()
        if self.ended:
            raise SimulationEnded

    def _play(self) -> None:
        self._turn.acquire()
        try:
            if not self.ended:
                self._story()
        except SimulationEnded:
            pass
        except Exception as error:
            self.error = error
        finally:
            self._handed_back.release()
