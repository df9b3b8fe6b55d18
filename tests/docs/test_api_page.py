"""The calls that docs/api.md shows are made, against a server of ours."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from flask import Flask

from resume_engine.core.permissions import Role
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory
from tests.provision.app_fixtures import SYSTEM
from tests.provision.browser_fixtures import LiveServer
from webapp.extensions import services

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHOWN_ADDRESS = "http://127.0.0.1:8000"


def test_the_calls_of_the_page_work(
    app: Flask,
    page_store: SqlCheckpointStore,
    serve: Callable[[Flask], LiveServer],
    tmp_path: Path,
) -> None:
    run = RunFactory(page_store).blocked("permanent", environment="staging")
    key = services(app).keys.create("page", Role.OPERATOR, actor=SYSTEM)
    (block,) = SHELL_BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    calls = re.split(r"\n(?=curl )", block.strip())
    (tmp_path / ".curlrc").write_text("fail\nsilent\nshow-error\n", encoding="utf-8")
    env = os.environ | {"KEY": key.text, "RUN": run.run_id, "CURL_HOME": str(tmp_path)}
    answers = []
    for call in calls:
        assert SHOWN_ADDRESS in call
        command = call.replace(SHOWN_ADDRESS, serve(app).url)
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, env=env)
        assert done.returncode == 0, (call, done.stderr)
        answers.append(json.loads(done.stdout))
    listed, before, after = answers
    assert set(listed) == {"runs", "next_cursor"}
    assert (before["can_resume"], after["can_resume"]) == (False, True)
    assert [decision.note for decision in page_store.list_decisions(run.run_id)] == ["key rotated"]
