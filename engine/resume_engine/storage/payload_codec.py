"""How a store keeps what may carry data of users: payloads as JSON, messages and notes as text.

`EncryptedCodec` seals both. Sealed text begins with a mark, so that plain and sealed rows live together and a
database can be sealed row by row.
"""

from __future__ import annotations

from typing import Any, Protocol

from resume_engine.core import codec
from resume_engine.core.errors import PayloadError, PayloadLockedError

SEALED_MARK = "$fernet1$"
_PLAIN_MARK = "$plain1$"  # before plain text that begins like one of the marks
LOCKED_WORDS = "(encrypted: the key is not here)"
LOCKED_JSON = f'{{"encrypted": "{LOCKED_WORDS}"}}'


class LockedText(str):
    """What is shown in place of a text that cannot be opened here; written back, it is the sealed text."""

    sealed: str

    def __new__(cls, sealed: str) -> LockedText:
        text = super().__new__(cls, LOCKED_WORDS)
        text.sealed = sealed
        return text


class PayloadCodec(Protocol):
    """Turn payloads and texts into what a store keeps, and back."""

    def encode(self, data: Any) -> str:
        """Return a payload as stored; raise TypeError, ValueError or RecursionError if it cannot be kept."""

    def decode(self, text: str) -> Any:
        """Return a payload; raise a `PayloadError` when it cannot be read here."""

    def encode_text(self, text: str) -> str:
        """Return a message or note as stored."""

    def decode_text(self, text: str) -> str:
        """Return a message or note; `LockedText` when it cannot be opened here."""

    def seal(self, text: str) -> str:
        """Return JSON text as stored."""

    def unseal(self, text: str) -> str:
        """Return JSON text as it was before it was sealed; raise a `PayloadError` if it cannot be."""

    def missing_key(self, text: str) -> str | None:
        """Return the id of the key that stored text needs and this codec lacks, None when it has all."""


class JsonCodec:
    """Keep payloads as JSON and texts as they are, readable for everybody who reads the database."""

    def encode(self, data: Any) -> str:
        return self.seal(codec.dumps(data))

    def decode(self, text: str) -> Any:
        return codec.loads(self.unseal(text))

    def encode_text(self, text: str) -> str:
        if isinstance(text, LockedText):
            return text.sealed
        return _PLAIN_MARK + text if text.startswith((SEALED_MARK, _PLAIN_MARK)) else text

    def decode_text(self, text: str) -> str:
        if is_sealed(text):
            try:
                return self.unseal(text)
            except PayloadError:
                return LockedText(text)
        return text.removeprefix(_PLAIN_MARK)

    def seal(self, text: str) -> str:
        return text

    def unseal(self, text: str) -> str:
        if is_sealed(text):
            raise PayloadLockedError(f"it needs the key {key_id_of(text)}, and no key is given")
        return text

    def missing_key(self, text: str) -> str | None:
        return key_id_of(text) if is_sealed(text) else None


PLAIN = JsonCodec()


def is_sealed(text: str) -> bool:
    """Return whether stored text is sealed."""
    return text.startswith(SEALED_MARK)


def key_id_of(sealed: str) -> str:
    """Return the id of the key that sealed a text."""
    return sealed[len(SEALED_MARK) :].partition("$")[0]


def shown_json(codec: PayloadCodec, text: str) -> str:
    """Return the JSON text of a stored payload for people; one that is locked says so."""
    try:
        return codec.unseal(text)
    except PayloadError:
        return LOCKED_JSON


def shown_value(codec: PayloadCodec, text: str) -> Any:
    """Return a stored payload for people; one that is locked says so."""
    try:
        return codec.decode(text)
    except PayloadError:
        return {"encrypted": LOCKED_WORDS}
