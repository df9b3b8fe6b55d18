"""The least that durability costs: a record of about the same size, inserted and committed by the driver."""

from __future__ import annotations

import json
import sys

from loop import OUTPUT, count_rows, is_sqlite, postgres_parts, serve, sqlite_path

ADDRESS = sys.argv[1]
_TABLE = "CREATE TABLE IF NOT EXISTS bench_floor (id integer PRIMARY KEY, run_id varchar(36), record text)"
_RECORD = json.dumps(["0" * 64, "0" * 64, "2026-11-20T15:00:00+00:00", OUTPUT, OUTPUT])

if is_sqlite(ADDRESS):
    import sqlite3

    connection = sqlite3.connect(sqlite_path(ADDRESS), isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
else:
    import psycopg2

    connection = psycopg2.connect(**postgres_parts(ADDRESS))
cursor = connection.cursor()
if not is_sqlite(ADDRESS):
    cursor.execute("SELECT pg_advisory_xact_lock(1)")  # several of these may begin at once
cursor.execute(_TABLE if is_sqlite(ADDRESS) else _TABLE.replace("id integer", "id serial"))
connection.commit()
INSERT = "INSERT INTO bench_floor (run_id, record) VALUES (?, ?)"
if not is_sqlite(ADDRESS):
    INSERT = INSERT.replace("?", "%s")


def run(steps: int) -> None:
    """Insert and commit so many records."""
    for _ in range(steps):
        if is_sqlite(ADDRESS):
            cursor.execute("BEGIN IMMEDIATE")
        cursor.execute(INSERT, ("b0000010-0000-4000-8000-000000000010", _RECORD))
        if is_sqlite(ADDRESS):
            cursor.execute("COMMIT")
        else:
            connection.commit()


serve(run, lambda: count_rows(ADDRESS, "bench_floor"))
