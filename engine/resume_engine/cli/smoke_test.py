"""`resume-engine smoke-test`: one small workflow through failure, gate, resume and replay."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from resume_engine.cli.printing import one_line
from resume_engine.core.actor import Actor, Channel
from resume_engine.core.decisions import DecisionKind
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import ResumeBlockedError
from resume_engine.core.failure_classifier import PermanentStepError
from resume_engine.core.permissions import Role
from resume_engine.core.run import RunStatus
from resume_engine.storage.open_store import open_store
from resume_engine.storage.remote_backend import RemoteCheckpointStore

WORKFLOW_NAME = "resume-engine smoke test"
RETRY_SECONDS = 5.0  # whoever tries a server watches it


@click.command("smoke-test")
@click.option(
    "--database",
    metavar="URL",
    envvar="DATABASE_URL",
    show_envvar=True,
    help="Database to try; its test run stays there, completed [default: a temporary SQLite file].",
)
@click.option(
    "--url",
    metavar="URL",
    help="Control plane to try instead, as runners use it (needs the extra `remote`), such as "
    "https://runs.example.org/api; its test run stays there.",
)
@click.option(
    "--key",
    metavar="KEY",
    envvar="ORCHESTRATEOS_API_KEY",
    show_envvar=True,
    help="API key of an operator, for --url.",
)
def smoke_test(database: str | None, url: str | None, key: str | None) -> None:
    """Run a small workflow through failure, gate, resume and replay."""
    if url is not None:
        if not _is_address(url):
            raise click.BadParameter(f"{url!r} is not an address such as https://runs.example.org/api.")
        _try_control_plane(url, key)
        return
    if database is not None:
        _try_database(database)
        return
    with tempfile.TemporaryDirectory(prefix="resume-engine-") as folder:
        _try_database(f"sqlite:///{Path(folder) / 'smoke.db'}")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _try_database(database: str) -> None:
    with open_store(database) as store:
        click.echo(f"ok  opened {one_line(store.url)}")
        _walk(ResumeEngine(store))


def _try_control_plane(url: str, key: str | None) -> None:
    """Go the way that runners go, from this machine: the store over HTTP."""
    try:
        store = RemoteCheckpointStore(url, api_key=key, retry_seconds=RETRY_SECONDS)
    except ImportError as missing:
        raise click.ClickException(str(missing)) from missing
    with store:
        _walk(ResumeEngine(store))


def _walk(engine: ResumeEngine) -> None:
    calls: list[str] = []

    def fetch(_: dict[str, Any], __: str) -> dict[str, Any]:
        calls.append("fetch")
        return {"amount": 42}

    def publish(state: dict[str, Any], __: str) -> dict[str, Any]:
        calls.append("publish")
        if calls.count("publish") == 1:
            raise PermanentStepError("meant to fail once")
        return {"published": state["amount"]}

    steps = [("fetch", fetch), ("publish", publish)]
    run_id = engine.start_run(WORKFLOW_NAME, metadata={"smoke_test": True}).run_id
    try:
        engine.execute_workflow(run_id, steps, initial_input={"source": "smoke test"})
    except PermanentStepError:
        _passed(True, "a permanent failure was recorded")
    try:
        engine.resume(run_id, steps)
    except ResumeBlockedError:
        _passed(True, "the gate is closed: resume was refused")
    _passed(calls == ["fetch", "publish"], "no step ran behind the closed gate")
    actor = Actor(name="smoke test", role=Role.OPERATOR, channel=Channel.CLI)
    engine.decide(run_id, DecisionKind.HUMAN_APPROVAL, actor, note="smoke test")
    run = engine.resume(run_id, steps)
    _passed(run.status is RunStatus.COMPLETED, "approved and resumed to the end")
    _passed(calls == ["fetch", "publish", "publish"], "the completed step did not run again")
    trace = engine.replay_run(run_id, steps)[1]
    _passed(trace == engine.get_audit_log(run_id), "the replay gave the same audit trace")
    click.echo(f"All well: run {one_line(run_id)} failed, was approved, resumed and replayed.")


def _passed(holds: bool, what: str) -> None:
    if not holds:
        raise click.ClickException(f"The smoke test failed: expected that {what}.")
    click.echo(f"ok  {what}")
