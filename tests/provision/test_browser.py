"""The browser the page journeys stand on: a real Chromium against a really served application."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask
from playwright.sync_api import Page

from tests.provision import browser
from tests.provision.browser import BrowserUnavailable
from tests.provision.browser_fixtures import LiveServer


def test_a_real_browser_reads_a_served_page(serve: Callable[[Flask], LiveServer], page: Page) -> None:
    app = Flask("served")

    @app.get("/")
    def greeting() -> str:
        return "<!doctype html><title>served</title><h1>Hello</h1>"

    page.goto(serve(app).url)
    assert page.get_by_role("heading").inner_text() == "Hello"


def test_no_browser_anywhere_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("E2E_BROWSER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrowserUnavailable, match="make browser"):
        browser.launch_options(tmp_path / "absent")


def test_a_wrong_choice_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("E2E_BROWSER", str(tmp_path / "absent"))
    with pytest.raises(BrowserUnavailable, match="E2E_BROWSER"):
        browser.launch_options(tmp_path / "absent")
