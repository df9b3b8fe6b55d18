"""An environment that holds the published release 0.2.0 and nothing of this repository."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REQUIREMENTS = ("resume_engine[remote]==0.2.0", "psycopg2-binary")
ENVIRONMENT = Path(sys.prefix, "published_client_0_2_0")


@pytest.fixture(scope="session")
def old_python() -> Path:
    """The interpreter of that environment; it is made once, whoever asks first."""
    python = ENVIRONMENT / "bin" / "python"
    with ENVIRONMENT.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _has_release(python):
            _make(python)
    return python


def _make(python: Path) -> None:
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    made = run_outside(sys.executable, "-m", "venv", str(ENVIRONMENT))
    made = (
        made
        if made.returncode
        else run_outside(str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS)
    )
    if made.returncode:
        wanted = " ".join(f"'{requirement}'" for requirement in REQUIREMENTS)
        pytest.fail(
            f"The published release could not be installed. Give this machine a package index, or run "
            f"`{python} -m pip install {wanted}` yourself. {made.stderr[-500:]}",
            pytrace=False,
        )


def _has_release(python: Path) -> bool:
    check = "from importlib.metadata import version; assert version('resume_engine') == '0.2.0'"
    return (
        python.exists() and run_outside(str(python), "-c", f"{check}; import httpx, psycopg2").returncode == 0
    )


def run_outside(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without this repository on its path."""
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env=without_us(**environ)
    )


def without_us(**environ: str) -> dict[str, str]:
    """Return this environment without the path to this repository."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environ
