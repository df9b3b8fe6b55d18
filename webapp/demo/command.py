"""`resume-engine demo`: a throw-away database full of runs, a live runner, the dashboard."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import click

from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from webapp import create_app
from webapp.accounts.login_links import SYSTEM
from webapp.accounts.records import Purpose
from webapp.accounts.store import AccountStore
from webapp.cli.address import address_of
from webapp.cli.dashboard import read_settings
from webapp.demo.filling import DatabaseInUseError, fill
from webapp.demo.live import LiveTraffic
from webapp.demo.people import ADMINISTRATOR, AUDITOR, OPERATOR
from webapp.logs import configure as configure_logs
from webapp.sealer import AuditSealer
from webapp.serving import PortTakenError, serve
from webapp.settings import Settings

LINK_LIFETIME = timedelta(hours=12)


@click.command()
@click.option("--host", help="Address to listen on; by default HOST, else 127.0.0.1.")
@click.option("--port", help="Port to listen on; by default PORT, else 8000.")
@click.option(
    "--database",
    metavar="URL",
    help="An empty database to fill and keep. Default: a temporary SQLite file, removed at the end.",
)
def demo(host: str | None, port: str | None, database: str | None) -> None:
    """Try the dashboard on a week of runs, with a runner that keeps working.

    DATABASE_URL is not looked at: the demo never touches a database that is not named here.
    """
    settings = read_settings(HOST=host, PORT=port)
    _refuse_taken_port(settings)
    # The runner fails on purpose; what it logs would bury the links.
    configure_logs(settings.log_level if os.environ.get("LOG_LEVEL") else "error")
    with _database(database) as url, open_store(url) as store:
        _fill(store)
        _serve(replace(settings, database_url=url), store)
    click.echo("Stopped." if database else "Stopped. The demo's database is removed.")


@contextmanager
def _database(given: str | None) -> Iterator[str]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="resume-engine-demo-") as folder:
        yield f"sqlite:///{Path(folder) / 'demo.db'}"


def _fill(store: SqlCheckpointStore) -> None:
    with click.progressbar(length=1, label="Playing a week of runs", show_eta=False) as bar:

        def report(told: int, total: int) -> None:
            bar.length = total
            bar.update(told - bar.pos)

        try:
            fill(store, report=report)
        except DatabaseInUseError as problem:
            raise click.ClickException(f"{store.url} {problem}.") from problem


def _serve(settings: Settings, store: SqlCheckpointStore) -> None:
    app = create_app(settings, store=store)
    traffic = LiveTraffic(store)
    _introduce(settings, store)
    traffic.start()
    sealer = AuditSealer(store, settings.audit_signer)
    sealer.start()
    try:
        serve(app, settings)
    except PortTakenError as problem:
        raise click.ClickException(str(problem)) from problem
    finally:
        sealer.stop()
        traffic.stop()


def _introduce(settings: Settings, store: SqlCheckpointStore) -> None:
    address = address_of(settings)
    accounts = AccountStore(store)
    click.echo(f"\nThe demo is ready: {address}\n\nSign in as (each link works once, for 12 hours):")
    for person in (OPERATOR, ADMINISTRATOR, AUDITOR):
        account = accounts.find(person.email)
        if account is not None:
            link = accounts.create_link(
                account.user_id, Purpose.SIGN_IN, actor=SYSTEM, lifetime=LINK_LIFETIME
            )
            click.echo(f"  {person.role.value:<9} {person.name:<15} {address}{link.path}")
    again = f"resume-engine users link {OPERATOR.email} --address {address} --database {store.url}"
    click.echo(
        f"\nAnother link: {again}"
        "\nRuns start every few seconds; what you clear is resumed within a second or two."
        "\nStop with Ctrl+C."
    )


def _refuse_taken_port(settings: Settings) -> None:
    """Find out before the filling, not after it."""
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        socket.create_server((settings.host.strip("[]"), settings.port), family=family).close()
    except OSError as problem:
        raise click.ClickException(
            f"Port {settings.port} of {settings.host} cannot be used ({problem.strerror}). "
            "Choose another one with --port (or PORT)."
        ) from problem
