"""Times, statements and tables."""

from __future__ import annotations

import gc
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import event

from resume_engine.storage.sql_store import SqlCheckpointStore

_WARM_UP_ROUNDS = 2
_CONTROL = ("BEGIN", "COMMIT", "ROLLBACK")
_WRITES = ("INSERT ", "UPDATE ", "DELETE ", "EXECUTE append_step")


@dataclass
class Timings:
    """Milliseconds of one thing, one entry a round."""

    milliseconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def at(self, share: float) -> float:
        """Return the time that this share of the rounds stayed below."""
        ordered = sorted(self.milliseconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def cpu(self) -> float:
        """Return the median of the processor time of this process: what is left of the noise of others."""
        return sorted(self.processor)[len(self.processor) // 2]

    @property
    def p50(self) -> float:
        """Return the median."""
        return self.at(0.50)

    @property
    def p95(self) -> float:
        """Return the 95th percentile."""
        return self.at(0.95)


def interleaved(calls: dict[Any, Callable[[], object]], rounds: int) -> dict[Any, Timings]:
    """Time all calls in turn, round after round, so that a noisy moment hits all of them alike."""
    found: dict[Any, Timings] = {key: Timings() for key in calls}
    gc.collect()
    for number in range(rounds + _WARM_UP_ROUNDS):
        for key, call in calls.items():
            started, started_cpu = time.perf_counter(), time.thread_time()
            call()
            elapsed, cpu = time.perf_counter() - started, time.thread_time() - started_cpu
            if number >= _WARM_UP_ROUNDS:
                found[key].milliseconds.append(elapsed * 1000)
                found[key].processor.append(cpu * 1000)
    return found


@dataclass
class Traffic:
    """What reached the driver: statements, and the commits among the round trips."""

    statements: list[str] = field(default_factory=list)
    commits: int = 0

    def clear(self) -> None:
        """Start counting anew."""
        self.statements.clear()
        self.commits = 0


@contextmanager
def traffic(store: SqlCheckpointStore) -> Iterator[Traffic]:
    """Count what reaches the driver while the block runs, whichever way the store takes to it."""
    seen = Traffic()
    hook = _sqlite_hook(seen) if store.engine.dialect.name == "sqlite" else _postgres_hook(seen)
    store.close()  # what counts are new connections
    for engine in store.engines:
        event.listen(engine, *hook)
    try:
        yield seen
    finally:
        for engine in store.engines:
            event.remove(engine, *hook)
        store.close()


def _sqlite_hook(seen: Traffic) -> tuple[str, Any]:
    def is_echo(sql: str) -> bool:
        """Return whether a trigger repeats the write that fired it: the driver reports both."""
        return sql.startswith(("INSERT", "UPDATE")) and seen.statements[-1:] == [sql]

    def trace(sql: str) -> None:
        if sql.startswith("COMMIT"):
            seen.commits += 1
        elif not sql.startswith((*_CONTROL, "PRAGMA", "--")) and not is_echo(sql):
            seen.statements.append(sql)

    def connected(raw: sqlite3.Connection, _: Any) -> None:
        raw.set_trace_callback(trace)

    return "connect", connected


def _postgres_hook(seen: Traffic) -> tuple[str, Any]:
    import psycopg2.extensions

    class Cursor(psycopg2.extensions.cursor):  # type: ignore[misc]
        def execute(self, sql: Any, parameters: Any = None) -> None:
            text = sql if isinstance(sql, str) else sql.as_string(self)
            seen.commits += text.startswith("COMMIT")
            if not text.startswith((*_CONTROL, "SET ", "SHOW ", "PREPARE ")) and text != "SELECT 1":
                seen.statements.append(text)
                alone = self.connection.autocommit and not self.connection.info.transaction_status
                seen.commits += alone and any(word in text for word in _WRITES)
            super().execute(sql, parameters)

    class Connection(psycopg2.extensions.connection):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.cursor_factory = Cursor

        def commit(self) -> None:
            if self.info.transaction_status:  # there is a transaction to commit
                seen.commits += 1
            super().commit()

    def connect(_: Any, __: Any, ___: Any, options: dict[str, Any]) -> None:
        options["connection_factory"] = Connection

    return "do_connect", connect


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a plain text table: the first column to the left, numbers to the right."""
    rows = [list(header), *[list(line) for line in lines]]
    widths = [max(len(row[at]) for row in rows) for at in range(len(header))]

    def shown(row: Sequence[str]) -> str:
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([shown(rows[0]), rule, *(shown(row) for row in rows[1:])])
