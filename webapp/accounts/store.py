"""The SQL of accounts: people and their sign-in links. Each act and its audit event are one transaction."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from resume_engine.core import clock
from resume_engine.core.actor import Actor
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.permissions import PEOPLE_ROLES, Role
from resume_engine.storage.audit_log import append_in_tx
from resume_engine.storage.schema import login_links, user_sessions, users
from resume_engine.storage.sql_store import SqlCheckpointStore
from webapp.accounts.records import LINK_LIFETIME, AccountError, Person, Purpose, token_hash

LAST_ADMIN = "This is the last administrator who can sign in. Make somebody else administrator first."


@dataclass(frozen=True, kw_only=True)
class LoginLink:
    """A link that signs one person in, once; it is shown once and stored hashed."""

    person: Person
    purpose: Purpose
    path: str
    expires_at: datetime


class AccountStore:
    """Read and change people; whoever may do it has been asked before."""

    def __init__(self, store: SqlCheckpointStore) -> None:
        self._store = store

    def list_people(self) -> Sequence[Person]:
        """Return everybody, by email."""
        with self._store.asking() as conn:
            return [Person.from_row(row) for row in conn.execute(select(users).order_by(users.c.email))]

    def find(self, email: str) -> Person | None:
        """Return the person with this email, or None."""
        return self._one(users.c.email == normal_email(email))

    def get(self, user_id: int) -> Person | None:
        """Return the person with this id, or None."""
        return self._one(users.c.user_id == user_id)

    def credentials(self, email: str) -> tuple[Person, str | None] | None:
        """Return a person with the hash of their password, or None."""
        with self._store.asking() as conn:
            row = conn.execute(select(users).where(users.c.email == normal_email(email))).one_or_none()
        return (Person.from_row(row), row.password_hash) if row is not None else None

    def can_anybody_sign_in(self) -> bool:
        """Return whether some enabled person has a password or a link that still works."""
        live_link = (
            select(login_links.c.user_id)
            .where(login_links.c.user_id == users.c.user_id)
            .where(login_links.c.used_at.is_(None), login_links.c.expires_at > clock.utc_now())
        )
        query = (
            select(users.c.user_id)
            .where(users.c.disabled_at.is_(None))
            .where(users.c.password_hash.is_not(None) | live_link.exists())
            .limit(1)
        )
        with self._store.asking() as conn:
            return conn.execute(query).first() is not None

    def add(self, email: str, *, role: Role, actor: Actor, display_name: str = "") -> Person:
        """Add a person; raise `AccountError` when the email is taken or nobody's."""
        now = clock.utc_now()
        address = checked_email(email)
        values: dict[str, Any] = {
            "email": address,
            "display_name": display_name.strip() or address.partition("@")[0],
            "role": checked_role(role).value,
            "created_at": now,
        }
        event = AuditEvent.by(
            actor, EventType.USER_CREATED, now, payload={"email": address, "role": values["role"]}
        )
        try:
            with self._store.writing() as conn:
                conn.execute(insert(users).values(values))
                insert_event_in_tx(conn, event)
                return Person.from_row(conn.execute(select(users).where(users.c.email == address)).one())
        except IntegrityError as error:
            raise AccountError(f"{address} has an account already.") from error

    def set_role(self, user_id: int, role: Role, *, actor: Actor) -> bool:
        """Change a role and end the person's sessions; False when they have it already."""
        now = clock.utc_now()
        with self._store.writing() as conn:
            before, others = _locked_with_admins(conn, user_id)
            if before.role == checked_role(role):
                return False
            if role is not Role.ADMIN:
                _keep_an_admin(before, others)
            conn.execute(update(users).where(users.c.user_id == user_id).values(role=role.value))
            end_sessions_in_tx(conn, user_id, now)
            payload = {"email": before.email, "role": role.value, "role_before": before.role}
            insert_event_in_tx(conn, AuditEvent.by(actor, EventType.USER_ROLE_CHANGED, now, payload=payload))
        return True

    def disable(self, user_id: int, *, actor: Actor) -> bool:
        """Close an account, its sessions and its links; False when it is closed already."""
        now = clock.utc_now()
        with self._store.writing() as conn:
            person, others = _locked_with_admins(conn, user_id)
            if person.disabled_at is not None:
                return False
            _keep_an_admin(person, others)
            conn.execute(update(users).where(users.c.user_id == user_id).values(disabled_at=now))
            end_sessions_in_tx(conn, user_id, now)
            _end_links(conn, user_id, now)
            event = AuditEvent.by(actor, EventType.USER_DISABLED, now, payload={"email": person.email})
            insert_event_in_tx(conn, event)
        return True

    def enable(self, user_id: int, *, actor: Actor) -> bool:
        """Open an account again; False when it is open already."""
        now = clock.utc_now()
        with self._store.writing() as conn:
            person = _locked_person(conn, user_id)
            if person.disabled_at is None:
                return False
            conn.execute(update(users).where(users.c.user_id == user_id).values(disabled_at=None))
            event = AuditEvent.by(actor, EventType.USER_ENABLED, now, payload={"email": person.email})
            insert_event_in_tx(conn, event)
        return True

    def set_password(self, user_id: int, password_hash: str, *, actor: Actor) -> None:
        """Store a new password; every session and link of the person ends."""
        now = clock.utc_now()
        with self._store.writing() as conn:
            person = _locked_person(conn, user_id)
            conn.execute(
                update(users)
                .where(users.c.user_id == user_id)
                .values(password_hash=password_hash, password_changed_at=now)
            )
            end_sessions_in_tx(conn, user_id, now)
            _end_links(conn, user_id, now)
            event = AuditEvent.by(
                actor, EventType.USER_PASSWORD_CHANGED, now, payload={"email": person.email}
            )
            insert_event_in_tx(conn, event)

    # Links

    def create_link(
        self, user_id: int, purpose: Purpose, *, actor: Actor, lifetime: timedelta | None = None
    ) -> LoginLink:
        """Make a link that signs this person in once; earlier ones stop working."""
        now = clock.utc_now()
        token = secrets.token_urlsafe(32)
        expires_at = now + (lifetime or LINK_LIFETIME[purpose])
        with self._store.writing() as conn:
            person = _locked_person(conn, user_id)
            if person.disabled_at is not None:
                raise AccountError(f"{person.email} is disabled: enable the account first.")
            _end_links(conn, user_id, now)
            conn.execute(
                insert(login_links).values(
                    token_hash=token_hash(token),
                    user_id=user_id,
                    purpose=purpose.value,
                    created_at=now,
                    expires_at=expires_at,
                )
            )
            payload = {"email": person.email, "purpose": purpose.value}
            insert_event_in_tx(conn, AuditEvent.by(actor, EventType.USER_LINK_CREATED, now, payload=payload))
        return LoginLink(person=person, purpose=purpose, path=f"/login/link/{token}", expires_at=expires_at)

    def find_link(self, token: str) -> tuple[Person, Purpose] | None:
        """Return whom a link would sign in, or None when it does not work (any more); it is not used up."""
        query = (
            select(users, login_links.c.purpose)
            .join(login_links, login_links.c.user_id == users.c.user_id)
            .where(login_links.c.token_hash == token_hash(token), login_links.c.used_at.is_(None))
            .where(login_links.c.expires_at > clock.utc_now(), users.c.disabled_at.is_(None))
        )
        with self._store.asking() as conn:
            row = conn.execute(query).one_or_none()
        return (Person.from_row(row), Purpose(row.purpose)) if row is not None else None

    def _one(self, condition: Any) -> Person | None:
        with self._store.asking() as conn:
            row = conn.execute(select(users).where(condition)).one_or_none()
        return Person.from_row(row) if row is not None else None


