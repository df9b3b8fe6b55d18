"""Which database a command works on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from resume_engine.cli.printing import one_line
from resume_engine.storage.open_store import DEFAULT_DATABASE_URL, missing_file, open_store
from resume_engine.storage.sql_store import SqlCheckpointStore

Command = TypeVar("Command", bound=Callable[..., Any])


def database_option(command: Command) -> Command:
    """Add `--database URL` to a command; it arrives as `database`."""
    return click.option(
        "--database",
        metavar="URL",
        envvar="DATABASE_URL",
        default=DEFAULT_DATABASE_URL,
        show_default=True,
        show_envvar=True,
        help="sqlite:///file.db or postgresql+psycopg2://user@host/name.",
    )(command)


@contextmanager
def opened(database: str) -> Iterator[SqlCheckpointStore]:
    """Open an existing database for a command; a SQLite file that is not there is not created."""
    refuse_missing_file(database)
    with open_store(database) as store:
        yield store


def refuse_missing_file(database: str) -> None:
    """Stop when the URL names a SQLite file that does not exist: most likely a mistyped path."""
    path = missing_file(database)
    if path is not None:
        raise click.ClickException(
            f"There is no database at {one_line(path)}. Name one with --database (or DATABASE_URL), "
            "or make one with `resume-engine db upgrade`."
        )
