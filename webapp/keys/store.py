"""The SQL of API keys. Each change and its audit event are one transaction."""

from __future__ import annotations

import hmac
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from resume_engine.core import clock
from resume_engine.core.actor import Actor
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.permissions import Role
from resume_engine.core.run import Environment
from resume_engine.storage.schema import api_keys
from resume_engine.storage.sql_store import SqlCheckpointStore
from webapp.accounts.store import insert_event_in_tx
from webapp.keys.records import (
    KEY_PATTERN,
    ApiKey,
    KeyChangeError,
    KeyHashing,
    KeyRefusedError,
    KeyState,
    key_text,
    new_key_text,
)

NAME_MAX_CHARACTERS = 100
GRACE = timedelta(hours=24)
LONGEST_GRACE = timedelta(days=30)
TOUCH_EVERY = timedelta(minutes=1)  # use is noted at most this often: one write a minute, not one a request
UNKNOWN = "This key is not known here. Use one from `resume-engine keys create`."
REFUSED = {
    KeyState.REVOKED: "This key was revoked. Ask an administrator for another one.",
    KeyState.EXPIRED: "This key has expired. Ask an administrator for another one.",
    KeyState.FOREIGN: (
        "This key was made under another SECRET_KEY than the one of this server, so it cannot be checked. "
        "Give the server that SECRET_KEY again, or ask an administrator for another key."
    ),
}
# Put together once: every request of the API asks it.
_BY_ID = select(api_keys).where(api_keys.c.key_id == bindparam("key_id"))
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class NewKey:
    """A key that was just made; its text is shown once and cannot be read again."""

    key: ApiKey
    text: str
    replaced: ApiKey | None = None  # the key that it succeeds, with the end it was given


