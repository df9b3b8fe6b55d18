"""Text for a terminal: nothing that was recorded may move the cursor, colour or forge a line."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime

import click

from resume_engine.core.clock import as_utc

_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def one_line(text: object, longest: int | None = None) -> str:
    """Return text with control, format and line characters escaped, cut to `longest` characters."""
    shown = "".join(_escaped(character) for character in str(text))
    if longest is not None and len(shown) > longest:
        return shown[: longest - 1] + "…"
    return shown


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _UNSAFE:
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def moment(at: datetime | None) -> str:
    """Return a time as `2026-11-22 09:30:07Z`, or a dash."""
    return as_utc(at).strftime("%Y-%m-%d %H:%M:%SZ") if at is not None else "-"


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """Print a table; cells must have gone through `one_line`."""
    printed = [list(heads), *(list(line) for line in lines)]
    widths = [max(len(line[column]) for line in printed) for column in range(len(heads))]
    for line in printed:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def next_step(text: str) -> None:
    """Say what to do next, behind a blank line."""
    click.echo(f"\nNext: {text}")
