"""The records of this package: keys as they are stored, and the secret that is shown once.

A key reads `re_<id>_<secret>`. The id finds the row; of the secret only a keyed hash is kept.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from resume_engine.core.actor import Actor, Channel, key_actor_name
from resume_engine.core.permissions import Role
from resume_engine.core.run import Environment

KEY_PATTERN = re.compile(r"re_([a-z0-9]{8})_([A-Za-z0-9_-]{43})")
_ID_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_WITHOUT_PEPPER = b"resume-engine/api-key/1"
NO_PEPPER = "none"


class KeyRefusedError(Exception):
    """A key is unknown, over or revoked; the message says which, `key_id` names one that is known."""

    def __init__(self, message: str, *, reason: str, key_id: str | None = None) -> None:
        self.reason = reason
        self.key_id = key_id
        super().__init__(message)


class KeyChangeError(Exception):
    """A key was not made or changed; the message says why, for the person who asked, `field` where."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        self.field = field
        super().__init__(message)


class KeyState(StrEnum):
    """What a key is good for at a moment."""

    LIVE = "live"
    ENDING = "ending"  # rotated: its successor works already, it still does for a while
    EXPIRED = "expired"
    REVOKED = "revoked"
    FOREIGN = "foreign"  # hashed under another SECRET_KEY than the one of this server


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """One key as it is stored, without its secret."""

    key_id: str
    name: str
    role: Role
    environments: tuple[Environment, ...] | None = None  # None: any
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_by: str | None = None
    replaces: str | None = None  # the key that this one was made to succeed
    replaced_by: str | None = None
    is_foreign: bool = False  # cannot be checked here

    @classmethod
    def from_row(cls, row: Any, *, is_foreign: bool = False) -> Self:
        """Return the key held by a row of `api_keys`."""
        return cls(
            key_id=row.key_id,
            name=row.name,
            role=Role(row.role),
            environments=(
                tuple(Environment(word) for word in row.environments.split(",")) if row.environments else None
            ),
            created_at=row.created_at,
            created_by=row.created_by,
            expires_at=row.expires_at,
            last_used_at=row.last_used_at,
            revoked_at=row.revoked_at,
            revoked_by=row.revoked_by,
            replaces=row.replaces,
            replaced_by=row.replaced_by,
            is_foreign=is_foreign,
        )

    @property
    def actor(self) -> Actor:
        """Return the key as the actor of what is done with it."""
        return Actor(name=key_actor_name(self.name, self.key_id), role=self.role, channel=Channel.API)

    @property
    def label(self) -> str:
        """Return name and id, as people tell keys apart."""
        return f"{self.name} ({self.key_id})"

    def state(self, now: datetime) -> KeyState:
        """Return what the key is good for at the moment `now`."""
        if self.revoked_at is not None:
            return KeyState.REVOKED
        if self.expires_at is not None and now >= self.expires_at:
            return KeyState.EXPIRED
        if self.is_foreign:
            return KeyState.FOREIGN
        return KeyState.LIVE if self.replaced_by is None else KeyState.ENDING

    def is_live(self, now: datetime) -> bool:
        """Return whether the key opens anything at the moment `now`."""
        return self.state(now) in (KeyState.LIVE, KeyState.ENDING)


@dataclass(frozen=True, kw_only=True)
class KeyHashing:
    """Hash secrets under the server's own secret, where it has a lasting one.

    256 random bits cannot be guessed either way; the pepper keeps a stolen database from being tried at all.
    """

    pepper: str | None = None

    @property
    def pepper_id(self) -> str:
        """Return which secret hashes are keyed with, without telling it."""
        return NO_PEPPER if self.pepper is None else hashlib.sha256(self._key).hexdigest()[:16]

    @property
    def _key(self) -> bytes:
        return _WITHOUT_PEPPER if self.pepper is None else b"resume-engine/api-key/" + self.pepper.encode()

    def knows(self, pepper_id: str) -> bool:
        """Return whether hashes with this pepper can be checked here."""
        return pepper_id in (NO_PEPPER, self.pepper_id)

    def hash(self, secret: str, *, pepper_id: str | None = None) -> str:
        """Return the hash that is stored; `pepper_id` "none" asks for the one without pepper."""
        key = _WITHOUT_PEPPER if pepper_id == NO_PEPPER else self._key
        return hmac.new(key, secret.encode(), hashlib.sha256).hexdigest()


def new_key_text() -> tuple[str, str]:
    """Return (key id, secret) of a new key: 256 random bits."""
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(8)), secrets.token_urlsafe(32)


def key_text(key_id: str, secret: str) -> str:
    """Return the key as its holder sends it."""
    return f"re_{key_id}_{secret}"