class KeyStore:
    """Make, find and end keys; whoever may do it has been asked before."""

    def __init__(self, store: SqlCheckpointStore, hashing: KeyHashing) -> None:
        self._store = store
        self._hashing = hashing
        self._touched: dict[str, datetime] = {}
        self._touching = threading.Lock()

    def create(
        self,
        name: str,
        role: Role,
        *,
        actor: Actor,
        expires_at: datetime | None = None,
        environments: Sequence[Environment] | None = None,
    ) -> NewKey:
        """Make a key; raise `KeyChangeError` naming the field that cannot be kept."""
        now = clock.utc_now()
        wanted = name.strip()
        if not 0 < len(wanted) <= NAME_MAX_CHARACTERS or not wanted.isprintable():
            raise KeyChangeError(
                f"Give the key a name of 1 to {NAME_MAX_CHARACTERS} printable characters.", field="name"
            )
        if expires_at is not None and expires_at <= now:
            raise KeyChangeError(
                "The key would be over already. Give an end that is to come.", field="expires_at"
            )
        with self._store.writing() as conn:
            self._take_turn(conn)
            self._refuse_taken_name(conn, wanted, now)
            made = self._insert(
                conn,
                {
                    "name": wanted,
                    "role": role.value,
                    "environments": joined(environments),
                    "created_at": now,
                    "created_by": actor.name[:255],
                    "expires_at": expires_at,
                },
            )
            insert_event_in_tx(
                conn, AuditEvent.by(actor, EventType.KEY_CREATED, now, payload=_told(made.key))
            )
        return made

    def rotate(self, key_id: str, *, actor: Actor, grace: timedelta = GRACE) -> NewKey:
        """Make a successor with the same name and rights; the key itself ends after `grace`.

        The successor is valid as long as the key was from its beginning. Raise `KeyChangeError` for a key
        that is over, that has a successor already, or that does not exist.
        """
        if not timedelta() <= grace <= LONGEST_GRACE:
            raise KeyChangeError(
                f"A key that was rotated works {LONGEST_GRACE.days} more days at most.", field="grace"
            )
        now = clock.utc_now()
        with self._store.writing() as conn:
            self._take_turn(conn)
            old = self._rotatable(conn, key_id, now)
            ends_at = now + grace if old.expires_at is None else min(old.expires_at, now + grace)
            lifetime = old.expires_at - old.created_at if old.expires_at is not None else None
            made = self._insert(
                conn,
                {
                    "name": old.name,
                    "role": old.role.value,
                    "environments": joined(old.environments),
                    "created_at": now,
                    "created_by": actor.name[:255],
                    "expires_at": now + lifetime if lifetime is not None else None,
                    "replaces": key_id,
                },
            )
            ending = {"expires_at": ends_at, "replaced_by": made.key.key_id}
            conn.execute(update(api_keys).where(api_keys.c.key_id == key_id).values(ending))
            payload = {**_told(made.key), "replaces": key_id, "ends_at": ends_at.isoformat()}
            insert_event_in_tx(conn, AuditEvent.by(actor, EventType.KEY_ROTATED, now, payload=payload))
            replaced = self._get(conn, key_id)
        return NewKey(key=made.key, text=made.text, replaced=replaced)

    def revoke(self, key_id: str, *, actor: Actor) -> bool:
        """End a key at once; False when there is no such key or it was revoked before."""
        now = clock.utc_now()
        live = (api_keys.c.key_id == key_id, api_keys.c.revoked_at.is_(None))
        with self._store.writing() as conn:
            ended = conn.execute(
                update(api_keys).where(*live).values(revoked_at=now, revoked_by=actor.name[:255])
            )
            key = self._get(conn, key_id) if ended.rowcount == 1 else None
            if key is None:
                return False
            payload = {"key_id": key_id, "name": key.name}
            insert_event_in_tx(conn, AuditEvent.by(actor, EventType.KEY_REVOKED, now, payload=payload))
        return True

    def list_keys(self) -> Sequence[ApiKey]:
        """Return every key, newest first."""
        query = select(api_keys).order_by(api_keys.c.created_at.desc(), api_keys.c.key_id)
        with self._store.asking() as conn:
            return [self._key(row) for row in conn.execute(query)]

    def get(self, key_id: str) -> ApiKey | None:
        """Return the key with this id, or None."""
        with self._store.asking() as conn:
            return self._get(conn, key_id)

    def mark_of(self, text: str) -> str:
        """Return eight characters that tell a key from others and do not tell its text."""
        return self._hashing.hash(text)[:8]

    def authenticate(self, text: str) -> ApiKey:
        """Return the live key with this text, noting its use; raise `KeyRefusedError`.

        One look-up by primary key, and nothing is remembered: a revocation counts from the next request on.
        """
        found = KEY_PATTERN.fullmatch(text)
        if found is None:
            raise KeyRefusedError(UNKNOWN, reason="malformed")
        key_id, secret = found.groups()
        row = self._find(key_id)
        # As much work for an id that nobody has as for one with another secret.
        stored = row.secret_hash if row is not None else self._hashing.hash("")
        given = self._hashing.hash(secret, pepper_id=row.pepper_id if row is not None else None)
        matches = hmac.compare_digest(stored, given)
        if row is None:
            raise KeyRefusedError(UNKNOWN, reason="unknown")
        key, now = self._key(row), clock.utc_now()
        if not matches and not key.is_foreign:
            raise KeyRefusedError(UNKNOWN, reason="wrong secret", key_id=key_id)
        if not key.is_live(now):
            state = key.state(now)
            raise KeyRefusedError(REFUSED[state], reason=state.value, key_id=key_id)
        self._note_use(key, now)
        return key

    def _find(self, key_id: str) -> Any:
        """Return the row of a key, or None."""
        with self._store.asking() as conn:
            return conn.execute(_BY_ID, {"key_id": key_id}).one_or_none()

    def _note_use(self, key: ApiKey, now: datetime) -> None:
        with self._touching:
            latest = self._touched.get(key.key_id) or key.last_used_at
            if latest is not None and now - latest < TOUCH_EVERY:
                return
            self._touched[key.key_id] = now
        try:
            with self._store.writing() as conn:
                conn.execute(update(api_keys).where(api_keys.c.key_id == key.key_id).values(last_used_at=now))
        except SQLAlchemyError:
            # The request itself may only read; it does not fail for a note about it.
            logger.warning("the use of key %s could not be noted", key.key_id, exc_info=True)

    def _rotatable(self, conn: Connection, key_id: str, now: datetime) -> ApiKey:
        old = self._get(conn, key_id)
        if old is None:
            raise KeyChangeError(f"There is no key {key_id}.", field="key_id")
        if old.state(now) in (KeyState.REVOKED, KeyState.EXPIRED):
            raise KeyChangeError(f"{old.label} is over. Create a new key instead.", field="key_id")
        if old.replaced_by is not None:
            raise KeyChangeError(
                f"{old.label} has a successor already: {old.replaced_by}. Rotate that one.", field="key_id"
            )
        return old

    def _insert(self, conn: Connection, values: Mapping[str, Any]) -> NewKey:
        key_id, secret = new_key_text()
        hashed = {"secret_hash": self._hashing.hash(secret), "pepper_id": self._hashing.pepper_id}
        conn.execute(insert(api_keys).values({"key_id": key_id, **hashed, **values}))
        key = self._get(conn, key_id)
        assert key is not None
        return NewKey(key=key, text=key_text(key_id, secret))

    def _refuse_taken_name(self, conn: Connection, name: str, now: datetime) -> None:
        """Raise when another key that works has this name: people tell keys apart by it."""
        same = select(api_keys).where(func.lower(api_keys.c.name) == name.lower())
        for row in conn.execute(same):
            key = self._key(row)
            if key.is_live(now):
                raise KeyChangeError(
                    f"{key.label} has this name already. Choose another one, or rotate that key.",
                    field="name",
                )

    @staticmethod
    def _take_turn(conn: Connection) -> None:
        """Let one change of keys go on at a time; SQLite's writers take turns anyway."""
        if conn.dialect.name == "postgresql":
            conn.execute(select(func.pg_advisory_xact_lock(func.hashtextextended("api-keys", 0))))

    def _get(self, conn: Connection, key_id: str) -> ApiKey | None:
        row = conn.execute(_BY_ID, {"key_id": key_id}).one_or_none()
        return self._key(row) if row is not None else None

    def _key(self, row: Any) -> ApiKey:
        return ApiKey.from_row(row, is_foreign=not self._hashing.knows(row.pepper_id))


def joined(environments: Sequence[Environment] | None) -> str | None:
    """Return environments as they are stored: none of them, like all of them, means any."""
    wanted = set(environments or ())
    if not wanted or wanted == set(Environment):
        return None
    return ",".join(environment.value for environment in Environment if environment in wanted)


def _told(key: ApiKey) -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "name": key.name,
        "role": key.role.value,
        "environments": [e.value for e in key.environments] if key.environments else None,
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
    }
