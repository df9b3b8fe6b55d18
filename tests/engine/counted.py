"""A step that counts its calls."""

from __future__ import annotations

from typing import Any


class Counted:
    """A step function that counts its calls and fails the first times."""

    def __init__(self, output: dict[str, Any] | None = None, *errors: Exception) -> None:
        self.calls: list[tuple[dict[str, Any], str]] = []
        self._output = output or {}
        self._errors = list(errors)

    def __call__(self, state: dict[str, Any], key: str) -> dict[str, Any]:
        self.calls.append((state, key))
        if self._errors:
            raise self._errors.pop(0)
        return dict(self._output)
