"""Pages are sent compressed, and their length tells nothing about their secrets."""

from __future__ import annotations

import gzip

import pytest
from flask import Flask, Response

from webapp import compression

LONG = "<p>a page that repeats itself</p>" * 100


@pytest.fixture
def app() -> Flask:
    app = Flask(__name__)
    compression.register(app)
    app.add_url_rule("/long", view_func=lambda: LONG, endpoint="long")
    app.add_url_rule("/short", view_func=lambda: "short", endpoint="short")
    app.add_url_rule("/image", view_func=lambda: Response(LONG, mimetype="image/png"), endpoint="image")
    app.add_url_rule(
        "/stream", view_func=lambda: Response(iter([LONG, LONG]), mimetype="text/plain"), endpoint="stream"
    )
    return app


def test_a_page_is_compressed_for_those_who_can_read_it(app: Flask) -> None:
    answer = app.test_client().get("/long", headers={"Accept-Encoding": "gzip"})
    assert gzip.decompress(answer.data).decode() == LONG
    assert int(answer.headers["Content-Length"]) == len(answer.data) < len(LONG) / 10
    assert "Accept-Encoding" in answer.headers["Vary"]
    assert app.test_client().get("/long").text == LONG


@pytest.mark.parametrize("path", ["/short", "/image", "/stream"])
def test_the_rest_passes_untouched(app: Flask, path: str) -> None:
    answer = app.test_client().get(path, headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in answer.headers


def test_the_length_of_the_same_page_varies() -> None:
    assert len({len(compression.zipped(LONG.encode())) for _ in range(40)}) > 5
