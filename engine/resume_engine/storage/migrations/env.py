"""Run migrations on the connection that `schema_version.upgrade` passes in."""

from __future__ import annotations

from alembic import context

from resume_engine.storage.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
context.run_migrations()  # inside the caller's transaction, so that a failed upgrade leaves nothing behind
