"""The database refuses what release 0.2.0 writes once it is upgraded: the next migration makes the guards."""

from __future__ import annotations

revision = "0004_old_release_refused"
down_revision = "0003_control_plane"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Leave the guards to the migration that knows how they are now."""
