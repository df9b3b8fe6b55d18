"""The SQL of sessions and of sign-in attempts. Each act and its audit event are one transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from resume_engine.core import clock
from resume_engine.core.actor import Actor, Channel
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.permissions import Role
from resume_engine.storage.schema import login_attempts, login_links, user_sessions, users
from resume_engine.storage.sql_store import SqlCheckpointStore
from webapp.accounts.records import (
    ABSOLUTE_LIMIT,
    REFERENCE_CHARACTERS,
    AccountError,
    Person,
    SessionRecord,
)
from webapp.accounts.store import end_sessions_in_tx, insert_event_in_tx
from webapp.accounts.throttle import WINDOW, wait_after

_SESSION_COLUMNS = [
    column.label("session_created_at") if column.name == "created_at" else column
    for column in user_sessions.c
    if column.name != "user_id"
]
_KEEP_ENDED = timedelta(days=30)
RENEWED = "renewed"
"""How a browser got its session when it only changed its id; not an event of its own."""
CONFIRMED = "confirmed"
"""How it got it when the person gave the password once more."""


@dataclass(frozen=True, kw_only=True)
class NewSession:
    """What is known of a browser that signs in."""

    session_hash: str
    person: Person
    how: str  # password, link, ...: for the audit log
    address: str | None = None
    user_agent: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    replaces: str | None = None  # hash of the session this browser had before
    link_hash: str | None = None  # of the link that is used up
    rehashed: str | None = None  # the same password at today's cost


class SessionStore:
    """Read and change sessions and attempts."""

    def __init__(self, store: SqlCheckpointStore) -> None:
        self._store = store

    def load(self, session_hash: str) -> tuple[SessionRecord, Person] | None:
        """Return a session that may be used and its person, in one statement; None if it is over."""
        now = clock.utc_now()
        query = (
            select(users, *_SESSION_COLUMNS)
            .join(user_sessions, user_sessions.c.user_id == users.c.user_id)
            .where(user_sessions.c.session_hash == session_hash)
            .where(user_sessions.c.revoked_at.is_(None), users.c.disabled_at.is_(None))
        )
        with self._store.asking() as conn:
            row = conn.execute(query).one_or_none()
        if row is None:
            return None
        record, person = SessionRecord.from_row(row), Person.from_row(row)
        return (record, person) if record.is_alive(now) and person.is_active else None

    def start(self, new: NewSession) -> SessionRecord:
        """Write a new session and its event; raise `AccountError` when link or account are over meanwhile."""
        now = clock.utc_now()
        with self._store.writing() as conn:
            if new.link_hash is not None:
                _use_link(conn, new.link_hash, now)
            current = conn.execute(
                select(users.c.disabled_at).where(users.c.user_id == new.person.user_id).with_for_update()
            ).one_or_none()
            if current is None or current.disabled_at is not None:
                raise AccountError("This account is closed.")
            if new.replaces is not None:
                _revoke(conn, user_sessions.c.session_hash == new.replaces, now)
            if new.rehashed is not None:
                statement = update(users).where(users.c.user_id == new.person.user_id)
                conn.execute(statement.values(password_hash=new.rehashed))
            record = _insert_session(conn, new, now)
            if new.how != RENEWED:
                insert_event_in_tx(conn, _started_event(new, now))
            conn.execute(delete(user_sessions).where(user_sessions.c.expires_at < now - _KEEP_ENDED))
        return record

    def save(self, session_hash: str, *, last_seen_at: datetime | None, data: dict[str, Any] | None) -> None:
        """Note activity, or what the session remembers, or both; an ended session stays ended."""
        values: dict[str, Any] = {}
        if last_seen_at is not None:
            values["last_seen_at"] = last_seen_at
        if data is not None:
            values["data_json"] = json.dumps(data)
        with self._store.writing() as conn:
            conn.execute(
                update(user_sessions)
                .where(user_sessions.c.session_hash == session_hash, user_sessions.c.revoked_at.is_(None))
                .values(values)
            )

    def sign_out(self, session_hash: str, *, actor: Actor) -> None:
        """End the session a person is signing out of."""
        now = clock.utc_now()
        with self._store.writing() as conn:
            _revoke(conn, user_sessions.c.session_hash == session_hash, now)
            insert_event_in_tx(conn, AuditEvent.by(actor, EventType.AUTH_SIGNED_OUT, now))

    def end_one(self, user_id: int, reference: str, *, actor: Actor) -> bool:
        """End one session of a person by its reference; False when it is over already."""
        now = clock.utc_now()
        with self._store.writing() as conn:
            mine = user_sessions.c.user_id == user_id
            named = func.substr(user_sessions.c.session_hash, 1, REFERENCE_CHARACTERS) == reference
            ended = _revoke(conn, mine & named, now)
            if ended:
                insert_event_in_tx(conn, _ended_event(actor, now, actor.name, ended))
        return ended > 0

    def end_all(self, person: Person, *, actor: Actor) -> int:
        """End every session of a person; return how many there were."""
        now = clock.utc_now()
        with self._store.writing() as conn:
            ended = end_sessions_in_tx(conn, person.user_id, now)
            if ended:
                insert_event_in_tx(conn, _ended_event(actor, now, person.email, ended))
        return ended

    def list_open(self, user_id: int) -> Sequence[SessionRecord]:
        """Return a person's sessions that may be used, latest activity first."""
        now = clock.utc_now()
        query = (
            select(user_sessions.c.user_id, *_SESSION_COLUMNS)
            .where(user_sessions.c.user_id == user_id, user_sessions.c.revoked_at.is_(None))
            .where(user_sessions.c.expires_at > now)
            .order_by(user_sessions.c.last_seen_at.desc())
        )
        with self._store.asking() as conn:
            records = [SessionRecord.from_row(row) for row in conn.execute(query)]
        return [record for record in records if record.is_alive(now)]

    # Attempts

    def reserve_attempt(self, scopes: Sequence[str]) -> timedelta | None:
        """Count one more attempt for each scope and return None, or how long to wait instead.

        Counted before the password is looked at, so that many guesses at once find no gap.
        """
        now = clock.utc_now()
        with self._store.writing() as conn:
            waits = [self._wait(conn, scope, now) for scope in sorted(scopes)]
            longest = max(waits)
            if longest > timedelta():
                return longest
            conn.execute(
                insert(login_attempts), [{"scope": scope[:300], "attempted_at": now} for scope in scopes]
            )
            conn.execute(delete(login_attempts).where(login_attempts.c.attempted_at < now - 2 * WINDOW))
        return None

    def forget_attempts(self, own_scope: str, address_scope: str) -> None:
        """After a success: clear the account's attempts, and the one that succeeded from its address."""
        latest = (
            select(func.max(login_attempts.c.attempt_id))
            .where(login_attempts.c.scope == address_scope[:300])
            .scalar_subquery()
        )
        with self._store.writing() as conn:
            conn.execute(delete(login_attempts).where(login_attempts.c.scope == own_scope[:300]))
            conn.execute(delete(login_attempts).where(login_attempts.c.attempt_id == latest))

    def record_failure(self, email: str, address: str | None, reason: str) -> None:
        """Write the event of a failed sign-in; what is no email may be a password in the wrong field."""
        event = AuditEvent(
            event_type=EventType.AUTH_SIGN_IN_FAILED.value,
            actor=email if "@" in email else "unknown",
            role="none",
            channel=Channel.DASHBOARD.value,
            created_at=clock.utc_now(),
            payload={"address": address, "reason": reason},
        )
        self._store.append_event(event)

    def _wait(self, conn: Connection, scope: str, now: datetime) -> timedelta:
        if conn.dialect.name == "postgresql":
            # Attempts on one scope take turns; SQLite's writers do so anyway.
            conn.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(scope, 0))))
        counted = conn.execute(
            select(func.count(), func.max(login_attempts.c.attempted_at)).where(
                login_attempts.c.scope == scope[:300], login_attempts.c.attempted_at > now - WINDOW
            )
        ).one()
        return wait_after(scope, counted[0], counted[1], now)


