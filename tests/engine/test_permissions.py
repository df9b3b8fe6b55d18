"""The one table of roles and permissions."""

from __future__ import annotations

from itertools import pairwise

import pytest

from resume_engine.core.permissions import PEOPLE_ROLES, ROLE_PERMISSIONS, Permission, Role, role_allows

READ = {Permission.ACCOUNT_MANAGE, Permission.AUDIT_EXPORT, Permission.AUDIT_READ, Permission.RUNS_READ}
RUN = READ | {Permission.PAYLOADS_READ, Permission.RUNS_WRITE}
EXPECTED: dict[Role, set[Permission]] = {
    Role.AUDITOR: READ,
    Role.RUNNER: RUN,
    Role.OPERATOR: RUN | {Permission.GATES_DECIDE, Permission.PAYLOADS_REVEAL},
    Role.ADMIN: set(Permission),
}


@pytest.mark.parametrize("role", Role)
def test_the_table(role: Role) -> None:
    assert {permission for permission in Permission if role_allows(role, permission)} == EXPECTED[role]
    assert ROLE_PERMISSIONS[role] == EXPECTED[role]


def test_each_role_may_do_what_those_before_it_may() -> None:
    for lower, higher in pairwise(Role):
        assert ROLE_PERMISSIONS[lower] < ROLE_PERMISSIONS[higher]


@pytest.mark.parametrize("role", [None, "", "root", "Admin", "operator "])
@pytest.mark.parametrize("permission", Permission)
def test_an_unknown_role_may_nothing(role: str | None, permission: Permission) -> None:
    assert not role_allows(role, permission)


def test_people_are_no_runners() -> None:
    assert PEOPLE_ROLES == (Role.AUDITOR, Role.OPERATOR, Role.ADMIN)
