"""The wheel, built as a user would get it: from the source distribution, unpacked somewhere else."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("crewai", "flask", "httpx", "langgraph", "psycopg2", "webapp", "werkzeug")


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution from the checkout and the wheel from that."""
    place = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(place), cwd=ROOT)
    (archive,) = place.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(place, filter="data")
    (source,) = (path for path in place.iterdir() if path.is_dir())
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place), cwd=source)
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as opened:
        return set(opened.namelist())


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel without its dependencies: a pure wheel only has to be unpacked."""
    place = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(place)
    return place


def imported_from_wheel(script: str, unpacked: Path, cwd: Path) -> str:
    """Run `script` with the wheel first on the path; its dependencies come from this environment."""
    # -S leaves out the .pth file of the editable install; the packages beside it are named one by one.
    path = os.pathsep.join([str(unpacked), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    return run(sys.executable, "-S", "-W", "error", "-c", script, cwd=cwd, PYTHONPATH=path).strip()


@pytest.mark.parametrize("folder", ["templates", "static"])
def test_pages_are_inside(names: set[str], folder: str) -> None:
    files = [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    assert files
    assert {f"webapp/{path.relative_to(ROOT).as_posix()}" for path in files} - names == set()


def test_code_migrations_and_htmx_are_inside(names: set[str]) -> None:
    sources = [*(ROOT / "engine").rglob("*.py"), *(ROOT / "engine").rglob("*.mako")]
    expected = {path.relative_to(ROOT / "engine").as_posix() for path in sources}
    expected |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "webapp").rglob("*.py")}
    expected |= {"resume_engine/py.typed", "webapp/_vendor/htmx-2.min.js", "webapp/_vendor/NOTICE"}
    assert expected - names == set()


def test_nothing_else_is_inside(names: set[str]) -> None:
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"resume_engine", "webapp"}
    assert not [name for name in names if name.endswith((".pyc", ".db"))]


def test_commands_are_declared(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith("entry_points.txt"))
        text = opened.read(name).decode()
    assert "resume-engine = resume_engine.cli:main" in text
    assert "[resume_engine.commands]" in text


def test_the_library_imports_from_it_and_stays_light(unpacked: Path, tmp_path: Path) -> None:
    script = (
        "import sys, resume_engine; "
        f"print(resume_engine.__file__, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    printed = imported_from_wheel(script, unpacked, tmp_path)
    assert printed == f"{unpacked / 'resume_engine' / '__init__.py'} []"


def test_the_dashboard_finds_its_files_in_it(unpacked: Path, tmp_path: Path) -> None:
    script = "from webapp.assets import folder; print(folder('templates')); print(folder('static'))"
    printed = imported_from_wheel(script, unpacked, tmp_path).splitlines()
    assert printed == [str(unpacked / "webapp" / "templates"), str(unpacked / "webapp" / "static")]


def test_the_command_from_it_offers_everything(unpacked: Path, tmp_path: Path) -> None:
    """Commands of the web layer come in through their entry points, found in the wheel's own metadata."""
    script = "import sys; from resume_engine.cli import main; sys.argv = ['resume-engine', '--help']; main()"
    printed = imported_from_wheel(script, unpacked, tmp_path)
    for command in ("db", "demo", "dashboard", "users"):
        assert f"  {command} " in printed, f"{command} is missing:\n{printed}"
