"""The dashboard: a Flask application on a checkpoint store."""

from __future__ import annotations

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from webapp import (
    assets,
    compression,
    csrf,
    errors,
    extensions,
    headers,
    health,
    htmx,
    input_guard,
    navigation,
    pages,
    permissions,
    presentation,
    theme,
)
from webapp.accounts import account, admin, sessions, sign_in
from webapp.settings import Settings

__all__ = ["Settings", "create_app"]

MAX_BODY_BYTES = 1_000_000
MAX_FORM_MEMORY_BYTES = 500_000
MAX_FORM_PARTS = 200


def create_app(settings: Settings | None = None, *, store: SqlCheckpointStore | None = None) -> Flask:
    """Return the dashboard on `store`, by default on the database that the settings name."""
    settings = settings or Settings.from_environment()
    app = Flask(__name__, template_folder=str(assets.folder("templates")), static_folder=None)
    _configure(app, settings)
    extensions.register(app, settings, store or open_store(settings.database_url))
    compression.register(app)
    headers.register(app)
    htmx.register(app)
    errors.register(app)
    input_guard.register(app)
    csrf.register(app)
    sessions.register(app)
    permissions.register(app)
    presentation.register(app)
    navigation.register(app)
    assets.register(app)
    for blueprint in (
        health.blueprint,
        theme.blueprint,
        sign_in.blueprint,
        account.blueprint,
        admin.blueprint,
    ):
        app.register_blueprint(blueprint)
    pages.register(app)
    permissions.check_routes(app)
    return app


def _configure(app: Flask, settings: Settings) -> None:
    app.config.update(
        SECRET_KEY=settings.secret_key,
        MAX_CONTENT_LENGTH=MAX_BODY_BYTES,
        MAX_FORM_MEMORY_SIZE=MAX_FORM_MEMORY_BYTES,
        MAX_FORM_PARTS=MAX_FORM_PARTS,
    )
    if settings.proxy_hops:
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=settings.proxy_hops, x_proto=settings.proxy_hops, x_host=0
        )
