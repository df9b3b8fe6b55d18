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
from typing import Any, Self

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.permissions import Role
from resume_engine.core.run import Environment

KEY_PATTERN = re.compile(r"re_([a-z0-9]{8})_([A-Za-z0-9_-]{43})")
_ID_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_WITHOUT_PEPPER = b"resume-engine/api-key/1"


class KeyRefusedError(Exception):
    """A key is unknown, over, revoked, or not for this environment; the message says which."""


class KeyChangeError(Exception):
    """A key was not made or changed; the message says why, for the person who asked."""


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

    @classmethod
    def from_row(cls, row: Any) -> Self:
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
        )

    @property
    def actor(self) -> Actor:
        """Return the key as the actor of what is done with it."""
        return Actor(name=f"key {self.name} ({self.key_id})", role=self.role, channel=Channel.API)

    def is_live(self, now: datetime) -> bool:
        """Return whether the key opens anything at the moment `now`."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, kw_only=True)
class KeyHashing:
    """Hash secrets under the server's own secret, where it has a lasting one.

    256 random bits cannot be guessed either way; the pepper keeps a stolen database from being tried at all.
    """

    pepper: str | None = None

    @property
    def pepper_id(self) -> str:
        """Return which secret hashes are keyed with, without telling it."""
        return "none" if self.pepper is None else hashlib.sha256(self._key).hexdigest()[:16]

    @property
    def _key(self) -> bytes:
        return _WITHOUT_PEPPER if self.pepper is None else b"resume-engine/api-key/" + self.pepper.encode()

    def hash(self, secret: str, *, pepper_id: str | None = None) -> str:
        """Return the hash that is stored; `pepper_id` "none" asks for the one without pepper."""
        key = _WITHOUT_PEPPER if pepper_id == "none" else self._key
        return hmac.new(key, secret.encode(), hashlib.sha256).hexdigest()


def new_key_text() -> tuple[str, str]:
    """Return (key id, secret) of a new key: 256 random bits."""
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(8)), secrets.token_urlsafe(32)


def key_text(key_id: str, secret: str) -> str:
    """Return the key as its holder sends it."""
    return f"re_{key_id}_{secret}"
