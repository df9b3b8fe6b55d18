"""The conformance cases as others use them: the page of the docs, and that they see faults."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```py\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PAGE = BLOCK.findall((ROOT / "docs" / "stores.md").read_text(encoding="utf-8"))
SOME = "terms or owner or version or many_at_once or closed_gate or reverse_order"


def outcome(folder: Path, source: str, *options: str) -> tuple[int, str]:
    """Run a test file somewhere else, as the author of a store does; return exit code and output.

    The plugins of our own environment stay out: they are not theirs, and take longer to start than the cases.
    """
    (folder / "test_my_store.py").write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "test_my_store.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT / "engine"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    return done.returncode, done.stdout + done.stderr


def test_the_example_of_the_page_runs_every_case(tmp_path: Path) -> None:
    code, said = outcome(tmp_path, PAGE[0], "-k", SOME)
    found = re.search(r"^(\d+) passed, (\d+) deselected", said, re.MULTILINE)
    assert code == 0 and found is not None, said
    assert int(found[1]) + int(found[2]) >= 100


def test_what_a_store_lacks_is_skipped_with_its_reason(tmp_path: Path) -> None:
    source = PAGE[0].replace(
        "    @pytest.fixture", "    lacks = {Ability.ANY_TEXT: 'no such text'}\n\n    @pytest.fixture"
    )
    source = source.replace("import StoreConformance", "import Ability, StoreConformance")
    code, said = outcome(tmp_path, source, "-rs", "-k", "nul_and_half")
    assert code == 0 and "no such text (needed: metadata may hold NUL" in said, said


def test_a_subclass_without_a_store_is_told_what_to_do(tmp_path: Path) -> None:
    source = "from resume_engine.conformance import StoreConformance\n\nclass TestIt(StoreConformance): ...\n"
    code, said = outcome(tmp_path, source, "-k", "id_is_taken_once")
    assert code == 1 and "give the subclass a fixture `store` that yields an empty store" in said


FAULTS = {
    "late writers are let in": """
    def commit(self, change):
        now = self.load_summary(change.before.run_id)
        before = change.before.evolve(version=now.version) if now else change.before
        return super().commit(replace(change, before=before))
""",
    "old terms are renewed": """
    def renew_lease(self, run_id, owner, token, seconds):
        now = self.load_summary(run_id)
        return now is not None and super().renew_lease(run_id, now.lease_owner, now.lease_token, seconds)
""",
    "a repeated write is refused": """
    def append_step(self, run_id, step):
        if self.load_step(run_id, step.sequence):
            raise ValueError("there already")
        super().append_step(run_id, step)
""",
    "events are lost": """
    def list_events(self, run_id):
        return []
""",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_store_does_not_pass(tmp_path: Path, fault: str) -> None:
    broken = f"from dataclasses import replace\n\nclass Broken(SQLiteCheckpointStore):{FAULTS[fault]}\n\n"
    source = PAGE[0].replace("class TestMyStore", broken + "class TestMyStore")
    source = source.replace("with SQLiteCheckpointStore(", "with Broken(")
    code, said = outcome(tmp_path, source, "-x", "-k", f"{SOME} or repeating or an_event or recorded")
    assert code == 1 and "1 failed" in said, said


def test_the_library_never_imports_it() -> None:
    unwanted = "{'pytest', 'resume_engine.conformance'}"
    code = f"import sys, resume_engine; sys.exit(bool({unwanted} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_pytest_it_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "pytest.py").write_text("raise ImportError('not here')", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", "import resume_engine.conformance"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'engine'}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "is made of tests: pip install pytest" in done.stderr
