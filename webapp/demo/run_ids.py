"""The ids of the three runs that every demo database has."""

from __future__ import annotations

DEMO_RUN_IDS = (
    "d0000001-0000-4000-8000-000000000001",
    "d0000002-0000-4000-8000-000000000002",
    "d0000003-0000-4000-8000-000000000003",
)
"""A transient failure in prod, a partial one, a permanent one."""
