"""What every table is made of: the names of keys, and moments in UTC."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, DateTime, Dialect, MetaData, TypeDecorator, type_coerce

from resume_engine.core.clock import as_utc

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """Store aware datetimes as UTC; SQLite keeps them without a zone, as 0.2.0 did."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return UTC, without a zone for SQLite."""
        if value is None:
            return None
        moment = as_utc(value)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None]:
        """Return what reads a value; a list reads hundreds of them, so SQLite's text is read in one go."""
        if dialect.name != "sqlite":
            return lambda value: self.process_result_value(value, dialect)
        return lambda value: None if value is None else datetime.fromisoformat(f"{value}+00:00")

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return an aware UTC datetime."""
        if value is None:
            return None
        if value.tzinfo is UTC:
            return value
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class _StoredDateTime(UtcDateTime):
    """Leave what is no moment as it is."""

    cache_ok = True
    python_type = datetime

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        """Return what reads a value, whatever it is."""
        read = super().result_processor(dialect, coltype)

        def as_it_is(value: Any) -> Any:
            try:
                return read(value)
            except (ValueError, TypeError):
                return value

        return as_it_is


def as_stored(columns: Iterable[Column[Any]]) -> list[ColumnElement[Any]]:
    """Return columns that give what is no moment as it is, for those who look for such among other rows."""
    return [
        type_coerce(column, _StoredDateTime()).label(column.name)
        if isinstance(column.type, UtcDateTime)
        else column
        for column in columns
    ]


def unlike_its_column(columns: Sequence[ColumnElement[Any]], row: Any) -> str | None:
    """Return what in a row of such columns is no value of its type, None if all are."""
    for column, value in zip(columns, row, strict=True):
        if value is not None and not isinstance(value, column.type.python_type):
            return f"{column.key} is {value!r:.80}"
    return None


def plain_column(column: Column[Any]) -> Column[Any]:
    """Return a column as a migration adds it, in types that Alembic knows."""
    kind = DateTime(timezone=True) if isinstance(column.type, UtcDateTime) else column.type
    return Column(column.name, kind, nullable=column.nullable, server_default=column.server_default)
