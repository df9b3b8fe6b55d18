"""A Chromium for the browser tests: found, or installed by `python -m tests.provision.browser`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SYSTEM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INSTALL_HINT = (
    "no browser for the tests: run `make browser`, install Chromium with the system's package manager, "
    "or set E2E_BROWSER to the path of one"
)
# The browser has no business outside this machine: without these it calls home at every start.
ARGUMENTS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--no-first-run",
)


class BrowserUnavailable(Exception):
    """No browser could be had; the message says what to do about it."""


def launch_options(bundled: Path) -> dict[str, object]:
    """Return the launch options; `bundled` is where Playwright keeps its own browser if it has one."""
    arguments = [*ARGUMENTS, "--no-sandbox"] if is_root() else [*ARGUMENTS]
    chosen = chosen_browser()
    if chosen is not None:
        return {"executable_path": chosen, "args": arguments}
    if bundled.exists():
        # The channel makes headless mode use this very browser instead of a second, smaller one.
        return {"channel": "chromium", "args": arguments}
    system = system_browser()
    if system is None:
        raise BrowserUnavailable(INSTALL_HINT)
    return {"executable_path": system, "args": arguments}


def chosen_browser() -> str | None:
    """Return the browser named by E2E_BROWSER, or None when it is not set."""
    chosen = os.environ.get("E2E_BROWSER")
    if chosen and not shutil.which(chosen):
        raise BrowserUnavailable(f"E2E_BROWSER names {chosen!r}, which is not a program")
    return chosen or None


def system_browser() -> str | None:
    """Return the first Chromium found on the PATH."""
    return next(filter(None, map(shutil.which, SYSTEM_NAMES)), None)


def bundled_browser() -> Path:
    """Return where Playwright keeps its own Chromium, whether it is there or not."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return Path(playwright.chromium.executable_path)


def is_root() -> bool:
    """Tell whether Chromium's sandbox has to be off, as it is for root."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def install() -> None:
    """Install a Chromium: Debian's own where we may, else the one Playwright offers."""
    if is_root() and Path("/etc/debian_version").exists() and _apt_installs("chromium"):
        return
    command = [sys.executable, "-m", "playwright", "install", "chromium"]
    if subprocess.run(command, check=False).returncode != 0:
        raise BrowserUnavailable(INSTALL_HINT)


def _apt_installs(package: str) -> bool:
    print(f"installing the system package {package} for the browser tests", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    options = ["-qq", "-o", "Dpkg::Use-Pty=0", "-o", "Acquire::Retries=3"]
    for command in (["update"], ["install", "--yes", "--no-install-recommends", package]):
        done = subprocess.run(["apt-get", *options, *command], env=environment, check=False)
        if done.returncode != 0:
            print(f"apt-get {command[0]} failed with code {done.returncode}", file=sys.stderr, flush=True)
    return system_browser() is not None


def main() -> int:
    """Make sure there is a browser; say which, or what to do."""
    try:
        found = chosen_browser() or system_browser()
        if found is None and not bundled_browser().exists():
            install()
            found = system_browser()
    except BrowserUnavailable as reason:
        print(reason, file=sys.stderr)
        return 1
    print(f"browser for the tests: {found or bundled_browser()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
