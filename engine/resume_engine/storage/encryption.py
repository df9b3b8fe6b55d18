"""Encryption at rest: payloads, messages and notes are unreadable without the key.

What lists and gates need stays plain: workflow and step names, states, classifications, error types, actors,
times, hashes and keys. An input hash is a SHA-256 of the input: who can guess an input can confirm the guess.
Needs the extra `encryption`.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from resume_engine.core.errors import InvalidValueError, PayloadLockedError, PayloadUnreadableError
from resume_engine.storage.payload_codec import (
    PLAIN,
    SEALED_MARK,
    JsonCodec,
    LockedText,
    PayloadCodec,
    is_sealed,
    key_id_of,
)

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

KEYS_VARIABLE = "RESUME_ENGINE_ENCRYPTION_KEYS"


class EncryptedCodec(JsonCodec):
    """Seal everything with the first of `keys`; open what any of them sealed.

    A key is 32 random bytes in URL-safe base64, as `EncryptedCodec.generate_key()` makes it. To change the
    key put a new one in front, then run `resume-engine db rotate-keys`, then leave the old one out.
    """

    def __init__(self, keys: Sequence[str | bytes]) -> None:
        if not keys:
            raise InvalidValueError("keys", "at least one key is needed; see EncryptedCodec.generate_key()")
        self._fernets = dict(_fernet(number, key) for number, key in enumerate(keys, start=1))
        self.key_id = next(iter(self._fernets))
        self._mark = f"{SEALED_MARK}{self.key_id}$"

    @staticmethod
    def generate_key() -> str:
        """Return a new random key."""
        return _fernet_class().generate_key().decode("ascii")

    @property
    def mark(self) -> str:
        """Return how everything begins that the first key has sealed."""
        return self._mark

    def encode_text(self, text: str) -> str:
        return text.sealed if isinstance(text, LockedText) else self.seal(text)

    def seal(self, text: str) -> str:
        token = self._fernets[self.key_id].encrypt(text.encode("utf-8", "surrogatepass"))
        return self._mark + token.decode("ascii")

    def unseal(self, text: str) -> str:
        from cryptography.fernet import InvalidToken

        if not is_sealed(text):
            return text
        key_id = key_id_of(text)
        if key_id not in self._fernets:
            raise PayloadLockedError(f"it needs the key {key_id}; given are {', '.join(self._fernets)}")
        try:
            token = text[len(SEALED_MARK) + len(key_id) + 1 :].encode("ascii")
            return self._fernets[key_id].decrypt(token).decode("utf-8", "surrogatepass")
        except (InvalidToken, ValueError) as problem:
            raise PayloadUnreadableError("its encrypted form was damaged or changed") from problem

    def missing_key(self, text: str) -> str | None:
        return key_id_of(text) if is_sealed(text) and key_id_of(text) not in self._fernets else None


def codec_from_environment(environ: Mapping[str, str] | None = None) -> PayloadCodec:
    """Return the codec that `RESUME_ENGINE_ENCRYPTION_KEYS` asks for: keys separated by commas, newest first.

    Without the variable payloads are kept as plain JSON.
    """
    text = (os.environ if environ is None else environ).get(KEYS_VARIABLE, "")
    keys = [key.strip() for key in text.split(",") if key.strip()]
    return EncryptedCodec(keys) if keys else PLAIN


def _fernet_class() -> type[Fernet]:
    try:
        from cryptography.fernet import Fernet
    except ImportError as problem:
        raise InvalidValueError(
            KEYS_VARIABLE, "encryption needs more packages: pip install 'resume_engine[encryption]'"
        ) from problem
    return Fernet


def _fernet(number: int, key: str | bytes) -> tuple[str, Fernet]:
    """Return a key's id with what seals and opens; the key itself never appears in a message."""
    raw = key.encode("ascii", "replace") if isinstance(key, str) else key
    try:
        made = _fernet_class()(raw)
    except InvalidValueError:
        raise
    except ValueError:
        raise InvalidValueError(
            KEYS_VARIABLE,
            f"key {number} is no key: expected 32 random bytes in URL-safe base64, for example from "
            "`resume-engine db generate-key`",
        ) from None
    return hashlib.sha256(base64.urlsafe_b64decode(raw)).hexdigest()[:8], made
