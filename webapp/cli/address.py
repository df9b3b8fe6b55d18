"""The address people type into their browser."""

from __future__ import annotations

from urllib.parse import urlsplit

import click

from webapp.settings import Settings, SettingsError

_EVERYWHERE = ("0.0.0.0", "::", "[::]")


def address_of(settings: Settings) -> str:
    """Return the address of a dashboard with these settings, as seen from its own machine."""
    host = "127.0.0.1" if settings.host in _EVERYWHERE else settings.host
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"http://{host}:{settings.port}"


def dashboard_address(given: str | None) -> str:
    """Return the address that was given, checked, or that of the settings in the environment."""
    if given is None:
        try:
            return address_of(Settings.from_environment())
        except SettingsError as problem:
            raise click.ClickException(str(problem)) from problem
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise click.BadParameter(f"{given!r} is not an address such as https://runs.example.org.")
    return given.rstrip("/")
