"""What README and docs show is executed, and what they link to exists."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from resume_engine.core import errors, masking
from resume_engine.core.lease import LEASE_VARIABLE
from resume_engine.core.policy_file import POLICY_VARIABLE
from resume_engine.storage import encryption, signing

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SETTINGS = (ROOT / "webapp" / "settings.py").read_text(encoding="utf-8")
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
EXECUTABLE = [document for document in PAGES if PYTHON_BLOCK.search(document.read_text(encoding="utf-8"))]


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.mark.parametrize("document", EXECUTABLE, ids=name_of)
def test_the_code_of_a_page_runs_and_prints_what_its_comments_say(document: Path, tmp_path: Path) -> None:
    code = "\n".join(PYTHON_BLOCK.findall(document.read_text(encoding="utf-8")))
    promised = re.findall(r"print\(.*\)  # (.+)$", code, re.MULTILINE)
    script = tmp_path / "page.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT / "engine")},
    )
    assert done.returncode == 0, done.stderr
    for line in promised:
        if not line.startswith("or "):
            assert line in done.stdout, f"{name_of(document)} promises {line!r}; printed:\n{done.stdout}"


def test_readme_has_code_to_run() -> None:
    assert ROOT / "README.md" in EXECUTABLE


@pytest.mark.parametrize("document", PAGES, ids=name_of)
def test_links_of_a_page_lead_somewhere(document: Path) -> None:
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        found = (document.parent / target).exists()
        assert found, f"{name_of(document)} links to {target}, which is not there"


def test_troubleshooting_knows_every_error_a_caller_can_meet() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    bases = {
        "DecisionError",
        "InvalidValueError",
        "PayloadError",
        "ResumeEngineError",
        "SchemaError",
        "StepOutputError",
    }
    raised = {
        name
        for name, member in inspect.getmembers(errors, inspect.isclass)
        if issubclass(member, errors.ResumeEngineError) and name not in bases
    }
    missing = {name for name in raised if f"`{name}`" not in text}
    assert not missing, f"docs/troubleshooting.md says nothing about {sorted(missing)}"


def test_every_setting_is_in_the_table() -> None:
    """What the code reads from the environment and what docs/deploy.md lists are the same."""
    rows = [
        line.split("|")[1]
        for line in (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    listed = {name for row in rows for name in re.findall(r"`([A-Z][A-Z_]+)`", row)}
    read = set(re.findall(r'(?:_read\(given, |given\.get\()"([A-Z_]+)"', SETTINGS))
    engine = {
        POLICY_VARIABLE,
        LEASE_VARIABLE,
        encryption.KEYS_VARIABLE,
        masking.NAMES_VARIABLE,
        signing.KEY_FILE_VARIABLE,
    }
    assert len(read) >= 18
    assert listed == read | engine


def test_the_compose_file_passes_on_what_there_is() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    block = text[text.index("x-settings") : text.index("services:")]
    passed_on = set(re.findall(r"^  ([A-Z][A-Z_]+):", block, re.MULTILINE))
    table = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert passed_on
    assert all(f"`{name}`" in table for name in passed_on)
