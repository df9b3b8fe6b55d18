"""Who acts on the command line: whoever holds the database, by the name of their login."""

from __future__ import annotations

import getpass

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.permissions import Role


def command_line_actor() -> Actor:
    """Return the login name as an administrator; a container may have none."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = "command line"
    return Actor(name=name, role=Role.ADMIN, channel=Channel.CLI)
