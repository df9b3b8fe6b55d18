"""The people of the demo. Who signs in by a printed link is one of them."""

from __future__ import annotations

from dataclasses import dataclass

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.permissions import Role


@dataclass(frozen=True)
class DemoPerson:
    """Somebody with an account in the demo."""

    name: str
    email: str
    role: Role

    def actor(self) -> Actor:
        """Return the person as the dashboard names them."""
        return Actor(name=self.email, role=self.role, channel=Channel.DASHBOARD)


ADMINISTRATOR = DemoPerson("Mei Tanaka", "mei.tanaka@example.com", Role.ADMIN)
OPERATOR = DemoPerson("Ana Ruiz", "ana.ruiz@example.com", Role.OPERATOR)
AUDITOR = DemoPerson("Otto Lindqvist", "otto.lindqvist@example.com", Role.AUDITOR)
ON_CALL = (
    OPERATOR,
    DemoPerson("Jonas Weber", "jonas.weber@example.com", Role.OPERATOR),
    DemoPerson("Priya Nair", "priya.nair@example.com", Role.OPERATOR),
)
EVERYBODY = (ADMINISTRATOR, *ON_CALL, AUDITOR)

SCHEDULER = Actor(name="scheduler", role=Role.RUNNER, channel=Channel.LIBRARY)
