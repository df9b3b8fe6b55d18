"""Browsers of signed-in people: `visit("ana")` opens the served dashboard in a context of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from resume_engine.core.engine import ResumeEngine
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.worker import Backoff, Worker
from tests.browser.dashboard import Dashboard
from tests.factories import RunFactory
from tests.provision.app_fixtures import session_cookie
from tests.provision.browser_fixtures import LiveServer
from webapp.accounts.records import Person

if TYPE_CHECKING:
    from playwright.sync_api import Browser

Visit = Callable[..., Dashboard]


@pytest.fixture
def runs(page_store: SqlCheckpointStore) -> RunFactory:
    """Make runs in the database behind the dashboard."""
    return RunFactory(page_store, worker="worker-1")


@pytest.fixture
def visit(live_server: LiveServer, people: dict[str, Person], browser: Browser) -> Iterator[Visit]:
    """Open a browser as somebody: `visit("ana", width=390, color_scheme="dark", java_script_enabled=False)`.

    At the end of the test no page may have reported an error of its own: no exception, nothing that the
    content security policy had to stop.
    """
    opened: list[Dashboard] = []

    def visit_as(name: str, *, width: int = 1280, **options: Any) -> Dashboard:
        height = 800 if width > 500 else 844
        context = browser.new_context(
            base_url=live_server.url, viewport={"width": width, "height": height}, **options
        )
        context.add_cookies([{**session_cookie(live_server.app, people[name]), "url": live_server.url}])
        opened.append(Dashboard(context.new_page()))
        return opened[-1]

    yield visit_as
    for dashboard in opened:
        dashboard.page.context.close()
    assert [trouble for dashboard in opened for trouble in dashboard.troubles] == []


@pytest.fixture
def working(page_store: SqlCheckpointStore) -> Callable[..., Any]:
    """Let a real worker resume runs meanwhile: `with working({"claims_intake": steps(3)}): ...`."""

    @contextmanager
    def work(workflows: dict[str, Any], *, name: str = "worker-2") -> Iterator[Worker]:
        worker = Worker(
            ResumeEngine(page_store),
            workflows,
            name=name,
            poll_seconds=0.1,
            backoff=Backoff(base_seconds=60.0),  # what fails stays failed during a test
        )
        worker.start()
        try:
            yield worker
        finally:
            assert worker.stop(timeout=10)

    return work
