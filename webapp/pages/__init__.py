"""The pages, one blueprint per resource."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from flask import Flask

PAGES = (
    "overview",
    "runs",
    "run_detail",
    "downloads",
    "reveal",
    "gates",
    "decisions",
    "bulk_approvals",
    "audit",
    "run_integrity",
)


def register(app: Flask) -> None:
    """Add every page to `app`."""
    for name in PAGES:
        if find_spec(f"{__name__}.{name}"):
            app.register_blueprint(import_module(f"{__name__}.{name}").blueprint)