def normal_email(email: str) -> str:
    """Return an email as it is stored."""
    return email.strip().lower()


def checked_email(email: str) -> str:
    """Return an email as it is stored; raise `AccountError` for what cannot be one."""
    address = normal_email(email)
    name, _, host = address.partition("@")
    if (
        not name
        or not host
        or "@" in host
        or not address.isprintable()
        or " " in address
        or len(address) > 255
    ):
        raise AccountError(f"{email!r} is not an email address.")
    return address


def checked_role(role: Role) -> Role:
    """Return the role; raise `AccountError` for one that people cannot have."""
    if role not in PEOPLE_ROLES:
        raise AccountError(f"People are {', '.join(PEOPLE_ROLES)}; {role} is for keys.")
    return role


def insert_event_in_tx(conn: Connection, event: AuditEvent) -> None:
    """Write an audit event in the transaction of the act it tells of."""
    append_in_tx(conn, event)


def end_sessions_in_tx(conn: Connection, user_id: int, now: datetime) -> int:
    """End every open session of a person; return how many there were."""
    ended = conn.execute(
        update(user_sessions)
        .where(user_sessions.c.user_id == user_id, user_sessions.c.revoked_at.is_(None))
        .values(revoked_at=now)
    )
    return int(ended.rowcount)


def _end_links(conn: Connection, user_id: int, now: datetime) -> None:
    conn.execute(
        update(login_links)
        .where(login_links.c.user_id == user_id, login_links.c.used_at.is_(None))
        .values(used_at=now)
    )


def _locked_person(conn: Connection, user_id: int) -> Person:
    row = conn.execute(select(users).where(users.c.user_id == user_id).with_for_update()).one_or_none()
    if row is None:
        raise AccountError("There is no such person.")
    return Person.from_row(row)


def _locked_with_admins(conn: Connection, user_id: int) -> tuple[Person, bool]:
    """Return a person, and whether somebody else could administrate without them.

    Everybody concerned is locked in one order: two administrators who remove each other at once take
    turns, and neither waits for the other for ever.
    """
    is_admin = (users.c.role == Role.ADMIN.value) & users.c.disabled_at.is_(None)
    locked = select(users).where((users.c.user_id == user_id) | is_admin).order_by(users.c.user_id)
    people = [Person.from_row(row) for row in conn.execute(locked.with_for_update())]
    person = next((found for found in people if found.user_id == user_id), None)
    if person is None:
        raise AccountError("There is no such person.")
    others = [p for p in people if p.user_id != user_id and p.role == Role.ADMIN and p.is_active]
    return person, bool(others)


def _keep_an_admin(person: Person, others: bool) -> None:
    if person.role == Role.ADMIN and person.is_active and not others:
        raise AccountError(LAST_ADMIN)
