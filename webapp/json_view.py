"""Recorded JSON, re-indented and cut into coloured tokens; the template escapes every one of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from resume_engine.core.masking import MASK_BEGINNING, mask_json_text

MAX_CHARACTERS = 20_000
"""More of one value is not put on a page; the raw download has all of it."""
PREVIEW_CHARACTERS = 120
INDENT = "  "

_TOKEN = re.compile(
    r'(?P<string>"(?:[^"\\]|\\.)*")|(?P<number>-?(?:\d[\d.eE+-]*|Infinity)|NaN)|(?P<word>true|false|null)'
    r"|(?P<open>[{\[])|(?P<close>[}\]])|(?P<comma>,)|(?P<colon>:)|(?P<space>\s+)|(?P<other>.)"
)
# Controls and direction overrides would let a value disguise itself as something else.
_DISGUISE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")

Token = tuple[str, str]
"""A class name of app.css (k, s, n, b, or empty for punctuation) and the text to show."""


class Revealed(str):
    """JSON text that its reader may see with its secrets."""


def as_text(value: Any) -> str:
    """Return `value` as JSON text, secrets masked; text is taken to be JSON already, as it is stored."""
    if isinstance(value, Revealed):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return mask_json_text(text)


def is_masked(value: Any) -> bool:
    """Return whether something in a text that is shown is masked."""
    return MASK_BEGINNING in str(value or "")


def size(value: Any) -> int:
    """Return how many bytes the value's JSON takes."""
    return len(as_text(value).encode("utf-8", "replace"))


def preview(value: Any) -> str:
    """Return the beginning of the value on one line."""
    text = " ".join(as_text(value)[: PREVIEW_CHARACTERS * 2].split())
    return visible(text if len(text) <= PREVIEW_CHARACTERS else text[:PREVIEW_CHARACTERS] + "…")


def visible(text: str) -> str:
    """Return `text` with invisible and direction-changing characters written as escapes."""
    return _DISGUISE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def tokens(value: Any, limit: int = MAX_CHARACTERS) -> Iterator[Token]:
    """Yield the value as indented, coloured tokens; text that is no JSON comes back as it is."""
    text = as_text(value)
    cut = text[:limit]
    plain = ""
    for kind, piece in _laid_out(cut):
        if kind:
            if plain:
                yield "", plain
                plain = ""
            yield kind, piece
        else:
            plain += piece
    if len(text) > limit:
        plain += f"\n… {len(text) - limit:,} more characters: see the raw download"
    if plain:
        yield "", plain


def _laid_out(text: str) -> Iterator[Token]:
    """Walk the text without recursion, so that no depth of nesting can exhaust the stack."""
    depth = 0
    pieces = [(str(m.lastgroup), m[0]) for m in _TOKEN.finditer(text) if m.lastgroup != "space"]
    for index, (kind, piece) in enumerate(pieces):
        following = pieces[index + 1][0] if index + 1 < len(pieces) else ""
        if kind == "open":
            depth += 1
            yield "", piece if following == "close" else piece + _newline(depth)
        elif kind == "close":
            depth = max(0, depth - 1)
            empty = index > 0 and pieces[index - 1][0] == "open"
            yield "", piece if empty else _newline(depth) + piece
        elif kind == "comma":
            yield "", "," + _newline(depth)
        elif kind == "colon":
            yield "", ": "
        elif kind == "string":
            yield ("k" if following == "colon" else "s"), _readable(piece)
        else:
            yield {"number": "n", "word": "b"}.get(kind, ""), visible(piece)


def _newline(depth: int) -> str:
    return "\n" + INDENT * min(depth, 40)


def _readable(literal: str) -> str:
    """Return a JSON string with its \\uXXXX escapes shown as the characters they stand for."""
    with suppress(ValueError):
        literal = json.dumps(json.loads(literal), ensure_ascii=False)
    return visible(literal)
