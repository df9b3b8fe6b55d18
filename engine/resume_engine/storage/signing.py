"""Keys that sign checkpoints: Ed25519 from a file outside the database, or a secret that the server knows.

With a secret whoever can check can sign as well: it detects accidents, and attackers who have the database
alone. Needs the extra `encryption` or `dashboard` for Ed25519.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from resume_engine.core.checkpoint import Checkpoint
from resume_engine.core.errors import InvalidValueError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

KEY_FILE_VARIABLE = "AUDIT_SIGNING_KEY_FILE"
SECRET_VARIABLE = "SECRET_KEY"
ED25519, HMAC, UNSIGNED = "ed25519", "hmac-sha256", "none"


class Signer(Protocol):
    """Sign checkpoints and check signatures of the same key."""

    algorithm: str
    key_id: str

    def sign(self, message: bytes) -> str:
        """Return the signature in hex."""

    def is_signed(self, checkpoint: Checkpoint) -> bool | None:
        """Return whether a checkpoint carries a signature of this key; None when it names another key."""

    def public_key(self) -> str | None:
        """Return the public key in hex, None where there is none."""


class Ed25519Key:
    """An Ed25519 key pair, or its public half, which only checks."""

    algorithm = ED25519

    def __init__(self, public: Ed25519PublicKey, private: Ed25519PrivateKey | None = None) -> None:
        self._public, self._private = public, private
        self._raw = public.public_bytes_raw()
        self.key_id = hashlib.sha256(self._raw).hexdigest()[:16]

    @property
    def can_sign(self) -> bool:
        """Return whether the private half is here."""
        return self._private is not None

    def sign(self, message: bytes) -> str:
        """Return the signature in hex; raise `InvalidValueError` when only the public half is here."""
        if self._private is None:
            raise InvalidValueError(KEY_FILE_VARIABLE, "holds a public key; sealing needs the private one")
        return self._private.sign(message).hex()

    def is_signed(self, checkpoint: Checkpoint) -> bool | None:
        """Return whether a checkpoint carries a signature of this key; None when it names another key."""
        from cryptography.exceptions import InvalidSignature

        if (checkpoint.algorithm, checkpoint.key_id) != (self.algorithm, self.key_id):
            return None
        try:
            self._public.verify(bytes.fromhex(checkpoint.signature), checkpoint.message)
        except (InvalidSignature, ValueError):
            return False
        return True

    def public_key(self) -> str | None:
        """Return the public key in hex."""
        return self._raw.hex()


class SecretKey:
    """A secret that signs and checks."""

    algorithm = HMAC

    def __init__(self, secret: str) -> None:
        self._key = hashlib.sha256(b"resume-engine/audit-seal\n" + secret.encode()).digest()
        self.key_id = hmac.new(self._key, b"key id", hashlib.sha256).hexdigest()[:16]

    def sign(self, message: bytes) -> str:
        """Return the signature in hex."""
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()

    def is_signed(self, checkpoint: Checkpoint) -> bool | None:
        """Return whether a checkpoint carries a signature of this secret; None when it names another key."""
        if (checkpoint.algorithm, checkpoint.key_id) != (self.algorithm, self.key_id):
            return None
        return hmac.compare_digest(self.sign(checkpoint.message), checkpoint.signature)

    def public_key(self) -> str | None:
        """Return None: nobody can check without the secret."""
        return None


class NoKey:
    """Seal without a signature: only a copy of the checkpoint kept elsewhere proves anything."""

    algorithm, key_id = UNSIGNED, ""

    def sign(self, message: bytes) -> str:
        """Return nothing."""
        return ""

    def is_signed(self, checkpoint: Checkpoint) -> bool | None:
        """Return None: nobody can tell."""
        return None

    def public_key(self) -> str | None:
        """Return None."""
        return None


def signer_from_environment(environ: Mapping[str, str] | None = None) -> Signer:
    """Return the key of `AUDIT_SIGNING_KEY_FILE`, else one made of `SECRET_KEY`, else none."""
    given = os.environ if environ is None else environ
    if given.get(KEY_FILE_VARIABLE, "").strip():
        return read_key(Path(given[KEY_FILE_VARIABLE].strip()))
    secret = given.get(SECRET_VARIABLE, "").strip()
    return SecretKey(secret) if secret else NoKey()


def read_key(path: Path, field: str = KEY_FILE_VARIABLE) -> Ed25519Key:
    """Return the Ed25519 key of a PEM file, private or public; `field` names what gave the path."""
    serialization = _serialization()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ed25519

    try:
        text = path.read_bytes()
        if b"PRIVATE" in text:
            private = serialization.load_pem_private_key(text, password=None)
            if isinstance(private, ed25519.Ed25519PrivateKey):
                return Ed25519Key(private.public_key(), private)
        else:
            public = serialization.load_pem_public_key(text)
            if isinstance(public, ed25519.Ed25519PublicKey):
                return Ed25519Key(public)
    except OSError as problem:
        raise InvalidValueError(field, f"{path} cannot be read: {problem.strerror}") from problem
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it is behind a password
        pass
    raise InvalidValueError(field, f"{path} holds no Ed25519 key in PEM; see `audit keygen`")


def make_key(path: Path) -> Ed25519Key:
    """Write a new private key that only its owner can read, and the public one beside it; never overwrite."""
    serialization = _serialization()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    pem, encoding = serialization.PrivateFormat.PKCS8, serialization.Encoding.PEM
    secret = private.private_bytes(encoding, pem, serialization.NoEncryption())
    public = private.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    _write_new(path, secret, 0o600)
    _write_new(Path(f"{path}.pub"), public, 0o644)
    return Ed25519Key(private.public_key(), private)


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
    except OSError as problem:
        raise InvalidValueError("PATH", f"{path} cannot be written: {problem.strerror}") from problem


def _serialization() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as problem:
        raise InvalidValueError(
            KEY_FILE_VARIABLE, "signing needs more packages: pip install 'resume_engine[encryption]'"
        ) from problem
    return serialization
