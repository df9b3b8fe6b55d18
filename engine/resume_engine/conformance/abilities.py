"""What not every store can do: a store says so with its reason, and the cases that need it are skipped."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

Case = TypeVar("Case", bound=Callable[..., Any])


class Ability(StrEnum):
    """Something that some cases need and not every store has."""

    WRITES_AS_GIVEN = "status, times, decisions and what follows from a record are written as the caller says"
    ANY_TEXT = "metadata may hold NUL and half characters"


def needs(ability: Ability) -> Callable[[Case], Case]:
    """Mark a case as one that a store without `ability` cannot pass."""

    def marked(case: Case) -> Case:
        case.needed_ability = ability  # type: ignore[attr-defined]
        return case

    return marked
