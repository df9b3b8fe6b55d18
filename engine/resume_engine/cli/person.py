"""Who acts at the command line."""

from __future__ import annotations

import getpass

import click

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.permissions import Role

as_option = click.option("--as", "name", metavar="NAME", help="Who acts [default: the system user].")


def person(name: str | None) -> Actor:
    """Return who acts: the name given, or the system user.

    Whoever holds the database URL could write by hand what a command writes, so no role is checked here.
    """
    if name is None:
        try:
            name = getpass.getuser()
        except (KeyError, OSError) as problem:
            raise click.UsageError("The system does not say who you are; add --as NAME.") from problem
    return Actor(name=name, role=Role.OPERATOR, channel=Channel.CLI)
