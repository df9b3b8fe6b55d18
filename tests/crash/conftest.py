"""A database of each kind that processes share, the processes, and the world outside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.crash.effects import Effects
from tests.crash.processes import Processes

KINDS = ("sqlite", "postgres")


@dataclass(frozen=True)
class Scene:
    """What a fault test plays with."""

    kind: str
    path: Path
    url: str
    store: SqlCheckpointStore
    effects: Effects
    effects_path: str
    processes: Processes

    def start(self, do: str, **job: object) -> int:
        """Start a process of this scene; return its id."""
        return self.processes.start(do, url=self.url, effects=self.effects_path, **job)  # type: ignore[arg-type]

    def run(self, do: str, **job: object) -> int:
        """Run a process of this scene to its end; return its exit code."""
        return self.processes.wait(self.start(do, **job), 120)


@pytest.fixture(scope="session")
def session_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """The zygote of all tests; take `scene` instead."""
    processes = Processes(tmp_path_factory.mktemp("processes") / "log")
    yield processes
    processes.close()


@pytest.fixture(params=KINDS)
def scene(request: pytest.FixtureRequest, tmp_path: Path, session_processes: Processes) -> Iterator[Scene]:
    """An empty database of each kind in turn, with a world outside."""
    if request.param == "postgres":
        url: str = request.getfixturevalue("postgres_url")
    else:
        url = f"sqlite:///{tmp_path / 'engine.db'}"
    path = str(tmp_path / "effects.db")
    with open_store(url) as store:
        yield Scene(request.param, tmp_path, url, store, Effects(path), path, session_processes)
