"""Who acts: a name, the role it acts under, and the way it came in."""

from __future__ import annotations

import re
from collections.abc import Mapping
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

_KEY_NAME = re.compile(r"key .* \(([a-z0-9]{8})\)", re.DOTALL)


def key_actor_name(name: str, key_id: str) -> str:
    """Return the name under which a key acts."""
    return f"key {name} ({key_id})"


def people_behind(names: Mapping[str, str], made: Mapping[str, tuple[str, str | None]]) -> dict[str, str]:
    """Return the person behind each of the `names` of keys, given by their ids; a pure function.

    `made` says who made a key, and which key it succeeds. The people along such a line count as the first of
    them, under their own names too.
    """
    one: dict[str, str] = {}

    def first(person: str) -> str:
        while person in one:
            person = one[person]
        return person

    for by, replaces in made.values():
        if replaces is not None and replaces in made and first(by) != first(made[replaces][0]):
            one[first(by)] = first(made[replaces][0])
    behind = {name: first(made[key_id][0]) for key_id, name in names.items() if key_id in made}
    return behind | {person: first(person) for person in one}


def key_id_of(actor_name: str) -> str | None:
    """Return the id of the key that acts under a name, None for every other name."""
    found = _KEY_NAME.fullmatch(actor_name)
    return found.group(1) if found else None
