"""DBOS: a workflow that calls one step in a loop."""

from __future__ import annotations

import sys
from typing import Any

from dbos import DBOS
from loop import OUTPUT, count_rows, is_sqlite, libpq_address, serve

ADDRESS = sys.argv[1]
TABLE = "operation_outputs" if is_sqlite(ADDRESS) else "dbos.operation_outputs"
config: Any = {
    "name": "bench",
    "system_database_url": ADDRESS if is_sqlite(ADDRESS) else libpq_address(ADDRESS),
    "run_admin_server": False,
    "log_level": "ERROR",
}
DBOS(config=config)


@DBOS.step()
def work(number: int) -> dict[str, Any]:
    """Do nothing, durably."""
    return dict(OUTPUT)


@DBOS.workflow()
def loop(steps: int) -> int:
    """Call the step so many times."""
    for number in range(steps):
        work(number)
    return steps


DBOS.launch()
serve(lambda steps: loop(steps), lambda: count_rows(ADDRESS, TABLE))
