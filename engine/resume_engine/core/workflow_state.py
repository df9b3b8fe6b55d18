"""The state of a workflow that is under way: what the next step is given, and its hash.

A state grows with every output, and the key of each step holds the hash of all of it. So what was written of
it once is kept, field by field: an output costs what its own fields cost, and the hash a pass over the text.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from json.encoder import encode_basestring_ascii
from typing import Any

from resume_engine.core import codec
from resume_engine.core.idempotency import canonical_json

_UNCHANGEABLE = frozenset({str, int, float, bool, type(None)})
_CONSTANTS = {None: "null", True: "true", False: "false"}


class WorkflowState:
    """The fields of a state, their canonical text, and the text of those that a step could change.

    Only plain JSON is written field by field: `of` and `merged` answer None and False for anything else.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data  # to be read only: records hold it
        self._names: list[str] = []
        self._texts: list[str] = []  # `"name":value`, by name
        self._changeable: dict[str, str] = {}
        self._write(data)

    @classmethod
    def of(cls, data: dict[str, Any], text: str) -> WorkflowState | None:
        """Return the state whose payload text is `text`, None when it is not plain JSON."""
        return cls(data) if _is_plain(text) else None

    def merge(self, output: dict[str, Any], text: str) -> bool:
        """Merge an output whose payload text is `text`; return False, nothing merged, if it is not plain."""
        if not _is_plain(text):
            return False
        self.data = {**self.data, **output}
        self._write(output)
        return True

    @property
    def length(self) -> int:
        """Return how many characters the canonical text has, about."""
        return sum(map(len, self._texts)) + len(self._texts)

    def input_hash(self) -> str:
        """Return what `hash_input` returns for the fields."""
        return hashlib.sha256(f"{{{','.join(self._texts)}}}".encode()).hexdigest()

    def copy(self) -> dict[str, Any]:
        """Return the fields for a step, which may do with them what it likes."""
        fields = dict(self.data)
        for name, text in self._changeable.items():
            fields[name] = json.loads(text)
        return fields

    def _write(self, fields: dict[str, Any]) -> None:
        names, texts = self._names, self._texts
        for name, value in fields.items():
            written = encode_basestring_ascii(value) if type(value) is str else _canonical(value)
            text = f"{encode_basestring_ascii(name)}:{written}"
            if type(value) not in _UNCHANGEABLE:
                self._changeable[name] = codec.dumps(value)
            elif self._changeable:
                self._changeable.pop(name, None)
            at = bisect_left(names, name)
            if at < len(names) and names[at] == name:
                texts[at] = text
            else:
                names.insert(at, name)
                texts.insert(at, text)


def _is_plain(text: str) -> bool:
    """Return whether payload text holds no marks of the codec, so that its fields can stand by themselves."""
    return codec.TAG not in text and codec.ENVELOPE not in text


def _canonical(value: Any) -> str:
    kind = type(value)
    if kind is str:
        return encode_basestring_ascii(value)
    if kind is bool or value is None:
        return _CONSTANTS[value]
    return str(value) if kind is int else canonical_json(value)
