"""The top of the command line: errors as one sentence, and commands that other packages contribute."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from resume_engine.cli.question import sentences

ENTRY_POINT_GROUP = "resume_engine.commands"


class CommandLine(click.Group):
    """A group whose commands also come from entry points, loaded when they are asked for.

    What the engine raises becomes one sentence and exit code 1. A contributed command whose packages are
    not installed says which extra brings them.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn the errors meant for people into sentences."""
        with sentences():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, contributed ones included."""
        return sorted({*super().list_commands(ctx), *_contributed()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; our own names cannot be taken over by another package."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        entry_point = _contributed().get(cmd_name)
        return _load(entry_point) if entry_point is not None else None


def _contributed() -> dict[str, EntryPoint]:
    return {entry_point.name: entry_point for entry_point in entry_points(group=ENTRY_POINT_GROUP)}


def _load(entry_point: EntryPoint) -> click.Command:
    try:
        command = entry_point.load()
    except ModuleNotFoundError as problem:
        if (problem.name or "").partition(".")[0] in ("resume_engine", ""):
            raise  # a fault of ours, which no extra mends
        return _unavailable(entry_point.name, problem.name or "")
    if not isinstance(command, click.Command):
        raise click.ClickException(f"{entry_point.value} is no command; its package is faulty.")
    return command


def _unavailable(name: str, missing: str) -> click.Command:
    extra = 'pip install "resume_engine[dashboard]"'

    def refuse() -> None:
        raise click.ClickException(
            f"`resume-engine {name}` needs packages that are not installed ({missing} is missing): {extra}."
        )

    settings = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
    return click.Command(name, callback=refuse, context_settings=settings, help=f"(not installed: {extra})")
