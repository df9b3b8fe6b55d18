"""The table of a resume: what is read is what was recorded, and the step after it is really called."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import resume
from bench.databases import Shelf


def test_a_resume_is_measured_beside_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "STEPS", 5)
    found = resume.report(Shelf(tmp_path, None), 2).splitlines()
    line = next(line for line in found if line.startswith("SQLite"))
    assert all(float(figure) > 0 for figure in line.split()[-5:-1])
    over_bare = found[-1].split()
    assert float(over_bare[-1]) > 1, "megabytes"
