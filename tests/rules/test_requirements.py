"""The pinned requirements: every line hashed, no line naming an index, and in step with pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PIN = re.compile(r"^(?P<name>[a-z0-9._-]+)==(?P<version>[^ ;]+)(?P<marker> ;.*?)? \\$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")


def pinned(path: Path) -> dict[str, str]:
    matches = (PIN.match(line) for line in path.read_text().splitlines())
    return {found["name"]: found["version"] for found in matches if found}


def declared(*extras: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    names = {re.split(r"[<>=!~\[; ]", requirement, maxsplit=1)[0] for requirement in wanted}
    return {name.lower().replace("_", "-") for name in names} - {"resume-engine"}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_lines_are_pins_and_hashes_only(path: Path) -> None:
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        assert PIN.match(line) or HASH.match(line), f"{path.name}:{number}: {line}"


def test_what_is_declared_is_pinned() -> None:
    runtime, dev = ROOT / "requirements" / "runtime.txt", ROOT / "requirements" / "dev.txt"
    assert declared("dashboard", "postgres", "encryption") <= pinned(runtime).keys()
    assert declared("dashboard", "postgres", "remote", "encryption", "langgraph", "dev") <= pinned(dev).keys()


def test_the_image_runs_what_was_tested() -> None:
    dev = pinned(ROOT / "requirements" / "dev.txt")
    for name, version in pinned(ROOT / "requirements" / "runtime.txt").items():
        assert dev[name] == version, name


def test_the_bare_library_stays_light() -> None:
    assert declared() == {"alembic", "click", "sqlalchemy"}


def test_the_promised_extras_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    promised = {"dashboard", "api", "postgres", "remote", "encryption", "langgraph", "crewai", "all", "dev"}
    assert set(extras) == promised
    assert extras["api"] == ["resume_engine[dashboard]"]
