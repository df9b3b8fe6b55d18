"""The commands that need the dashboard's packages; `resume-engine` finds them by its entry points."""

from __future__ import annotations

import click

from webapp.cli.dashboard import dashboard
from webapp.cli.keys import keys
from webapp.cli.serve import serve
from webapp.cli.users import users

__all__ = ["dashboard", "keys", "serve", "users"]


def __getattr__(name: str) -> click.Command:
    """Return `demo`, whose workflows nobody else needs to load."""
    if name == "demo":
        from webapp.demo.command import demo

        return demo
    raise AttributeError(name)
