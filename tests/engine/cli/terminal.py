"""A terminal on which commands are run against one database."""

from __future__ import annotations

from typing import Any

from click.testing import CliRunner, Result

from resume_engine.cli import main


class Terminal:
    """Runs commands against one database."""

    def __init__(self, url: str) -> None:
        self.url = url

    def run(self, *arguments: str, code: int = 0, database: str | None = None, **options: Any) -> Result:
        """Run a command and check its exit code; a traceback is never an answer."""
        given = [*arguments, "--database", database or self.url]
        result = CliRunner().invoke(main, given, prog_name="resume-engine", **options)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    def fails(self, *arguments: str, **options: Any) -> str:
        """Run a command that must fail with one sentence on stderr, and return it."""
        result = self.run(*arguments, code=1, **options)
        assert result.stdout == "" and result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1
        return result.stderr.strip()
