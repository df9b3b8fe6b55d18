"""LangGraph: a graph whose completed nodes never run again.

    graph.add_node("research", wrap_langgraph_node(engine, run.run_id, "research", 0, research_node))

Invoke the compiled graph again after a failure: completed nodes return their recorded output, the failed
one runs again. `engine.complete_run(run_id)` or `with engine.run(...)` finishes the run.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from resume_engine.adapters.step_call import State, StepCall, as_mapping
from resume_engine.core.engine import ResumeEngine

NodeFunction = Callable[..., Any]

INJECTED = frozenset({"config", "runtime", "store", "writer", "previous", "error"})
"""What LangGraph itself hands to a node, by parameter name."""


class _Signal(BaseException):
    """Carry LangGraph's own control flow past the engine, which records every `Exception` as a failure."""

    def __init__(self, signal: BaseException) -> None:
        self.signal = signal


class _NodeCall(StepCall):
    """A node: it may return nothing, and an interrupt that waits for a person is not a failure."""

    def call(self, state: Any, key: str, **extra: Any) -> Any:
        try:
            output = super().call(state, key, **extra)
        except _control_flow() as signal:
            raise _Signal(signal) from None
        return {} if output is None else output

    def execute(self, state: Any, recorded: State, **extra: Any) -> State:
        try:
            return super().execute(state, recorded, **extra)
        except _Signal as carried:
            raise carried.signal from None


def wrap_langgraph_node(
    engine: ResumeEngine,
    run_id: str,
    step_name: str,
    step_index: int,
    node_fn: NodeFunction,
    *,
    merge_state: bool | None = None,
) -> NodeFunction:
    """Return a node that executes `node_fn` as a durable step; give it to `add_node` instead.

    `node_fn` returns a dict or None. It takes the state, and the idempotency key if it wants it: `(state)`
    or `(state, key)`; what LangGraph injects by name (`config`, `runtime`, `store`, `writer`) still arrives.

    In a graph over one value, `StateGraph(dict)`, a node's answer replaces the state: the node returned
    here answers with the state and the output merged. In a graph with named channels (`TypedDict`,
    models) it answers with the output alone, so that parallel branches and reducers see only what the
    node changed. `merge_state` overrides what the graph itself tells.
    """
    call = _NodeCall(engine, run_id, step_name, step_index, node_fn, reserved=INJECTED)

    @functools.wraps(node_fn)
    def node(state: Any, **injected: Any) -> State:
        recorded = as_mapping(state)
        output = call.execute(state, recorded, **injected)
        merge = _replaces_whole_state() if merge_state is None else merge_state
        return {**recorded, **output} if merge else output

    # A lambda has no name that could serve as the node's; LangGraph reads names and parameters off the node.
    node.__name__ = step_name if getattr(node_fn, "__name__", "<lambda>") == "<lambda>" else node_fn.__name__
    node.__signature__ = _signature_without_key(node_fn)  # type: ignore[attr-defined]
    return node


def wrap_langgraph_workflow(
    engine: ResumeEngine, run_id: str, nodes: Iterable[tuple[str, int, NodeFunction]]
) -> list[tuple[str, NodeFunction]]:
    """Wrap several nodes, given as `(name, step_index, node_fn)`; return `(name, node)` for `add_node`."""
    return [(name, wrap_langgraph_node(engine, run_id, name, index, fn)) for name, index, fn in nodes]


def _signature_without_key(node_fn: NodeFunction) -> inspect.Signature:
    state = inspect.Parameter("state", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = list(inspect.signature(node_fn).parameters.values())
    except (TypeError, ValueError):
        return inspect.Signature([state])
    injected = [
        p.replace(kind=p.KEYWORD_ONLY)
        for p in parameters[1:]
        if p.name in INJECTED and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    return inspect.Signature([*parameters[:1], *injected] if parameters else [state])


def _replaces_whole_state() -> bool:
    """Say whether the graph this node runs in keeps its state as one value, `StateGraph(dict)`.

    LangGraph gives every task a function that reads channels; the one value is its channel `__root__`.
    Outside a graph the answer is yes, which is what a direct call expects.
    """
    try:
        from langgraph.config import get_config

        read = get_config()["configurable"]["__pregel_read"]
    except (ImportError, RuntimeError, KeyError):
        return True
    try:
        read("__root__")
    except KeyError:
        return False
    return True


def _control_flow() -> tuple[type[BaseException], ...]:
    try:
        from langgraph.errors import GraphBubbleUp
    except ImportError:
        return ()
    return (GraphBubbleUp,)
