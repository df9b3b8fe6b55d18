"""What every measured process does: it says that it is ready, runs workflows when told to, counts its rows.

The processes of peers run in environments of their own, so this file knows the standard library alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from urllib.parse import parse_qs, unquote, urlsplit

OUTPUT = {"cursor": "0" * 8, "checked": True, "text": "x" * 200}
"""What each step returns: about 250 bytes of JSON."""


def is_sqlite(address: str) -> bool:
    """Return whether a database is a file."""
    return address.startswith("sqlite:")


def sqlite_path(address: str) -> str:
    """Return the path of the file that `sqlite:////path` names."""
    return address.removeprefix("sqlite:///")


def postgres_parts(address: str) -> dict[str, str]:
    """Return user, password, host, port and dbname of an address, for drivers that want them apart."""
    parts = urlsplit(address)
    host = parse_qs(parts.query).get("host", [parts.hostname or ""])[0]
    return {
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "host": host,
        "port": str(parts.port or 5432),
        "dbname": parts.path.lstrip("/"),
    }


def libpq_address(address: str) -> str:
    """Return an address as libpq reads it, without the name of a Python driver."""
    scheme, rest = address.split("://", 1)
    return f"{scheme.partition('+')[0]}://{rest}"


def count_rows(address: str, table: str) -> int:
    """Return how many rows a table has."""
    if is_sqlite(address):
        import sqlite3

        connection = sqlite3.connect(sqlite_path(address))
    else:
        try:
            import psycopg2 as driver
        except ImportError:
            import psycopg as driver
        connection = driver.connect(**postgres_parts(address))
    cursor = connection.cursor()
    cursor.execute(f"SELECT count(*) FROM {table}")
    found = int(cursor.fetchone()[0])
    connection.close()
    return found


def serve(run: Callable[[int], object], count: Callable[[], int]) -> None:
    """Answer `run STEPS` with the seconds it took and `rows` with their number, until the input ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a library prints is no answer
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        word, *arguments = line.split()
        if word == "rows":
            print(count(), file=answers, flush=True)
            continue
        started = time.perf_counter()
        run(int(arguments[0]))
        print(time.perf_counter() - started, file=answers, flush=True)
