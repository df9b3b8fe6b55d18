"""How long it takes to verify and export an audit of many entries, and how much memory."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import islice
from pathlib import Path

from sqlalchemy import insert, update

from resume_engine import audit_verifier
from resume_engine.core.actor import ENGINE_ACTOR
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.audit_chain import Link, event_link
from resume_engine.core.clock import utc_now
from resume_engine.core.run import Run, RunStatus
from resume_engine.storage import audit_guards, audit_rows
from resume_engine.storage.open_store import open_store
from resume_engine.storage.schema import audit_events, runs
from resume_engine.storage.sealing import seal
from resume_engine.storage.signing import make_key
from resume_engine.storage.sql_store import SqlCheckpointStore

RUN_ID = "b1000000-0000-4000-8000-000001000000"
_PER_INSERT = 5_000


def report(entries: int) -> str:
    """Return the table for one run of so many entries on SQLite."""
    with tempfile.TemporaryDirectory(prefix="bench-audit-") as folder:
        place = Path(folder)
        url = f"sqlite:///{place / 'runs.db'}"
        signer = make_key(place / "key.pem")
        with open_store(url) as store:
            _fill(store, entries)
            seal(store, signer)
        export = place / "export.json"
        python, key = sys.executable, str(place / "key.pem")
        environ = {**os.environ, "DATABASE_URL": url, "AUDIT_SIGNING_KEY_FILE": key}
        command = [python, "-m", "resume_engine.cli", "audit"]
        lines = [
            f"| {entries:,} entries in one run, SQLite | seconds | cpu | memory at most |",
            "|---|---|---|---|",
            _line("`audit verify --all`", [*command, "verify", "--all"], environ),
            _line(
                "`audit export --bundle`",
                [*command, "export", RUN_ID, "--bundle", "--as", "bench", "--output", str(export)],
                environ,
            ),
            _line(
                f"verifier on the export ({export.stat().st_size / 1e6:,.0f} MB)",
                [python, audit_verifier.__file__, str(export), "--key", f"{key}.pub"],
                environ,
            ),
        ]
    return "\n".join(lines)


def _line(what: str, command: Sequence[str], environ: dict[str, str]) -> str:
    started, before = time.perf_counter(), _cpu_of_children()
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environ, stdout=quiet, stderr=quiet)
    memory = 0
    while process.poll() is None:
        memory = max(memory, _memory_of(process.pid))
        time.sleep(0.05)
    seconds = time.perf_counter() - started
    # The export itself is an event behind the seal of everything before it: that is no finding.
    assert process.returncode in (0, 2), f"{what} ended with {process.returncode}"
    cpu = _cpu_of_children() - before
    return f"| {what} | {seconds:.1f} | {cpu:.1f} | {memory / 1024:.0f} MB |"


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory_of(pid: int) -> int:
    """Return the most memory that a process had until now, in KiB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def _fill(store: SqlCheckpointStore, entries: int) -> None:
    """Write one run of so many events, chained as the engine chains them."""
    store.create_run(Run(run_id=RUN_ID, workflow_name="bench", status=RunStatus.RUNNING))
    run = store.load_summary(RUN_ID)
    assert run is not None and run.chain_head is not None
    links = _links(run.chain_seq, run.chain_head, entries)
    last: Link | None = None
    with store.writing() as conn:
        audit_guards.drop(conn)
        while batch := list(islice(links, _PER_INSERT)):
            conn.execute(
                insert(audit_events),
                [
                    audit_rows.event_values(e) | audit_rows.event_link_values(RUN_ID, link)
                    for e, link in batch
                ],
            )
            last = batch[-1][1]
        assert last is not None
        conn.execute(update(runs).values(chain_seq=last.seq, chain_head=last.hash))
        audit_guards.create(conn)


def _links(seq: int, head: str, entries: int) -> Iterator[tuple[AuditEvent, Link]]:
    begin = utc_now()
    while seq < entries:
        at = begin + timedelta(milliseconds=seq)
        payload = {"status": "running", "status_before": "paused", "number": seq}
        event = AuditEvent.by(ENGINE_ACTOR, EventType.RUN_UPDATED, at, run_id=RUN_ID, payload=payload)
        link = event_link(RUN_ID, seq, head, event)
        yield event, link
        seq, head = link.seq, link.hash
