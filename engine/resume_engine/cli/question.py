"""Errors as one sentence, and commands whose exit code is an answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from resume_engine.cli.printing import one_line
from resume_engine.core.errors import ResumeEngineError


@contextmanager
def sentences() -> Iterator[None]:
    """Turn the errors meant for people into sentences."""
    from resume_engine.storage.open_store import DATABASE_ERRORS, describe_database_error

    try:
        yield
    except ResumeEngineError as error:
        raise click.ClickException(one_line(str(error))) from error
    except DATABASE_ERRORS as error:
        reason = one_line(describe_database_error(error))
        raise click.ClickException(
            f"The database cannot be used: {reason}. Check --database (or DATABASE_URL)."
        ) from error


class Question(click.Command):
    """A command whose exit code is its answer; whatever keeps it from one ends it with `unanswered`."""

    def __init__(self, *args: Any, unanswered: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unanswered = unanswered

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the options."""
        with self._asked():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with self._asked(), sentences():
            return super().invoke(ctx)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except click.ClickException as problem:
            problem.show()
        except KeyboardInterrupt:
            click.echo("Interrupted: there is no answer.", err=True)
        except click.exceptions.Exit:
            raise
        except Exception as problem:  # whatever it is, 1 would be taken for an answer
            click.echo(
                f"There is no answer: {type(problem).__name__}: {one_line(str(problem), 400)}", err=True
            )
        else:
            return
        raise click.exceptions.Exit(self._unanswered)
