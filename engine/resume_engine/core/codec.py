"""Payloads as text: plain JSON as it always was, and an envelope for what JSON lacks.

What JSON holds is stored as exactly the text `json.dumps` makes of it. A payload with any other value becomes
`{"$codec": 1, "value": ...}`, inside which such values stand as `{"$type": ..., "value": ...}`; dicts of the
caller's own that look like either are wrapped, so that everything reads back as it was written.

Nothing is ever unpickled, and reading a value never imports a module: a class is used only if the process has
loaded it, otherwise its fields are given as `PlainFields`. A dataclass is restored without its constructor.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from json.encoder import c_make_encoder, encode_basestring_ascii  # type: ignore[attr-defined]
from pathlib import Path, PurePath
from typing import Any, TypeGuard
from uuid import UUID

from resume_engine.core.errors import PayloadUnreadableError

ENVELOPE = "$codec"
VERSION = 1
TAG = "$type"
_KEPT = "JSON values, dates, UUIDs, decimals, paths, bytes, dataclasses or pydantic models"


class PlainFields(Mapping[str, Any]):
    """The fields of an object whose class this process does not know; written again as it was read."""

    def __init__(self, kind: str, class_name: str, fields: dict[str, Any]) -> None:
        self.kind, self.class_name = kind, class_name
        self._fields = fields

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"PlainFields({self.class_name!r}, {self._fields!r})"


# `json.dumps` makes an encoder anew for each call. What holds itself is found by its depth.
_ENCODER = json.JSONEncoder(check_circular=False, allow_nan=False)
_pieces: Callable[[Any, int], Iterable[str]] = (
    c_make_encoder(None, _ENCODER.default, encode_basestring_ascii, None, ": ", ", ", False, False, False)
    if c_make_encoder is not None
    else lambda data, _: _ENCODER.iterencode(data)
)


def dumps(data: Any) -> str:
    """Return `data` as JSON text; raise TypeError, ValueError or RecursionError for what cannot be kept."""
    if not isinstance(data, dict) or ENVELOPE not in data or not _looks_like_envelope(data):
        try:
            return "".join(_pieces(data, 0))
        except TypeError:
            pass  # some value in it is not JSON: the envelope may hold it
    return "".join(_pieces({ENVELOPE: VERSION, "value": to_tagged(data)}, 0))


def loads(text: str) -> Any:
    """Return what `dumps` was given; raise `PayloadUnreadableError` for what this release cannot read."""
    return from_json(json.loads(text))


def loads_many(texts: Sequence[str]) -> list[Any]:
    """Return what `loads` returns for each of the texts, read in one go."""
    joined = f"[{','.join(texts)}]"
    try:
        decoded = json.loads(joined)
    except ValueError:
        decoded = []
    if len(decoded) != len(texts):  # one of them is damaged: let it be named by itself
        return [loads(text) for text in texts]
    return [from_json(one) for one in decoded] if ENVELOPE in joined else decoded


def from_json(decoded: Any) -> Any:
    """Return the payload that an envelope holds; anything else stays as it is."""
    if not _looks_like_envelope(decoded) or type(decoded[ENVELOPE]) is not int:
        return decoded
    if decoded[ENVELOPE] != VERSION:
        raise PayloadUnreadableError(f"its codec is {decoded[ENVELOPE]!r}, this release knows only {VERSION}")
    return from_tagged(decoded["value"])


def as_json(data: Any) -> Any:
    """Return `data` itself when JSON can hold it, else its envelope."""
    if not _looks_like_envelope(data):
        try:
            json.dumps(data)  # with NaN, which records of 0.2.0 may hold
            return data
        except TypeError:
            pass
    return json.loads(dumps(data))


def _looks_like_envelope(data: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(data, dict) and len(data) == 2 and ENVELOPE in data and "value" in data


def _microseconds(length: timedelta) -> int:
    return length // timedelta(microseconds=1)


_SIMPLE: dict[str, tuple[type | tuple[type, ...], Callable[[Any], Any], Callable[[Any], Any]]] = {
    # A datetime is a date too: the narrower type stands first.
    "datetime": (datetime, datetime.isoformat, datetime.fromisoformat),
    "date": (date, date.isoformat, date.fromisoformat),
    "time": (time, time.isoformat, time.fromisoformat),
    "timedelta": (timedelta, _microseconds, lambda count: timedelta(microseconds=count)),
    "uuid": (UUID, str, UUID),
    "decimal": (Decimal, str, Decimal),
    "path": (PurePath, str, Path),
    "bytes": (
        (bytes, bytearray),
        lambda raw: base64.b64encode(raw).decode("ascii"),
        lambda text: base64.b64decode(text, validate=True),
    ),
}
"""Name in the record -> types that are written so, how to write them, how to read them."""


def to_tagged(data: Any) -> Any:
    """Return `data` with every value JSON lacks replaced by its tagged form."""
    if data is None or isinstance(data, str | bool | int | float):
        return data
    if isinstance(data, dict):
        plain = {key: to_tagged(value) for key, value in data.items()}
        return {TAG: "dict", "value": plain} if TAG in plain else plain
    if isinstance(data, list | tuple):
        return [to_tagged(item) for item in data]
    return tagged_value(data)


def tagged_value(data: Any) -> dict[str, Any]:
    """Return the tagged form of one value that is not JSON; raise TypeError if there is none."""
    for name, (kinds, write, _) in _SIMPLE.items():
        if isinstance(data, kinds):
            return {TAG: name, "value": write(data)}
    found = object_fields(data)
    if found is None:
        raise TypeError(f"a {type(data).__name__} cannot be kept; use {_KEPT}")
    kind, class_name, fields = found
    plain = {name: to_tagged(item) for name, item in fields.items()}
    if not isinstance(data, PlainFields) and isinstance(
        _rebuilt(kind, class_name, dict(fields)), PlainFields
    ):
        raise TypeError(
            f"a {type(data).__qualname__} would not read back; define its class at the top level of a module "
            "and let it accept what it holds"
        )
    return {TAG: kind, "class": class_name, "value": plain}


def object_fields(data: Any) -> tuple[str, str, Mapping[str, Any]] | None:
    """Return kind, class name and fields of a dataclass or pydantic object, None for anything else."""
    if isinstance(data, PlainFields):
        return data.kind, data.class_name, data
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        fields = {f.name: getattr(data, f.name) for f in dataclasses.fields(data) if hasattr(data, f.name)}
        return "dataclass", _class_name(type(data)), fields
    base = _pydantic_base()
    if base is not None and isinstance(data, base):
        return "pydantic", _class_name(type(data)), _model_fields(data)
    return None


def _class_name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _pydantic_base() -> type | None:
    """Return pydantic's base class when the process uses pydantic; the engine itself never imports it."""
    base = getattr(sys.modules.get("pydantic"), "BaseModel", None)
    return base if isinstance(base, type) and hasattr(base, "model_validate") else None


