"""Fixtures for the browser tests: the Chromium that Playwright drives, and a served application to visit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.provision.browser import BrowserUnavailable, launch_options

if TYPE_CHECKING:
    from flask import Flask


@dataclass(frozen=True, kw_only=True)
class LiveServer:
    """An application that answers real requests on this machine."""

    app: Flask
    url: str


@contextmanager
def served(app: Flask) -> Iterator[LiveServer]:
    """Serve `app` on a free loopback port from a thread until the block is left."""
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, app, threaded=True)
    # Open keep-alive connections of the browser must not hold up the end of a test.
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="live-server", daemon=True)
    thread.start()
    try:
        yield LiveServer(app=app, url=f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


@pytest.fixture
def live_server(app: Flask) -> Iterator[LiveServer]:
    """Serve the test's `app` fixture."""
    with served(app) as server:
        yield server


@pytest.fixture
def serve() -> Iterator[Callable[[Flask], LiveServer]]:
    """Serve any application for the rest of the test: `serve(app).url`."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(served(app))


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any], playwright: Any) -> dict[str, Any]:
    """Choose the browser: E2E_BROWSER, Playwright's own, the system's; fail with advice if there is none."""
    try:
        return {**browser_type_launch_args, **launch_options(Path(playwright.chromium.executable_path))}
    except BrowserUnavailable as reason:
        pytest.fail(str(reason), pytrace=False)
