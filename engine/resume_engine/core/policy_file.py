"""Read a policy from its TOML file, strictly: what is not understood is an error, never a guess."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from resume_engine.core.actor import Channel
from resume_engine.core.decision import DecisionKind
from resume_engine.core.errors import PolicyFileError
from resume_engine.core.permissions import Permission, Role, role_allows
from resume_engine.core.policy import (
    DECIDING_ROLES,
    GATE_KINDS,
    NO_POLICY,
    Policy,
    PolicyTest,
    Requirement,
    Rule,
)
from resume_engine.core.run import Environment

POLICY_VARIABLE = "RESUME_ENGINE_POLICY"
"""The environment variable that names the file."""

MAX_APPROVERS = 20
_MAX_BYTES = 1_000_000
_DURATION = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

Word = TypeVar("Word", bound=StrEnum)
Value = TypeVar("Value")


class _Mistake(Exception):
    """Something in a table that cannot be accepted; the message names the key."""


def policy_from_environment(environ: Mapping[str, str] | None = None) -> Policy:
    """Return the policy that `RESUME_ENGINE_POLICY` names; without it nothing but the roles counts."""
    named = (os.environ if environ is None else environ).get(POLICY_VARIABLE, "").strip()
    return read_policy(named) if named else NO_POLICY


def read_policy(path: str | Path) -> Policy:
    """Return the policy in a file; raise `PolicyFileError` naming file, rule and key."""
    try:
        raw = Path(path).read_bytes()
    except OSError as problem:
        raise PolicyFileError(str(path), problem.strerror or str(problem)) from problem
    if len(raw) > _MAX_BYTES:
        raise PolicyFileError(str(path), f"it has {len(raw)} bytes, at most {_MAX_BYTES} are read")
    try:
        return parse_policy(raw.decode("utf-8"), str(path))
    except UnicodeDecodeError as problem:
        raise PolicyFileError(str(path), "it is not UTF-8 text") from problem


def parse_policy(text: str, source: str) -> Policy:
    """Return the policy that a text says; `source` is what errors call it."""
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as problem:
        raise PolicyFileError(source, f"it is not TOML: {problem}") from problem
    try:
        _check_keys(found, {"rule", "test"})
        rules = tuple(_each(found, "rule", _rule))
        if not rules:
            raise _Mistake("it has no [[rule]]; without rules leave the file out")
        _check_order(rules)
        tests = tuple(_each(found, "test", _test))
    except _Mistake as mistake:
        raise PolicyFileError(source, str(mistake)) from None
    return Policy(rules=rules, tests=tests, source=source)


def _each(found: dict[str, Any], name: str, read: Callable[[dict[str, Any], int], Value]) -> Iterable[Value]:
    tables = found.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise _Mistake(f"{name!r} must be tables, each under [[{name}]]")
    for number, table in enumerate(tables, 1):
        called = table.get("name")
        where = f"{name} {called!r}" if isinstance(called, str) else f"{name} {number}"
        try:
            yield read(table, number)
        except _Mistake as mistake:
            raise _Mistake(f"{where}: {mistake}") from None


_RULE_KEYS = {
    "name",
    "decisions",
    "environments",
    "workflows",
    "roles",
    "approvers",
    "not_starter",
    "not_input_editor",
    "note_required",
    "expires_after",
    "api_keys",
}


def _rule(table: dict[str, Any], number: int) -> Rule:
    _check_keys(table, _RULE_KEYS)
    name = _text(table, "name")
    if name is None:
        raise _Mistake("'name' is missing; it is shown to those the rule stops")
    decisions = _words(table, "decisions", DecisionKind, GATE_KINDS)
    requirement = Requirement(
        rule=name,
        roles=_roles(table),
        approvers=_approvers(table),
        not_starter=_flag(table, "not_starter", default=False),
        not_input_editor=_flag(table, "not_input_editor", default=False),
        note_required=_flag(table, "note_required", default=False),
        expires_after=_duration(table, "expires_after"),
        api_keys=_flag(table, "api_keys", default=True),
    )
    if DecisionKind.REJECT in decisions and (requirement.approvers > 1 or requirement.expires_after):
        raise _Mistake(
            "'decisions' holds 'reject', and one person's rejection ends a run for good: give it a rule "
            "of its own without 'approvers' and 'expires_after'"
        )
    return Rule(
        name=name,
        decisions=decisions,
        environments=_words(table, "environments", Environment, frozenset(Environment)),
        workflows=_patterns(table),
        requirement=requirement,
    )


def _check_order(rules: tuple[Rule, ...]) -> None:
    for place, rule in enumerate(rules):
        for earlier in rules[:place]:
            if earlier.name == rule.name:
                raise _Mistake(f"rule {rule.name!r}: another rule has this 'name'")
            if earlier.covers(rule):
                raise _Mistake(
                    f"rule {rule.name!r}: it never counts, rule {earlier.name!r} before it fits all of its "
                    "decisions; put the narrower rule first"
                )


_TEST_KEYS = {
    "name",
    "decision",
    "environment",
    "workflow",
    "actor",
    "role",
    "channel",
    "started_by",
    "input_edited_by",
    "expect",
    "rule",
    "approvers",
}


def _test(table: dict[str, Any], number: int) -> PolicyTest:
    _check_keys(table, _TEST_KEYS)
    expected = table.get("expect")
    if expected not in ("allowed", "refused"):
        raise _Mistake(f"'expect' is {expected!r}; write 'allowed' or 'refused'")
    return PolicyTest(
        name=_text(table, "name") or f"test {number}",
        kind=_word(table, "decision", DecisionKind, None),
        environment=_word(table, "environment", Environment, None),
        workflow=_text(table, "workflow") or "any workflow",
        actor=_text(table, "actor") or "somebody",
        role=_word(table, "role", Role, Role.OPERATOR),
        channel=_word(table, "channel", Channel, Channel.DASHBOARD),
        started_by=_text(table, "started_by") or "somebody else",
        input_edited_by=_text(table, "input_edited_by"),
        allowed=expected == "allowed",
        rule=_text(table, "rule"),
        approvers=_approvers(table) if "approvers" in table else None,
    )


def _check_keys(table: dict[str, Any], known: set[str]) -> None:
    for key in table:
        if key not in known:
            raise _Mistake(f"{key!r} is unknown; known are {', '.join(sorted(known))}")


def _text(table: dict[str, Any], key: str) -> str | None:
    value = table.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or len(value) > 255:
        raise _Mistake(f"{key!r} must be text of 1 to 255 characters, found {value!r:.80}")
    return value


def _flag(table: dict[str, Any], key: str, *, default: bool) -> bool:
    value = table.get(key, default)
    if not isinstance(value, bool):
        raise _Mistake(f"{key!r} must be true or false, found {value!r:.80}")
    return value


def _list(table: dict[str, Any], key: str) -> list[str]:
    value = table[key]
    if not isinstance(value, list) or not value or not all(isinstance(one, str) and one for one in value):
        raise _Mistake(f"{key!r} must be a list of words with one at least, found {value!r:.80}")
    return value


def _words(table: dict[str, Any], key: str, kind: type[Word], default: frozenset[Word]) -> frozenset[Word]:
    if key not in table:
        return default
    return frozenset(_known(key, word, kind) for word in _list(table, key))


def _word(table: dict[str, Any], key: str, kind: type[Word], default: Word | None) -> Word:
    if key not in table and default is not None:
        return default
    return _known(key, table.get(key), kind)


def _known(key: str, word: object, kind: type[Word]) -> Word:
    try:
        return kind(str(word))
    except ValueError:
        known = ", ".join(one.value for one in kind)
        raise _Mistake(f"{key!r} holds {word!r:.80}, which is unknown; known are {known}") from None


def _roles(table: dict[str, Any]) -> frozenset[Role]:
    roles = _words(table, "roles", Role, DECIDING_ROLES)
    for role in sorted(roles):
        if not role_allows(role, Permission.GATES_DECIDE):
            able = " and ".join(r.value for r in Role if r in DECIDING_ROLES)
            raise _Mistake(
                f"'roles' holds {role.value!r}, a role that never decides; those that may are {able}"
            )
    return roles


def _patterns(table: dict[str, Any]) -> tuple[str, ...]:
    return tuple(_list(table, "workflows")) if "workflows" in table else ("*",)


def _approvers(table: dict[str, Any]) -> int:
    value = table.get("approvers", 1)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_APPROVERS:
        raise _Mistake(f"'approvers' must be a whole number from 1 to {MAX_APPROVERS}, found {value!r:.80}")
    return value


def _duration(table: dict[str, Any], key: str) -> timedelta | None:
    if key not in table:
        return None
    value = table[key]
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise _Mistake(f"{key!r} must be a time such as '30m', '8h' or '2d', found {value!r:.80}")
    return timedelta(**{_UNITS[found.group(2)]: int(found.group(1))})
