"""A LangGraph graph whose completed nodes never run again (needs `pip install "resume_engine[langgraph]"`).

    python examples/langgraph_graph.py

Two branches run side by side; one fails. The graph is invoked again: only that branch runs.
"""

from __future__ import annotations

from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

from resume_engine import ResumeEngine, SQLiteCheckpointStore
from resume_engine.adapters.langgraph_adapter import wrap_langgraph_workflow

search = {"overloaded": True}


class Report(TypedDict, total=False):
    """What the nodes read and write."""

    topic: str
    findings: str
    figures: str
    text: str


def research(state: Report) -> dict[str, Any]:
    """Collect what is known."""
    print("  research runs")
    return {"findings": f"three sources about {state['topic']}"}


def compute(state: Report) -> dict[str, Any]:
    """Compute figures; the service behind it is overloaded the first time."""
    print("  compute runs")
    if search.pop("overloaded", False):
        raise ConnectionError("503: no healthy upstream")
    return {"figures": f"two charts about {state['topic']}"}


def write(state: Report, key: str) -> dict[str, Any]:
    """Write the report; a node that has a second parameter gets the idempotency key."""
    print("  write runs")
    return {"text": f"{state['findings']}, {state['figures']} (report {key[:8]})"}


def build(engine: ResumeEngine, run_id: str) -> Any:
    """Return the compiled graph of a run."""
    graph = StateGraph(Report)
    nodes = [("research", 0, research), ("compute", 1, compute), ("write", 2, write)]
    for name, node in wrap_langgraph_workflow(engine, run_id, nodes):
        graph.add_node(name, node)
    graph.add_edge(START, "research")
    graph.add_edge(START, "compute")
    graph.add_edge(["research", "compute"], "write")
    graph.add_edge("write", END)
    return graph.compile()


def main() -> None:
    """Fail, invoke again, complete the run."""
    engine = ResumeEngine(SQLiteCheckpointStore("sqlite:///:memory:"))
    run = engine.start_run("report_graph")
    try:
        build(engine, run.run_id).invoke({"topic": "tides"})
    except ConnectionError as error:
        print(f"failed: {error}\ninvoked again:")
    state = build(engine, run.run_id).invoke({"topic": "tides"})
    print(state["text"])
    print(engine.complete_run(run.run_id).status)


if __name__ == "__main__":
    main()
