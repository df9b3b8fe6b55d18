"""Moments as text that the database gives, for lists of thousands: no object is made only to be written."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

_WHOLE = len("2026-11-20 15:00:00.000001")


class StoredMoment(FunctionElement[str]):
    """The text of a moment in UTC: `2026-11-20 15:00:00.000001`, perhaps without the zeros at its end."""

    inherit_cache = True
    type = Text()


@compiles(StoredMoment)
def _as_it_is(element: StoredMoment, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)  # SQLite keeps moments as such texts


@compiles(StoredMoment, "postgresql")
def _in_utc(element: StoredMoment, compiler: SQLCompiler, **options: Any) -> str:
    return f"CAST(timezone('UTC', {compiler.process(element.clauses, **options)}) AS text)"


def moment_texts(found: Iterable[str | None]) -> list[str]:
    """Return stored moments as JSON: strings as `datetime.isoformat` writes them in UTC; null for none."""
    return [
        "null"
        if raw is None
        else f'"{raw[:10]}T{raw[11:]}+00:00"'
        if len(raw) == _WHOLE and not raw.endswith(".000000")
        else f'"{datetime.fromisoformat(f"{raw}+00:00").isoformat()}"'
        for raw in found
    ]
