"""A step of a workflow: its name and its function."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from resume_engine.core.errors import InvalidValueError
from resume_engine.core.payload import is_storable
from resume_engine.core.retry import NO_RETRY, RetryPolicy

StepCallable = Callable[[dict[str, Any], str], dict[str, Any] | Awaitable[dict[str, Any]]]
"""`step_fn(input_data, idempotency_key) -> output_data`; `async def` for the awaitable calls."""


Reconcile = Callable[[dict[str, Any], str], dict[str, Any] | Awaitable[dict[str, Any] | None] | None]
"""`reconcile(input_data, idempotency_key)`: the output if the step was done after all, None if it was not."""


@dataclass(frozen=True)
class Step:
    """Name a step, the function that does it, and how it is treated when something goes wrong.

    `retry`: attempts in one go after transient failures (default: one). `timeout` in seconds.
    `on_interrupted`: what a resume does when the executor vanished in the middle of it: `retry` with the
    same key and input, or `gate`: a person must approve. `reconcile` answers instead whether it was done.
    `compensate` undoes it, called like the step with the state it left behind: its input, merged with its
    output if it has one.
    """

    name: str
    fn: StepCallable
    retry: RetryPolicy = NO_RETRY
    timeout: float | None = None
    on_interrupted: Literal["retry", "gate"] = "retry"
    reconcile: Reconcile | None = None
    compensate: StepCallable | None = None

    def __post_init__(self) -> None:
        check_step_name(self.name)
        if self.timeout is not None and not 0 < self.timeout < float("inf"):
            raise InvalidValueError(
                "timeout", f"of step {self.name!r} must be more than 0 s, found {self.timeout!r}"
            )
        if self.on_interrupted not in ("retry", "gate"):
            raise InvalidValueError(
                "on_interrupted",
                f"of step {self.name!r} must be retry or gate, found {self.on_interrupted!r}",
            )


StepLike = Step | tuple[str, StepCallable]


def check_step_name(name: object) -> str:
    """Return `name` if it can be recorded (1 to 255 characters, no NUL); raise `InvalidValueError` else."""
    return check_text("step_name", name, 255)


def check_text(field: str, value: object, longest: int) -> str:
    """Return `value` if every database keeps such text; raise `InvalidValueError` naming `field` else."""
    if not isinstance(value, str) or not value.strip() or len(value) > longest or not is_storable(value):
        raise InvalidValueError(
            field, f"must be 1 to {longest} characters of text without NUL, found {value!r:.80}"
        )
    return value


def as_steps(steps: Iterable[StepLike]) -> Sequence[Step]:
    """Return `steps` as `Step` objects; raise `InvalidValueError` for anything else."""
    parsed: list[Step] = []
    for position, step in enumerate(steps):
        if isinstance(step, tuple) and len(step) == 2:
            step = Step(*step)
        if not isinstance(step, Step) or not callable(step.fn):
            raise InvalidValueError(
                "steps", f"item {position} must be (name, function) or Step, found {step!r:.80}"
            )
        parsed.append(step)
    return parsed
