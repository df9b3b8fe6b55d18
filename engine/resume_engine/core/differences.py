"""What differs between two payloads or two lists of names, in lines that people can read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import islice
from typing import Any

from resume_engine.core.masking import MASK, is_secret_name, mask_text

SHOWN = 12
_VALUE_MAX_CHARACTERS = 160
_ABSENT = object()


def payload_diff(recorded: object, found: object) -> tuple[str, ...]:
    """Return a `-` line for each value recorded and a `+` line for what is there instead, by path.

    Values under the names of secrets are masked. Of more than `SHOWN` differing values the rest is counted.
    """
    differing = _differing(recorded, found, "")
    lines = [line for path, *pair in islice(differing, SHOWN) for line in _lines(path, *pair)]
    more = sum(1 for _ in differing)
    return (*lines, f"  and {more} more") if more else tuple(lines)


def names_diff(recorded: Sequence[str], found: Sequence[str]) -> tuple[str, ...]:
    """Return both lists as one: `-` before a name that is only recorded, `+` before one that is not."""
    lines: list[str] = []
    for kind, a, b, c, d in SequenceMatcher(None, recorded, found, autojunk=False).get_opcodes():
        if kind == "equal":
            names = [f"  {name}" for name in recorded[a:b]]
            lines += names if len(names) <= 4 else [names[0], f"  ... {len(names) - 2} steps", names[-1]]
        else:
            lines += [f"- {name}" for name in recorded[a:b]] + [f"+ {name}" for name in found[c:d]]
    more = len(lines) - 4 * SHOWN
    return (*lines[: 4 * SHOWN], f"  and {more} more") if more > 0 else tuple(lines)


def _differing(recorded: object, found: object, path: str) -> Iterator[tuple[str, object, object]]:
    if isinstance(recorded, dict) and isinstance(found, dict):
        for name in sorted({*recorded, *found}, key=str):
            yield from _differing(
                recorded.get(name, _ABSENT), found.get(name, _ABSENT), f"{path}.{name}" if path else str(name)
            )
    elif isinstance(recorded, list) and isinstance(found, list):
        for index in range(max(len(recorded), len(found))):
            yield from _differing(_item(recorded, index), _item(found, index), f"{path}[{index}]")
    elif type(recorded) is not type(found) or recorded != found:
        yield path, recorded, found


def _item(values: list[Any], index: int) -> object:
    return values[index] if index < len(values) else _ABSENT


def _lines(path: str, recorded: object, found: object) -> Iterator[str]:
    for sign, value in (("-", recorded), ("+", found)):
        if value is not _ABSENT:
            yield f"{sign} {path}: {_shown(path, value)}"


def _shown(path: str, value: object) -> str:
    if any(is_secret_name(part) for part in path.split(".")):
        return MASK
    return mask_text(f"{value!r}")[:_VALUE_MAX_CHARACTERS]
