"""`resume-engine users`: people and their roles, for whoever holds the database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from resume_engine.cli.database import database_option, opened
from resume_engine.cli.printing import moment, next_step, one_line, table
from resume_engine.core.permissions import PEOPLE_ROLES, Role
from webapp.accounts.records import AccountError, Person, Purpose
from webapp.accounts.store import AccountStore
from webapp.cli.actor import command_line_actor
from webapp.cli.address import dashboard_address

ROLE = click.Choice([role.value for role in PEOPLE_ROLES])


@click.group()
def users() -> None:
    """Manage who may sign in to the dashboard."""


@users.command("list")
@database_option
def list_people(database: str) -> None:
    """List everybody who has an account."""
    with _accounts(database) as accounts:
        people = accounts.list_people()
    if not people:
        click.echo("Nobody has an account yet.")
        next_step("resume-engine users add you@example.org --role admin")
        return
    table(("EMAIL", "NAME", "ROLE", "SIGN-IN", "SINCE"), [_line(person) for person in people])


@users.command()
@click.argument("email")
@click.option("--role", type=ROLE, default=Role.OPERATOR.value, show_default=True)
@click.option("--name", default="", help="As shown to others; by default the part before the @.")
@click.option("--address", metavar="URL", help="Where the dashboard is reached; by default HOST and PORT.")
@database_option
def add(email: str, role: str, name: str, address: str | None, database: str) -> None:
    """Add a person and print the link that lets them in."""
    base = dashboard_address(address)
    with _accounts(database) as accounts:
        person = accounts.add(email, role=Role(role), display_name=name, actor=command_line_actor())
        link = accounts.create_link(person.user_id, Purpose.INVITE, actor=command_line_actor())
    click.echo(
        f"{one_line(person.email)} is {person.role} now. "
        f"The link works once, until {moment(link.expires_at)}:"
    )
    click.echo(f"  {base}{link.path}")
    next_step("hand the link over; a password is chosen on the Account page.")


@users.command()
@click.argument("email")
@click.argument("role", type=ROLE)
@database_option
def role(email: str, role: str, database: str) -> None:
    """Give a person another role; their sessions end at once."""
    with _accounts(database) as accounts:
        person = _find(accounts, email)
        changed = accounts.set_role(person.user_id, Role(role), actor=command_line_actor())
    _say(changed, f"{one_line(person.email)} is {role} now and has to sign in again.", f"is {role} already")


@users.command()
@click.argument("email")
@database_option
def disable(email: str, database: str) -> None:
    """Close an account; its sessions and links end at once."""
    with _accounts(database) as accounts:
        person = _find(accounts, email)
        changed = accounts.disable(person.user_id, actor=command_line_actor())
    _say(changed, f"{one_line(person.email)} is disabled and signed out everywhere.", "is disabled already")


@users.command()
@click.argument("email")
@database_option
def enable(email: str, database: str) -> None:
    """Open an account again."""
    with _accounts(database) as accounts:
        person = _find(accounts, email)
        changed = accounts.enable(person.user_id, actor=command_line_actor())
    _say(changed, f"{one_line(person.email)} may sign in again.", "is enabled already")


@users.command()
@click.argument("email")
@click.option("--address", metavar="URL", help="Where the dashboard is reached; by default HOST and PORT.")
@database_option
def link(email: str, address: str | None, database: str) -> None:
    """Print a new one-time sign-in link; older ones of this person stop working."""
    base = dashboard_address(address)
    with _accounts(database) as accounts:
        person = _find(accounts, email)
        purpose = Purpose.SIGN_IN if person.has_password else Purpose.INVITE
        made = accounts.create_link(person.user_id, purpose, actor=command_line_actor())
    click.echo(f"Signs {one_line(person.email)} in as {person.role}, once, until {moment(made.expires_at)}:")
    click.echo(f"  {base}{made.path}")


@contextmanager
def _accounts(database: str) -> Iterator[AccountStore]:
    try:
        with opened(database) as store:
            yield AccountStore(store)
    except AccountError as problem:
        raise click.ClickException(one_line(str(problem))) from problem


def _find(accounts: AccountStore, email: str) -> Person:
    person = accounts.find(email)
    if person is None:
        raise AccountError(f"Nobody has the email {email}. See: resume-engine users list")
    return person


def _line(person: Person) -> tuple[str, ...]:
    if person.disabled_at is not None:
        way_in = "disabled"
    else:
        way_in = "password" if person.has_password else "link only"
    return (
        one_line(person.email),
        one_line(person.display_name),
        person.role,
        way_in,
        moment(person.created_at),
    )


def _say(changed: bool, done: str, already: str) -> None:
    click.echo(done if changed else f"Nothing was changed: the person {already}.")
