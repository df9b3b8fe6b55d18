"""LangGraph with its checkpointers: a node in a loop, each checkpoint written before the next step begins."""

from __future__ import annotations

import sys
import uuid
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph
from loop import OUTPUT, count_rows, is_sqlite, libpq_address, serve, sqlite_path

ADDRESS = sys.argv[1]

if is_sqlite(ADDRESS):
    from langgraph.checkpoint.sqlite import SqliteSaver

    opened: Any = SqliteSaver.from_conn_string(sqlite_path(ADDRESS))
else:
    from langgraph.checkpoint.postgres import PostgresSaver

    opened = PostgresSaver.from_conn_string(libpq_address(ADDRESS))
saver = opened.__enter__()
saver.setup()


class Loop(TypedDict):
    """What the node reads and writes."""

    done: int
    steps: int
    output: dict[str, Any]


def work(state: Loop) -> dict[str, Any]:
    """Do nothing, durably."""
    return {"done": state["done"] + 1, "output": dict(OUTPUT)}


def onward(state: Loop) -> str:
    """Say whether the node runs again."""
    return "work" if state["done"] < state["steps"] else END


builder = StateGraph(Loop)
builder.add_node("work", work)
builder.add_edge(START, "work")
builder.add_conditional_edges("work", onward)
graph = builder.compile(checkpointer=saver)


def run(steps: int) -> None:
    """Walk the loop so many times."""
    config: Any = {"configurable": {"thread_id": str(uuid.uuid4())}, "recursion_limit": steps + 10}
    graph.invoke({"done": 0, "steps": steps, "output": {}}, config, durability="sync")


serve(run, lambda: count_rows(ADDRESS, "checkpoints"))
