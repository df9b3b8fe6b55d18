"""The names and import paths that users rely on."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from importlib.metadata import version

import pytest

import resume_engine

PROMISED = {
    "CheckpointStore",
    "FailureClassification",
    "IdempotencyCollisionError",
    "PartialStepError",
    "PermanentStepError",
    "ResumeBlockedError",
    "ResumeBlocker",
    "ResumeEngine",
    "Run",
    "RunStatus",
    "SQLiteCheckpointStore",
    "StepRecord",
    "StepStatus",
    "TransientStepError",
    "__version__",
    "classify_failure",
    "generate_idempotency_key",
    "generate_run_id",
    "hash_input",
}
PATHS = {
    "resume_engine.core.checkpoint_store": {"CheckpointStore", "ResumeEngine"},
    "resume_engine.core.failure_classifier": {
        "PartialStepError",
        "PermanentStepError",
        "TransientStepError",
        "classify_failure",
    },
    "resume_engine.core.idempotency": {"generate_idempotency_key", "generate_run_id", "hash_input"},
    "resume_engine.core.resume_gates": {"ResumeBlocker"},
    "resume_engine.core.run": {"Run", "RunStatus"},
    "resume_engine.core.step_record": {"FailureClassification", "StepRecord", "StepStatus"},
    "resume_engine.storage.sqlite_backend": {"SQLiteCheckpointStore"},
    "resume_engine.storage.postgres_backend": {"PostgresCheckpointStore"},
    "resume_engine.adapters.langgraph_adapter": set(),
    "resume_engine.adapters.crewai_adapter": set(),
    "resume_engine.adapters.decorator": {"durable_step"},
}
# Packages a bare install does not have, or that would make every start slower.
HEAVY = ("crewai", "flask", "httpx", "langgraph", "psycopg2", "webapp", "werkzeug")


def test_promised_names_are_exported() -> None:
    assert set(resume_engine.__all__) >= PROMISED


def test_every_exported_name_exists_once() -> None:
    assert len(resume_engine.__all__) == len(set(resume_engine.__all__))
    for name in resume_engine.__all__:
        assert getattr(resume_engine, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="NoSuchName"):
        _ = resume_engine.NoSuchName  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", sorted(PATHS))
def test_import_path_stays_valid(path: str) -> None:
    module = importlib.import_module(path)
    assert {name for name in PATHS[path] if not hasattr(module, name)} == set()


def test_version_is_said_once() -> None:
    assert resume_engine.__version__ == version("resume_engine")
    assert re.fullmatch(r"\d+\.\d+\.\d+", resume_engine.__version__)


def test_importing_the_library_stays_light() -> None:
    script = (
        "import sys; before = len(sys.modules); import resume_engine; "
        f"print([name for name in {HEAVY!r} if name in sys.modules], len(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy, count = done.stdout.rsplit(maxsplit=1)
    assert heavy == "[]"
    assert int(count) < 170, "every module costs each process time and memory; 145 when this was written"
