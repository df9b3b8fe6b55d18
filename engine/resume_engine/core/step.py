"""A step of a workflow: its name and its function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from resume_engine.core.errors import InvalidValueError
from resume_engine.core.payload import is_storable

StepCallable = Callable[[dict[str, Any], str], dict[str, Any]]
"""`step_fn(input_data, idempotency_key) -> output_data`."""


@dataclass(frozen=True)
class Step:
    """Name a step and the function that does it."""

    name: str
    fn: StepCallable


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
        check_step_name(step.name)
        parsed.append(step)
    return parsed
