"""Static files: one address per content, kept for good, small enough for the budget."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from flask import Flask

from webapp import assets, compression

SCRIPT_BUDGET_BYTES = 25_000
STYLE_BUDGET_BYTES = 9_000


@pytest.fixture
def app() -> Flask:
    app = Flask(__name__)
    assets.register(app)
    compression.register(app)
    return app


def address(app: Flask, name: str) -> str:
    with app.test_request_context():
        return assets.asset(name)


def test_a_file_is_served_compressed_and_kept_for_good(app: Flask) -> None:
    answer = app.test_client().get(address(app, "app.css"), headers={"Accept-Encoding": "gzip"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Cache-Control"] == assets.FOREVER
    assert "Accept-Encoding" in answer.headers["Vary"]
    assert gzip.decompress(answer.data) == (assets.folder("static") / "app.css").read_bytes()
    plain = app.test_client().get(address(app, "app.css"))
    assert "Content-Encoding" not in plain.headers


def test_an_old_address_is_answered_but_not_kept(app: Flask) -> None:
    answer = app.test_client().get("/static/000000000000/app.js")
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("path", ["/static/x/other.css", "/static/x/..%2Fbase.html", "/static/app.css"])
def test_nothing_else_is_served(app: Flask, path: str) -> None:
    assert app.test_client().get(path).status_code == 404


def test_the_address_follows_the_content(tmp_path: Path) -> None:
    path = tmp_path / "app.css"
    path.write_text("a{}")
    before = assets.load("app.css", path).fingerprint
    path.write_text("b{}")
    assert assets.load("app.css", path).fingerprint != before


def test_a_missing_file_stops_the_start_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(assets.MissingAssetError, match=r"run `pip install -e \.`"):
        assets.load("htmx.min.js", tmp_path / "htmx-2.min.js")
    with pytest.raises(assets.MissingAssetError, match="no-such-folder"):
        assets.folder("no-such-folder")


def test_files_keep_their_budget(app: Flask) -> None:
    sizes = {name: len(asset.zipped) for name, asset in app.extensions["assets"].items()}
    assert sizes["app.js"] + sizes["htmx.min.js"] <= SCRIPT_BUDGET_BYTES
    assert sizes["app.css"] <= STYLE_BUDGET_BYTES
