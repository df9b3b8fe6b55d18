"""`resume-engine serve`: pages and API for good, by one process or by several."""

from __future__ import annotations

import os
import sys
import tempfile

import click

from resume_engine.cli.printing import one_line
from resume_engine.storage.open_store import open_store
from webapp.cli.dashboard import introduce, read_settings, serve_here
from webapp.metrics import SHARED_FOLDER
from webapp.serving import PortTakenError, listen
from webapp.settings import Settings

APPLICATION = "webapp:create_app()"
CONFIGURATION = "python:webapp.gunicorn_config"


@click.command()
@click.option("--database", metavar="URL", help="Database to serve; by default DATABASE_URL.")
@click.option("--host", help="Address to listen on; by default HOST, else 127.0.0.1.")
@click.option("--port", help="Port to listen on; by default PORT, else 8000.")
@click.option("--workers", help="Processes that answer; by default WORKERS, else 1.")
def serve(database: str | None, host: str | None, port: str | None, workers: str | None) -> None:
    """Serve until SIGTERM or Ctrl+C; running requests are answered first.

    Everything else is set by the environment: see docs/deploy.md.
    """
    settings = read_settings(DATABASE_URL=database, HOST=host, PORT=port, WORKERS=workers)
    if settings.workers == 1:
        serve_here(settings, with_link=False)
    else:
        _serve_by_workers(settings)


def _serve_by_workers(settings: Settings) -> None:
    """Become the master of several workers: the process id stays the same, so signals reach it."""
    if sys.platform == "win32":
        raise click.ClickException("Several workers need fork, which Windows has not: use --workers 1.")
    if settings.secret_key_is_random:
        raise click.ClickException(
            "SECRET_KEY is not set: several workers need one that all of them share. For example: "
            "export SECRET_KEY=$(python -c 'import secrets; print(secrets.token_hex(32))')"
        )
    try:
        listen(settings).close()
    except PortTakenError as problem:
        raise click.ClickException(one_line(str(problem))) from problem
    # An empty database gets its tables once, before there is anybody who could get in the way.
    with open_store(settings.database_url) as store:
        introduce(settings, store, with_link=False)
    os.environ |= {
        "DATABASE_URL": settings.database_url,
        "HOST": settings.host,
        "PORT": str(settings.port),
        "WORKERS": str(settings.workers),
    }
    os.environ.setdefault(SHARED_FOLDER, tempfile.mkdtemp(prefix="resume-engine-metrics-"))
    sys.stdout.flush()
    gunicorn = [sys.executable, "-m", "gunicorn", "--config", CONFIGURATION, APPLICATION]
    os.execv(sys.executable, gunicorn)
