"""`resume-engine dashboard`: the dashboard on any checkpoint database."""

from __future__ import annotations

import os
from dataclasses import replace

import click
from click.core import ParameterSource

from resume_engine.cli.database import refuse_missing_file
from resume_engine.cli.printing import moment, one_line
from resume_engine.storage.open_store import DEFAULT_DATABASE_URL, open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from webapp import create_app
from webapp.accounts.login_links import create_login_link, local_admin
from webapp.accounts.store import AccountStore
from webapp.cli.actor import command_line_actor
from webapp.cli.address import address_of
from webapp.logs import configure as configure_logs
from webapp.sealer import AuditSealer
from webapp.serving import PortTakenError, listen, serve
from webapp.settings import Settings, SettingsError, is_loopback


@click.command()
@click.option(
    "--database",
    metavar="URL",
    help=f"Any checkpoint database; prints a sign-in link. Default: DATABASE_URL or {DEFAULT_DATABASE_URL}.",
)
@click.option("--host", help="Address to listen on; by default HOST, else 127.0.0.1.")
@click.option("--port", help="Port to listen on; by default PORT, else 8000.")
@click.pass_context
def dashboard(ctx: click.Context, database: str | None, host: str | None, port: str | None) -> None:
    """Serve the dashboard until Ctrl+C.

    With --database, or when nobody can sign in yet, a one-time sign-in link for a local administrator
    is printed: whoever can open the database may open the dashboard.
    """
    named = ctx.get_parameter_source("database") is ParameterSource.COMMANDLINE
    settings = read_settings(DATABASE_URL=database, HOST=host, PORT=port)
    if named:
        refuse_missing_file(settings.database_url)
    serve_here(settings, with_link=named)


def serve_here(settings: Settings, *, with_link: bool) -> None:
    """Serve from this process until it is told to stop."""
    try:
        listening = listen(settings)
    except PortTakenError as problem:
        raise click.ClickException(one_line(str(problem))) from problem
    with listening, open_store(settings.database_url) as store:
        app = create_app(replace(settings, workers=1), store=store)
        configure_logs(settings.log_level, settings.log_format)
        introduce(settings, store, with_link=with_link)
        sealer = AuditSealer(store, settings.audit_signer)
        sealer.start()
        serve(app, settings, listening)
        sealer.stop()
    click.echo("Stopped.")


def read_settings(**given: str | None) -> Settings:
    """Return the environment's settings with those of the command line before them."""
    environ = {**os.environ, **{name: value for name, value in given.items() if value is not None}}
    try:
        return Settings.from_environment(environ)
    except SettingsError as problem:
        raise click.ClickException(one_line(str(problem))) from problem


def introduce(settings: Settings, store: SqlCheckpointStore, *, with_link: bool) -> None:
    """Say where the dashboard is, and how to come in."""
    address = address_of(settings)
    click.echo(f"Dashboard on {one_line(store.url)}")
    click.echo(f"  {address}")
    if with_link or not AccountStore(store).can_anybody_sign_in():
        actor = command_line_actor()
        link = create_login_link(store, local_admin(store, actor=actor), actor=actor)
        click.echo(f"\nSign in as local administrator (works once, until {moment(link.expires_at)}):")
        click.echo(f"  {address}{link.path}")
        click.echo("\nNext: open the link; add people under Admin, or with `resume-engine users add EMAIL`.")
    else:
        click.echo("\nNext: sign in. No password at hand? `resume-engine users link EMAIL`")
    if settings.secret_key_is_random and not is_loopback(settings.host):
        click.echo(
            "Note: SECRET_KEY is not set, so a random one is used. Forms that are open during a restart "
            "have to be reloaded, and a second process needs the same key."
        )
    if settings.secure_cookies:
        click.echo("Note: cookies are for HTTPS (or localhost) only. SECURE_COOKIES=false allows plain HTTP.")
    click.echo("Stop with Ctrl+C.")
