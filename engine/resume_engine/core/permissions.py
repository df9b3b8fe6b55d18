"""The one table that maps roles to permissions; library, pages, API and command line read it."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """Roles in rank order: each may do what those before it may."""

    AUDITOR = "auditor"
    RUNNER = "runner"
    OPERATOR = "operator"
    ADMIN = "admin"


class Permission(StrEnum):
    """Everything that can be allowed, named `resource:action`."""

    ACCOUNT_MANAGE = "account:manage"
    AUDIT_EXPORT = "audit:export"
    AUDIT_READ = "audit:read"
    GATES_DECIDE = "gates:decide"
    KEYS_MANAGE = "keys:manage"
    PAYLOADS_READ = "payloads:read"  # over the API: whoever resumes a run needs what it recorded
    PAYLOADS_REVEAL = "payloads:reveal"  # on pages, value by value, each look an event
    RUNS_READ = "runs:read"
    RUNS_WRITE = "runs:write"
    USERS_MANAGE = "users:manage"


_READER = frozenset(
    {Permission.ACCOUNT_MANAGE, Permission.AUDIT_EXPORT, Permission.AUDIT_READ, Permission.RUNS_READ}
)
_RUNNER = _READER | {Permission.PAYLOADS_READ, Permission.RUNS_WRITE}
_OPERATOR = _RUNNER | {Permission.GATES_DECIDE, Permission.PAYLOADS_REVEAL}

ROLE_PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.AUDITOR: _READER,
    Role.RUNNER: _RUNNER,
    Role.OPERATOR: _OPERATOR,
    Role.ADMIN: _OPERATOR | {Permission.KEYS_MANAGE, Permission.USERS_MANAGE},
}

PEOPLE_ROLES: tuple[Role, ...] = (Role.AUDITOR, Role.OPERATOR, Role.ADMIN)
"""Roles a person may hold; `runner` is for keys."""


def role_allows(role: Role | str | None, permission: Permission) -> bool:
    """Return whether `role` holds `permission`; an unknown role holds nothing."""
    try:
        return permission in ROLE_PERMISSIONS[Role(role)] if role is not None else False
    except ValueError:
        return False
