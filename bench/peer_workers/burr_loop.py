"""Burr with its own persister: the state is written after each action."""

from __future__ import annotations

import sys
import uuid
from typing import Any

from burr.core import ApplicationBuilder, State, action
from loop import OUTPUT, count_rows, is_sqlite, postgres_parts, serve, sqlite_path

ADDRESS = sys.argv[1]
TABLE = "burr_state"

if is_sqlite(ADDRESS):
    from burr.core.persistence import SQLitePersister

    persister: Any = SQLitePersister(sqlite_path(ADDRESS), table_name=TABLE)
else:
    from burr.integrations.persisters.b_psycopg2 import PostgreSQLPersister

    given = postgres_parts(ADDRESS)
    given["db_name"] = given.pop("dbname")
    persister = PostgreSQLPersister.from_values(**given, table_name=TABLE)
persister.initialize()


@action(reads=[], writes=list(OUTPUT))
def work(state: State) -> State:
    """Do nothing, durably."""
    return state.update(**OUTPUT)


def run(steps: int) -> None:
    """Walk one action so many times."""
    application = (
        ApplicationBuilder()
        .with_actions(work=work)
        .with_transitions(("work", "work"))
        .with_state(case=1)
        .with_entrypoint("work")
        .with_identifiers(app_id=str(uuid.uuid4()), partition_key="bench")
        .with_state_persister(persister)
        .build()
    )
    for _ in range(steps):
        application.step()


serve(run, lambda: count_rows(ADDRESS, TABLE))
