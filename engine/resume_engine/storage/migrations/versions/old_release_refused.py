"""The triggers, as they are now: what release 0.2.0 writes to an upgraded database is refused.

The migrations before leave them to this one, so that nothing they write is asked for its place.
"""

from __future__ import annotations

from alembic import op

from resume_engine.storage import audit_guards

revision = "0004_old_release_refused"
down_revision = "0003_control_plane"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the triggers, or bring those of the schema before up to date."""
    audit_guards.renew(op.get_bind())
