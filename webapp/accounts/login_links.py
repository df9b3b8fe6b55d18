"""One-time sign-in links for those who hold the database: the command line and the demo."""

from __future__ import annotations

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.permissions import Role
from resume_engine.storage.sql_store import SqlCheckpointStore
from webapp.accounts.records import Person, Purpose
from webapp.accounts.store import AccountStore, LoginLink

LOCAL_ADMIN = "admin@localhost"
SYSTEM = Actor(name="resume-engine", role=Role.ADMIN, channel=Channel.SYSTEM)


def create_login_link(
    store: SqlCheckpointStore, person: Person, purpose: Purpose = Purpose.SIGN_IN, *, actor: Actor = SYSTEM
) -> LoginLink:
    """Return a link that signs `person` in once; `link.path` goes behind the dashboard's address."""
    return AccountStore(store).create_link(person.user_id, purpose, actor=actor)


def local_admin(store: SqlCheckpointStore, *, actor: Actor = SYSTEM) -> Person:
    """Return the administrator of this machine, made on first use and enabled if need be."""
    accounts = AccountStore(store)
    person = accounts.find(LOCAL_ADMIN)
    if person is None:
        return accounts.add(LOCAL_ADMIN, role=Role.ADMIN, display_name="Local administrator", actor=actor)
    if person.role != Role.ADMIN:
        accounts.set_role(person.user_id, Role.ADMIN, actor=actor)
    if not person.is_active:
        accounts.enable(person.user_id, actor=actor)
    return person
