"""Passwords: what is accepted, and checking one at equal cost whether or not the account exists.

Rules after NIST SP 800-63B: length counts, composition does not, nothing expires, the obvious is refused.
"""

from __future__ import annotations

import threading
import unicodedata

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from webapp.settings import PasswordCost

MIN_CHARACTERS = 15
MAX_CHARACTERS = 256
_HASHES_AT_ONCE = 2  # each needs tens of megabytes

# Enough to refuse what guessing starts with, at this length.
_OBVIOUS_PARTS = (
    "password", "passwort", "passw0rd", "letmein", "welcome", "qwertyuiop", "qwertzuiop",
    "asdfghjkl", "iloveyou", "administrator", "trustno1", "changeme", "correcthorsebatterystaple",
    "abcdefgh", "12345678", "87654321", "11111111", "00000000", "orchestrateos", "orchestrate",
    "resumeengine", "checkpoint", "dashboard", "operator", "auditor",
)  # fmt: skip
_LEAST_LEFT = 8  # characters that are not an obvious part


class Passwords:
    """Hash and check passwords (argon2id)."""

    def __init__(self, cost: PasswordCost) -> None:
        self._hasher = PasswordHasher(
            time_cost=cost.time_cost, memory_cost=cost.memory_kib, parallelism=cost.parallelism
        )
        self._turn = threading.BoundedSemaphore(_HASHES_AT_ONCE)
        self._nobodys_hash = self._hasher.hash("nobody has this password")

    def hash(self, password: str) -> str:
        """Return the hash to store."""
        with self._turn:
            return self._hasher.hash(_normal(password))

    def matches(self, stored_hash: str | None, password: str) -> bool:
        """Return whether `password` is the right one; without a stored hash the same work is done in vain."""
        with self._turn:
            try:
                self._hasher.verify(stored_hash or self._nobodys_hash, _normal(password))
            except (VerificationError, InvalidHashError):
                return False
        return stored_hash is not None

    def is_outdated(self, stored_hash: str) -> bool:
        """Return whether the hash was made at another cost and should be made anew."""
        return self._hasher.check_needs_rehash(stored_hash)


def weakness(password: str, *, personal: tuple[str, ...] = ()) -> str | None:
    """Return why a password is not accepted, or None; `personal` are the words of its owner."""
    text = _normal(password)
    if len(text) < MIN_CHARACTERS:
        return f"Use at least {MIN_CHARACTERS} characters; a few words in a row are easy to remember."
    if len(text) > MAX_CHARACTERS:
        return f"Use at most {MAX_CHARACTERS} characters."
    bare = "".join(c for c in text.casefold() if c.isalnum())
    if len(set(text)) < 6:
        return "This repeats itself too much."
    left = bare
    for part in (*_OBVIOUS_PARTS, *(_bare(word) for word in personal)):
        if len(part) >= 4:
            left = left.replace(part, "")
    if left != bare and len(left) < _LEAST_LEFT:
        return (
            "This is among the first passwords that are guessed. Add words that have nothing to do with it."
        )
    return None


def _bare(word: str) -> str:
    return "".join(c for c in word.casefold() if c.isalnum())


def _normal(password: str) -> str:
    """Return one form of characters that look the same, whatever keyboard typed them."""
    return unicodedata.normalize("NFKC", password)
