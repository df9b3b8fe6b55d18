"""`resume-engine keys`: API keys, for whoever holds the database."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import click

from resume_engine.cli.database import database_option, opened
from resume_engine.cli.printing import moment, next_step, one_line, table
from resume_engine.core import clock
from resume_engine.core.permissions import Role
from resume_engine.core.run import Environment
from webapp.cli.actor import command_line_actor
from webapp.keys.records import ApiKey, KeyChangeError, KeyHashing, KeyState
from webapp.keys.store import KeyStore, NewKey
from webapp.settings import Settings, SettingsError

_SPAN = re.compile(r"([0-9]{1,5})\s*(m|h|d)", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class Span(click.ParamType):
    """A span of time, such as 90d, 12h or 30m."""

    name = "span"

    def convert(
        self, value: str | timedelta, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Return the span."""
        if isinstance(value, timedelta):
            return value
        found = _SPAN.fullmatch(value.strip().lower())
        if found is None:
            self.fail(f"{value!r} is no span of time; write 90d, 12h or 30m.", param, ctx)
        return timedelta(**{_UNITS[found[2]]: int(found[1])})


class End(Span):
    """When something ends: a span from now on, a day, or never."""

    name = "end"

    def convert(  # type: ignore[override]  # an end is a moment, or none
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime | None:
        """Return the moment, None for never."""
        text = value.strip().lower()
        if text == "never":
            return None
        if _SPAN.fullmatch(text):
            return clock.utc_now() + super().convert(text, param, ctx)
        try:
            day = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{value!r} is no end; write 90d, 2027-06-30 or never.", param, ctx)
        return day if day.tzinfo is not None else day.replace(tzinfo=UTC)


@click.group()
def keys() -> None:
    """Manage the API keys of runners and tools."""


@keys.command()
@click.argument("name")
@click.option(
    "--role", type=click.Choice([role.value for role in Role]), default=Role.RUNNER.value, show_default=True
)
@click.option(
    "--environment",
    "environments",
    multiple=True,
    type=click.Choice([environment.value for environment in Environment]),
    help="Only runs of this environment; may be given more than once. By default any.",
)
@click.option(
    "--expires", "expires_at", type=End(), default="90d", show_default=True, help="90d, a date, or never."
)
@database_option
def create(
    name: str, role: str, environments: tuple[str, ...], expires_at: datetime | None, database: str
) -> None:
    """Make a key; it alone is printed on standard output, once."""
    with _keys(database) as store:
        made = store.create(
            name,
            Role(role),
            actor=command_line_actor(),
            expires_at=expires_at,
            environments=[Environment(word) for word in environments],
        )
    _show(made)


@keys.command("list")
@click.option("--all", "with_over", is_flag=True, help="Keys that are revoked or expired too.")
@database_option
def list_keys(with_over: bool, database: str) -> None:
    """List the keys."""
    now = clock.utc_now()
    with _keys(database) as store:
        found = [(key, key.state(now)) for key in store.list_keys()]
    shown = [pair for pair in found if with_over or pair[1] not in (KeyState.REVOKED, KeyState.EXPIRED)]
    if not shown:
        click.echo("There is no key that works.")
        next_step("resume-engine keys create my-runner --role runner")
        return
    heads = ("KEY", "NAME", "ROLE", "ENVIRONMENTS", "STATE", "EXPIRES", "LAST USED")
    table(heads, [_line(key, state) for key, state in shown])


@keys.command()
@click.argument("key_id")
@click.option(
    "--grace", type=Span(), default="24h", show_default=True, help="How long the old key goes on working."
)
@database_option
def rotate(key_id: str, grace: timedelta, database: str) -> None:
    """Make a successor of a key; it alone is printed on standard output, once."""
    with _keys(database) as store:
        made = store.rotate(key_id, actor=command_line_actor(), grace=grace)
    _show(made)


@keys.command()
@click.argument("key_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@database_option
def revoke(key_id: str, yes: bool, database: str) -> None:
    """End a key at once; this cannot be undone."""
    with _keys(database) as store:
        key = store.get(key_id)
        if key is None:
            raise KeyChangeError(f"There is no key {key_id}. See: resume-engine keys list --all")
        if not yes:
            click.confirm(f"Revoke {one_line(key.label)}, a key of role {key.role}?", abort=True, err=True)
        changed = store.revoke(key_id, actor=command_line_actor())
    done = (
        "is revoked: its next request is refused." if changed else "was revoked already. Nothing was changed."
    )
    click.echo(f"{one_line(key.label)} {done}")


@contextmanager
def _keys(database: str) -> Iterator[KeyStore]:
    try:
        pepper = Settings.from_environment().key_pepper
        with opened(database) as store:
            yield KeyStore(store, KeyHashing(pepper=pepper))
    except (KeyChangeError, SettingsError) as problem:
        raise click.ClickException(one_line(str(problem))) from problem


def _show(made: NewKey) -> None:
    """Print the key where a script can take it, and everything else where a person reads it."""
    key = made.key
    where = f"in {', '.join(key.environments)}" if key.environments else "in any environment"
    until = f"until {moment(key.expires_at)}" if key.expires_at else "until it is revoked"
    click.echo(f"Key {one_line(key.label)} acts as {key.role} {where}, {until}.", err=True)
    if made.replaced is not None:
        click.echo(
            f"The key before, {made.replaced.key_id}, ends {moment(made.replaced.expires_at)}.", err=True
        )
    click.echo("It is shown this once; programs read it from ORCHESTRATEOS_API_KEY:", err=True)
    click.echo(made.text)


def _line(key: ApiKey, state: KeyState) -> tuple[str, ...]:
    words = {KeyState.FOREIGN: "other SECRET_KEY", KeyState.ENDING: f"ending, then {key.replaced_by}"}
    return (
        key.key_id,
        one_line(key.name),
        key.role.value,
        ",".join(key.environments) if key.environments else "any",
        words.get(state, state.value),
        moment(key.expires_at) if key.expires_at else "never",
        moment(key.last_used_at) if key.last_used_at else "never",
    )
