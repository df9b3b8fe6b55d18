"""The databases that are measured: built once, kept in a folder that git ignores, renewed when outdated."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import URL, create_engine, text
from sqlalchemy.exc import DatabaseError

from bench import bulk_load, stamping
from resume_engine.storage.open_store import open_store
from resume_engine.storage.schema import metadata
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.provision.postgres import OwnServer, server_url_from_environment

NOW = datetime(2026, 11, 20, 15, 0, tzinfo=UTC)
"""The moment at which all databases are looked at."""

CACHE_VARIABLE = "BENCH_CACHE"
# PostgreSQL's own defaults but for the cache: 128 MB is what an unconfigured server has.
_POSTGRES_SETTINGS = {"shared_buffers": "128MB", "max_wal_size": "4GB"}


@dataclass(frozen=True)
class Dataset:
    """A database with `runs` runs, opened as the product opens it."""

    backend: str
    runs: int
    store: SqlCheckpointStore


class Shelf:
    """Give out the databases, building those that are missing."""

    def __init__(self, folder: Path, postgres: URL | None) -> None:
        self._folder = folder
        self._postgres = postgres
        self._press: stamping.Press | None = None

    @property
    def folder(self) -> Path:
        """Return where the databases are kept."""
        return self._folder

    @property
    def backends(self) -> list[str]:
        """Return the databases that can be had here."""
        return ["sqlite", *(["postgresql"] if self._postgres is not None else [])]

    def open(self, backend: str, runs: int) -> Dataset:
        """Return a dataset, built now if need be."""
        url = self._sqlite_url(runs) if backend == "sqlite" else self._postgres_url(runs)
        if self._marker(url) != _version():
            self._build(backend, runs, url)
        store = open_store(url, check_schema=False)
        before, after = store.upgrade_schema()
        if before != after:
            print(f"  {backend} {runs:,}: upgraded from {before} to {after}", flush=True)
        for change in bulk_load.build_indexes(store.engine):
            print(f"  {backend} {runs:,}: {change}", flush=True)
        return Dataset(backend, runs, store)

    def scratch_url(self, backend: str, name: str) -> str:
        """Return the address of a new empty database of that name, beside the others."""
        if backend == "sqlite":
            path = self._folder / f"{name}.db"
            for suffix in ("", "-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
            return f"sqlite:///{path}"
        return self._new_postgres(f"re_bench_{name}")

    def _build(self, backend: str, runs: int, url: str) -> None:
        started = time.perf_counter()
        if backend == "sqlite":
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self._folder / f'runs_{runs}.db'}{suffix}").unlink(missing_ok=True)
        else:
            self._new_postgres(f"re_bench_{runs}")
        if self._press is None:
            print("  telling the stories", flush=True)
            self._press = stamping.Press.of_everything()
        press = self._press
        store = open_store(url)

        def progress(done: int) -> None:
            if done % 20_000 == 0 or done == runs:
                seconds = time.perf_counter() - started
                print(f"  {backend} {runs:,} runs: {done:,} written after {seconds:.0f} s", flush=True)

        bulk_load.load(store.engine, press.print_events(press.print_runs(runs, NOW), NOW), progress)
        with store.engine.begin() as conn:
            conn.execute(text("CREATE TABLE bench_dataset (version varchar(64))"))
            conn.execute(text("INSERT INTO bench_dataset VALUES (:version)"), {"version": _version()})
        store.close()
        print(f"  {backend} {runs:,} runs: ready after {time.perf_counter() - started:.0f} s", flush=True)

    def _marker(self, url: str) -> str | None:
        engine = create_engine(url)
        try:
            with engine.connect() as conn:
                return str(conn.execute(text("SELECT version FROM bench_dataset")).scalar())
        except DatabaseError:
            return None
        finally:
            engine.dispose()

    def _sqlite_url(self, runs: int) -> str:
        return f"sqlite:///{self._folder / f'runs_{runs}.db'}"

    def _postgres_url(self, runs: int) -> str:
        assert self._postgres is not None
        return self._postgres.set(database=f"re_bench_{runs}").render_as_string(hide_password=False)

    def _new_postgres(self, name: str) -> str:
        assert self._postgres is not None
        engine = create_engine(self._postgres, isolation_level="AUTOCOMMIT")
        with engine.connect() as conn:
            conn.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
            conn.execute(text(f'CREATE DATABASE "{name}"'))
        engine.dispose()
        return self._postgres.set(database=name).render_as_string(hide_password=False)


@contextmanager
def shelf(*, with_postgres: bool = True) -> Iterator[Shelf]:
    """Open the cache folder and start PostgreSQL on the data kept there; the server stops at the end."""
    folder = Path(os.environ.get(CACHE_VARIABLE) or Path(__file__).parent.parent / ".bench").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    given = server_url_from_environment()
    if not with_postgres or given is not None:
        yield Shelf(folder, given if with_postgres else None)
        return
    data = folder / "postgres"
    data.mkdir(mode=0o700, exist_ok=True)
    server = OwnServer(data, _POSTGRES_SETTINGS)
    try:
        yield Shelf(folder, server.url)
    finally:
        server.stop()


def _version() -> str:
    """Return a mark of everything that decides what the rows are; indexes are brought up to date in place."""
    columns = [(c.name, str(c.type)) for t in metadata.sorted_tables for c in t.columns]
    return hashlib.sha256(repr((stamping.DATA_VERSION, columns)).encode()).hexdigest()