def _use_link(conn: Connection, link_hash: str, now: datetime) -> None:
    used = conn.execute(
        update(login_links)
        .where(login_links.c.token_hash == link_hash, login_links.c.used_at.is_(None))
        .where(login_links.c.expires_at > now)
        .values(used_at=now)
    )
    if used.rowcount != 1:
        raise AccountError("This link has been used or is too old.")


def _insert_session(conn: Connection, new: NewSession, now: datetime) -> SessionRecord:
    record = SessionRecord(
        session_hash=new.session_hash,
        user_id=new.person.user_id,
        created_at=now,
        last_seen_at=now,
        expires_at=now + ABSOLUTE_LIMIT,
        address=(new.address or "")[:64] or None,
        user_agent=(new.user_agent or "")[:255] or None,
        data=dict(new.data),
    )
    conn.execute(
        insert(user_sessions).values(
            session_hash=record.session_hash,
            user_id=record.user_id,
            created_at=record.created_at,
            last_seen_at=record.last_seen_at,
            expires_at=record.expires_at,
            address=record.address,
            user_agent=record.user_agent,
            data_json=json.dumps(record.data),
        )
    )
    return record


def _revoke(conn: Connection, condition: Any, now: datetime) -> int:
    ended = conn.execute(
        update(user_sessions).where(condition, user_sessions.c.revoked_at.is_(None)).values(revoked_at=now)
    )
    return int(ended.rowcount)


def _started_event(new: NewSession, now: datetime) -> AuditEvent:
    actor = Actor(name=new.person.email, role=Role(new.person.role), channel=Channel.DASHBOARD)
    if new.how == CONFIRMED:
        return AuditEvent.by(actor, EventType.AUTH_CONFIRMED, now, payload={"address": new.address})
    payload = {"how": new.how, "address": new.address}
    return AuditEvent.by(actor, EventType.AUTH_SIGNED_IN, now, payload=payload)


def _ended_event(actor: Actor, now: datetime, email: str, count: int) -> AuditEvent:
    return AuditEvent.by(
        actor, EventType.AUTH_SESSIONS_ENDED, now, payload={"email": email, "sessions": count}
    )
