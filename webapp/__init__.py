"""The dashboard: a Flask application on a checkpoint store."""

from __future__ import annotations

from flask import Flask
from flask_openapi3.models.info import Info
from flask_openapi3.models.server import Server
from flask_openapi3.openapi import OpenAPI
from werkzeug.middleware.proxy_fix import ProxyFix

from resume_engine import __version__
from resume_engine.storage.sql_store import SqlCheckpointStore
from webapp import (
    api,
    assets,
    compression,
    cors,
    csrf,
    errors,
    extensions,
    headers,
    health,
    htmx,
    input_guard,
    metrics,
    navigation,
    pages,
    permissions,
    presentation,
    theme,
)
from webapp.accounts import account, admin, sessions, sign_in
from webapp.api.resource import SECURITY_SCHEMES
from webapp.api.shapes import Problem
from webapp.demo import three_runs
from webapp.keys import admin as keys_admin
from webapp.settings import Settings

__all__ = ["Settings", "create_app"]

MAX_BODY_BYTES = 1_000_000
MAX_FORM_MEMORY_BYTES = 500_000
MAX_FORM_PARTS = 200


def create_app(settings: Settings | None = None, *, store: SqlCheckpointStore | None = None) -> Flask:
    """Return the dashboard on `store`, by default on the database that the settings name."""
    settings = settings or Settings.from_environment()
    app = OpenAPI(
        __name__,
        info=Info(title="OrchestrateOS", version=__version__),
        security_schemes=SECURITY_SCHEMES,
        servers=[Server(url=settings.api_base or "/")],
        validation_error_model=Problem,
        doc_ui=False,
        validation_error_callback=api.refuse_shape,
        template_folder=str(assets.folder("templates")),
        static_folder=None,
    )
    _configure(app, settings)
    extensions.register(app, settings, store)
    for part in (
        metrics,
        compression,
        headers,
        htmx,
        errors,
        input_guard,
        cors,
        csrf,
        sessions,
        permissions,
        api,
    ):
        part.register(app)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(metrics.blueprint)
    if not settings.api_only:
        _register_pages(app)
    permissions.check_routes(app)
    if settings.demo_mode:
        three_runs.make_missing(extensions.services(app).engine)
    return app


def _register_pages(app: Flask) -> None:
    for part in (presentation, navigation, assets):
        part.register(app)
    for part in (theme, sign_in, account, admin, keys_admin):
        app.register_blueprint(part.blueprint)
    pages.register(app)


def _configure(app: Flask, settings: Settings) -> None:
    app.config.update(
        SECRET_KEY=settings.secret_key,
        MAX_CONTENT_LENGTH=MAX_BODY_BYTES,
        MAX_FORM_MEMORY_SIZE=MAX_FORM_MEMORY_BYTES,
        MAX_FORM_PARTS=MAX_FORM_PARTS,
    )
    app.url_map.merge_slashes = False  # an address that is not ours is not found, and leads nowhere else
    app.json.sort_keys = False  # type: ignore[attr-defined]  # payloads keep the order they were written in
    if settings.proxy_hops:
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=settings.proxy_hops, x_proto=settings.proxy_hops, x_host=0
        )
