"""Refuse what no form of ours can send, before a view or the database stumbles over it."""

from __future__ import annotations

from flask import Flask, abort, request


def register(app: Flask) -> None:
    """Look at every request first."""
    app.before_request(refuse_nul)


def refuse_nul() -> None:
    """Refuse NUL characters: PostgreSQL cannot store them, SQLite can, and nobody types them."""
    values = [request.path, *_texts(request.args)]
    if request.method not in ("GET", "HEAD", "OPTIONS"):
        values += _texts(request.form)
    if any("\0" in value for value in values):
        abort(400, "The request holds a character that cannot be stored. Nothing was changed.")


def _texts(values: object) -> list[str]:
    return [text for key, text in values.items(multi=True) for text in (key, text)]  # type: ignore[attr-defined]