def _model_fields(model: Any) -> dict[str, Any]:
    """Return a model's JSON with its secrets as they are: pydantic's own JSON writes asterisks for them."""
    fields: dict[str, Any] = _with_secrets(
        model.model_dump(mode="python", round_trip=True, warnings=False),
        model.model_dump(mode="json", round_trip=True, warnings=False),
    )
    return fields


def _with_secrets(value: Any, written: Any) -> Any:
    if hasattr(value, "get_secret_value"):
        secret = value.get_secret_value()
        return secret.decode("utf-8") if isinstance(secret, bytes) else secret
    if isinstance(value, set | frozenset) and any(hasattr(item, "get_secret_value") for item in value):
        return [_with_secrets(item, None) for item in value]
    if isinstance(value, dict) and isinstance(written, dict) and len(value) == len(written):
        pairs = zip(value.values(), written.items(), strict=True)
        return {name: _with_secrets(item, text) for item, (name, text) in pairs}
    if isinstance(value, list | tuple) and isinstance(written, list) and len(value) == len(written):
        return [_with_secrets(item, text) for item, text in zip(value, written, strict=True)]
    return written


def from_tagged(data: Any) -> Any:
    """Return `data` with tagged values in their own types."""
    if isinstance(data, list):
        return [from_tagged(item) for item in data]
    if not isinstance(data, dict):
        return data
    if TAG not in data:
        return {key: from_tagged(value) for key, value in data.items()}
    tag, value = data[TAG], data.get("value")
    if tag == "dict" and isinstance(value, dict):
        return {key: from_tagged(item) for key, item in value.items()}
    if tag in ("dataclass", "pydantic") and isinstance(value, dict):
        fields = {key: from_tagged(item) for key, item in value.items()}
        return _rebuilt(tag, str(data.get("class")), fields)
    try:
        return _SIMPLE[tag][2](value)
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError) as problem:
        raise PayloadUnreadableError(f"it holds a {tag!r:.40} that cannot be read") from problem


def _rebuilt(kind: str, name: str, fields: dict[str, Any]) -> Any:
    found = _loaded_class(name)
    built = None
    if kind == "dataclass" and found is not None and dataclasses.is_dataclass(found):
        built = _built_dataclass(found, fields)
    base = _pydantic_base()
    if kind == "pydantic" and found is not None and base is not None and issubclass(found, base):
        built = _built_model(found, fields)
    return built if built is not None else PlainFields(kind, name, fields)


def _loaded_class(name: str) -> type | None:
    """Return a class of a loaded module, without any look-up that a module or class could hook into."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    return found if isinstance(found, type) else None


def _built_dataclass(kind: Any, fields: dict[str, Any]) -> Any | None:
    """Return an object with these fields, no constructor called; None if its class has others now."""
    declared = dataclasses.fields(kind)
    if fields.keys() - {field.name for field in declared}:
        return None
    try:
        built = object.__new__(kind)
    except TypeError:  # built on a type that makes its own objects, such as an exception
        return None
    for field in declared:
        if field.name in fields:
            object.__setattr__(built, field.name, fields[field.name])
        elif field.default is not dataclasses.MISSING:
            object.__setattr__(built, field.name, field.default)
        elif field.default_factory is not dataclasses.MISSING:
            object.__setattr__(built, field.name, field.default_factory())
        else:
            return None
    return built


def _built_model(kind: Any, fields: dict[str, Any]) -> Any | None:
    try:
        text = json.dumps(fields)
        try:
            return kind.model_validate_json(text, by_name=True, by_alias=False)
        except TypeError:  # pydantic before 2.11 has no such choice
            return kind.model_validate_json(text)
    except (TypeError, ValueError):  # the class changed since, refuses what it wrote, or never wrote it
        return None
