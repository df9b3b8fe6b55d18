"""A terminal, and its database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resume_engine.storage.open_store import open_store
from tests.engine.cli.terminal import Terminal


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """A terminal and a database that is not there yet."""
    return Terminal(f"sqlite:///{tmp_path / 'x.db'}")


@pytest.fixture
def store(terminal: Terminal) -> Any:
    """The terminal's database, opened."""
    with open_store(terminal.url) as opened:
        yield opened
