"""JSON that a person typed: read strictly, and every mistake told with its place."""

from __future__ import annotations

import json
import math
import re
from typing import Any

MAX_DEPTH = 64
MAX_DIGITS = 1_000
MAX_VALUES = 1_000_000

_TOKEN = re.compile(rf'"(?>[^"\\]+|\\.)*+"?|[{{}}\[\],]|[0-9]{{{MAX_DIGITS + 1},}}', re.DOTALL)
"""A string (to its end, if it has one), a bracket, a comma, or a number that is too long."""


class JsonInputError(ValueError):
    """Say what is wrong with typed JSON, and where."""


def read_object(text: str) -> dict[str, Any]:
    """Return the JSON object in `text`; raise `JsonInputError` with line and column of the first mistake.

    Stricter than `json.loads`: no repeated names, no NaN or Infinity, no character that a database refuses,
    at most 64 levels deep.
    """
    _check_shape(text)
    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite
        )
    except json.JSONDecodeError as mistake:
        raise JsonInputError(
            f"This is not JSON: {_words(mistake.msg)} at line {mistake.lineno}, column {mistake.colno}."
        ) from None
    except RecursionError:
        raise JsonInputError(f"This is nested more than {MAX_DEPTH} levels deep.") from None
    except JsonInputError:
        raise
    except ValueError as problem:  # a whole number with thousands of digits
        raise JsonInputError(f"This cannot be read: {problem}.") from None
    if not isinstance(value, dict):
        raise JsonInputError(
            f'This has to be a JSON object such as {{"refund_id": "r-1"}}, not {_kind(value)}.'
        )
    if "\\u" in text or "\0" in text:  # no other way leads to such a character
        _check_text(value)
    return value


def _check_shape(text: str) -> None:
    """Raise before parsing what would exhaust the stack or the memory: depth, numbers, how much there is."""
    depth = values = 0
    for token in _TOKEN.finditer(text):
        first = token[0][0]
        if first in "{[":
            depth += 1
            if depth > MAX_DEPTH:
                raise JsonInputError(f"This is nested more than {MAX_DEPTH} levels deep.")
        elif first in "}]":
            depth -= 1
        elif first == ",":
            values += 1
            if values > MAX_VALUES:
                raise JsonInputError(f"This holds more than {MAX_VALUES:,} values.")
        elif first != '"':
            raise JsonInputError(
                f"This holds a number of more than {MAX_DIGITS} digits. Write it as text in quotes."
            )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise JsonInputError(f'The name "{name}" stands twice in one object. Keep one of them.')
        found[name] = value
    return found


def _refuse_constant(word: str) -> Any:
    raise JsonInputError(f"{word} is not a JSON number. Write it as text in quotes, or leave it out.")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise JsonInputError(f"{text[:40]} is too large for a number. Write it as text in quotes.")
    return number


def _check_text(value: Any) -> None:
    if isinstance(value, str):
        if "\x00" in value or not _encodes(value):
            raise JsonInputError("This holds a character that cannot be stored (NUL or half of a pair).")
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_text(name)
            _check_text(item)
    elif isinstance(value, list):
        for item in value:
            _check_text(item)


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _words(message: str) -> str:
    """Return the parser's message in lower case, for the middle of a sentence."""
    return message[:1].lower() + message[1:]


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return {list: "a list", str: "text", bool: "true or false"}.get(type(value), "a number")
