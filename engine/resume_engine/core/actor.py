"""Who acts: a name, the role it acts under, and the way it came in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from resume_engine.core.permissions import Role


class Channel(StrEnum):
    """The way an act reached the engine."""

    LIBRARY = "library"  # a Python call; whoever holds the database URL
    DASHBOARD = "dashboard"  # a signed-in person
    CLI = "cli"  # the command line
    API = "api"  # a key
    WORKER = "worker"  # the resume worker
    SYSTEM = "system"  # the product itself, for example a migration


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Identify who acts; recorded with every decision and audit event."""

    name: str
    role: Role
    channel: Channel = Channel.LIBRARY


ENGINE_ACTOR = Actor(name="engine", role=Role.RUNNER, channel=Channel.LIBRARY)
"""The executor itself, when nobody else is named."""
