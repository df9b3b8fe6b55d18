"""htmx: pinned, copied at build time, unchanged, never committed."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
VENDOR = ROOT / "webapp" / "_vendor"


@pytest.fixture
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_in_use_is_the_pinned_one(hook: ModuleType) -> None:
    for name, expected in hook.VENDORED.values():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == expected
    assert "0BSD" in (VENDOR / "NOTICE").read_text()


def test_it_is_htmx_2(hook: ModuleType) -> None:
    text = (VENDOR / "htmx-2.min.js").read_text()
    assert 'version:"2.' in text


def test_an_altered_file_stops_the_build(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for inside in hook.VENDORED:
        (tmp_path / inside).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / inside).write_text("alert(1)")
    monkeypatch.setattr(hook, "donor_folder", lambda: tmp_path)
    with pytest.raises(RuntimeError, match="SHA-256"):
        hook.vendor_assets(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_no_donor_says_what_is_needed(hook: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="django-htmx=="):
        hook.donor_folder()


def test_the_pin_is_the_same_everywhere(hook: ModuleType) -> None:
    for place in ("pyproject.toml", "requirements/build.in", "requirements/build.txt"):
        assert hook.DONOR in (ROOT / place).read_text(), place


def test_third_party_files_are_not_committed() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing can be committed here")
    tracked = subprocess.run(
        ["git", "ls-files", "webapp/_vendor", "*.min.js"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert tracked.stdout == ""
