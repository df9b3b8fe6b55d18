"""What completed steps left is merged while it is read, in whatever order they were completed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from resume_engine.core.done_steps import DoneSteps
from resume_engine.core.step_record import StepOutput

FIELDS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 9), max_size=2)
DONE = st.lists(st.tuples(st.integers(0, 6), FIELDS), max_size=12)


@given(done=DONE, initial=FIELDS, start=st.integers(0, 7))
def test_it_is_what_merging_step_by_step_gives(
    done: list[tuple[int, dict[str, Any]]], initial: dict[str, Any], start: int
) -> None:
    read = DoneSteps.read(lambda: [StepOutput(index, "s", dict(out), {"n": 1}) for index, out in done])
    outputs = dict(done)
    first = next(index for index in range(start, 9) if index not in outputs or index == 8)
    assert read.first_left(start, 8) == first
    state = dict(initial)
    for index in range(first):
        state |= outputs.get(index, {})
    assert list(read.state_before(first, initial).items()) == list(state.items())
    assert read.behind(first) == {index: out for index, out in outputs.items() if index > first}
    assert read.first_input == ({"n": 1} if 0 in outputs else None)


class Kept(dict[str, Any]):
    """An output that knows how many of its kind there are."""

    alive = 0

    def __init__(self, *fields: Any) -> None:
        super().__init__(*fields)
        Kept.alive += 1

    def __del__(self) -> None:
        Kept.alive -= 1


def test_outputs_are_not_held_once_they_are_merged() -> None:
    most = 0

    def outputs() -> Iterator[StepOutput]:
        nonlocal most
        for index in range(1_000):
            yield StepOutput(index, "s", Kept({"n": index}), None)
            most = max(most, Kept.alive)

    read = DoneSteps.read(outputs)
    assert read.state_before(1_000, {"m": 1}) == {"m": 1, "n": 999}
    assert most <= 2, f"{most} outputs at once"
