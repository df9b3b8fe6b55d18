"""A workflow of 50 steps fails at step 47: starting again against going on.

    python examples/restart_versus_resume.py

Every figure is counted: each step adds one to a counter when it runs.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from resume_engine import ResumeEngine, SQLiteCheckpointStore, TransientStepError

STEPS = 50
FAILS_AT = 47
TOKENS_PER_STEP = 1_200  # what one call of a language model may cost


class Outside:
    """What the steps act on: counts how often each was called, and is down once at one step."""

    def __init__(self) -> None:
        self.calls: Counter[int] = Counter()
        self.down = True

    def call(self, number: int) -> None:
        """Do the work of step `number` (1 is the first)."""
        self.calls[number] += 1
        if number == FAILS_AT and self.down:
            self.down = False
            raise TransientStepError("API timeout")

    @property
    def total(self) -> int:
        """Return the number of calls in all."""
        return sum(self.calls.values())

    @property
    def repeated(self) -> int:
        """Return how many steps were called again although they had succeeded."""
        return sum(count - 1 for number, count in self.calls.items() if number != FAILS_AT)


def restart() -> Outside:
    """Run the steps in a plain loop, and again from the first one after the failure."""
    outside = Outside()
    while True:
        try:
            for number in range(1, STEPS + 1):
                outside.call(number)
        except TransientStepError:
            continue
        return outside


def resume() -> Outside:
    """Run the same steps with the engine, and resume after the failure."""
    outside = Outside()

    def step(number: int) -> Any:
        def act(state: dict[str, Any], key: str) -> dict[str, Any]:
            outside.call(number)
            return {"last_step": number}

        return act

    steps = [(f"step_{number:02d}", step(number)) for number in range(1, STEPS + 1)]
    with SQLiteCheckpointStore("sqlite:///:memory:") as store:
        engine = ResumeEngine(store)
        run = engine.start_run("fifty_steps")
        try:
            engine.execute_workflow(run.run_id, steps)
        except TransientStepError:
            engine.resume(run.run_id, steps)
    return outside


def main() -> None:
    """Print both as a table."""
    plain, durable = restart(), resume()
    rows = [
        ("steps executed", plain.total, durable.total),
        ("of these executed again in vain", plain.repeated, durable.repeated),
        ("tokens, at 1,200 a step", plain.total * TOKENS_PER_STEP, durable.total * TOKENS_PER_STEP),
    ]
    print(f"{STEPS} steps, failure at step {FAILS_AT}\n")
    print(f"{'':<34}{'restart':>10}{'resume':>10}")
    for label, before, after in rows:
        print(f"{label:<34}{before:>10,}{after:>10,}")
    print(f"\nsaved: {plain.total - durable.total} steps, {1 - durable.total / plain.total:.0%} of the work")


if __name__ == "__main__":
    main()
