"""The adapters: LangGraph with the real package, CrewAI with a stand-in, `@durable_step`.

CrewAI itself is not installed for the tests (it brings well over a hundred packages). Its adapter only
sees a flow's state and a function, so a small stand-in for a flow takes its place here: what is shown is
that the adapter keeps its promises for the two kinds of state a CrewAI flow has, a dict and a pydantic
model, not that CrewAI itself calls it.
"""

from __future__ import annotations

import operator
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from resume_engine import (
    Environment,
    PartialStepError,
    PermanentStepError,
    ResumeBlockedError,
    ResumeEngine,
    Run,
    SQLiteCheckpointStore,
    StepStatus,
    TransientStepError,
)
from resume_engine.adapters.crewai_adapter import wrap_crewai_flow_tasks, wrap_crewai_task
from resume_engine.adapters.decorator import durable_step
from resume_engine.adapters.langgraph_adapter import wrap_langgraph_node, wrap_langgraph_workflow
from resume_engine.core.errors import InputNotSerializableError, InvalidValueError, OutputNotDictError
from resume_engine.core.run import RunStatus


@pytest.fixture
def engine() -> Iterator[ResumeEngine]:
    with SQLiteCheckpointStore("sqlite:///:memory:") as store:
        yield ResumeEngine(store)


class Calls:
    """Count calls by name, and fail the next calls of a name with given errors."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.errors: dict[str, list[Exception]] = {}

    def note(self, name: str) -> None:
        self.made.append(name)
        if self.errors.get(name):
            raise self.errors[name].pop(0)


@pytest.fixture
def calls() -> Calls:
    return Calls()


def completed(engine: ResumeEngine, run: Run) -> list[tuple[int, str]]:
    records = engine.store.iter_steps(run.run_id, completed_only=True)
    return sorted((record.step_index, record.step_name) for record in records)


def reload(engine: ResumeEngine, run: Run) -> Run:
    found = engine.get_run_status(run.run_id)
    assert found is not None
    return found


# LangGraph


def research_graph(engine: ResumeEngine, run: Run, calls: Calls) -> Any:
    def research_node(state: dict) -> dict:
        calls.note("research")
        return {"findings": f"notes on {state['query']}"}

    def summarize_node(state: dict) -> dict:
        calls.note("summarize")
        return {"summary": state["findings"].upper()}

    graph = StateGraph(dict)
    graph.add_node("research", wrap_langgraph_node(engine, run.run_id, "research", 0, research_node))
    graph.add_node("summarize", wrap_langgraph_node(engine, run.run_id, "summarize", 1, summarize_node))
    graph.add_edge(START, "research")
    graph.add_edge("research", "summarize")
    graph.add_edge("summarize", END)
    return graph.compile()


def test_the_graph_of_the_quickstart_keeps_the_state_together(engine: ResumeEngine, calls: Calls) -> None:
    run = engine.start_run("research_graph")
    state = research_graph(engine, run, calls).invoke({"query": "tides"})
    assert state == {"query": "tides", "findings": "notes on tides", "summary": "NOTES ON TIDES"}
    assert completed(engine, run) == [(0, "research"), (1, "summarize")]


def test_a_graph_invoked_again_does_not_repeat_completed_nodes(engine: ResumeEngine, calls: Calls) -> None:
    run = engine.start_run("research_graph")
    calls.errors["summarize"] = [TransientStepError("model overloaded")]
    with pytest.raises(TransientStepError, match="model overloaded"):
        research_graph(engine, run, calls).invoke({"query": "tides"})
    assert reload(engine, run).status is RunStatus.FAILED

    state = research_graph(engine, run, calls).invoke({"query": "tides"})
    assert state["summary"] == "NOTES ON TIDES"
    assert calls.made == ["research", "summarize", "summarize"]
    assert engine.complete_run(run.run_id).status is RunStatus.COMPLETED


@pytest.mark.parametrize(
    ("environment", "error", "action"),
    [
        (Environment.DEV, PermanentStepError("Invalid API key"), "human_approval"),
        (Environment.DEV, PartialStepError("Email sent but DB write failed"), "compensation"),
        (Environment.PROD, TransientStepError("API timeout"), "prod_resume_ack"),
    ],
)
def test_a_closed_gate_stops_the_whole_graph(
    engine: ResumeEngine, calls: Calls, environment: Environment, error: Exception, action: str
) -> None:
    run = engine.start_run("research_graph", environment=environment)
    calls.errors["summarize"] = [error]
    with pytest.raises(type(error)):
        research_graph(engine, run, calls).invoke({"query": "tides"})
    with pytest.raises(ResumeBlockedError) as blocked:
        research_graph(engine, run, calls).invoke({"query": "tides"})
    assert [blocker.required_action for blocker in blocked.value.blockers] == [action]
    assert calls.made == ["research", "summarize"]

    if action == "human_approval":
        engine.grant_human_approval(run.run_id, "ana@example.com", note="API key rotated")
    elif action == "compensation":
        engine.record_compensation(run.run_id, result={"reverted": True})
    else:
        engine.ack_prod_resume(run.run_id, "ana@example.com")
    state = research_graph(engine, run, calls).invoke({"query": "tides"})
    assert state["summary"] == "NOTES ON TIDES"
    assert calls.made == ["research", "summarize", "summarize"]


class Report(TypedDict, total=False):
    topic: str
    north: str
    south: str
    sources: Annotated[list[str], operator.add]
    text: str


def branching_graph(engine: ResumeEngine, run: Run, calls: Calls) -> Any:
    def north(state: Report) -> dict:
        calls.note("north")
        return {"north": f"north {state['topic']}", "sources": ["n"]}

    def south(state: Report) -> dict:
        calls.note("south")
        return {"south": f"south {state['topic']}", "sources": ["s"]}

    def join(state: Report) -> dict:
        calls.note("join")
        return {"text": f"{state['north']} + {state['south']}"}

    graph = StateGraph(Report)
    for name, node in wrap_langgraph_workflow(
        engine, run.run_id, [("north", 0, north), ("south", 1, south), ("join", 2, join)]
    ):
        graph.add_node(name, node)
    graph.add_edge(START, "north")
    graph.add_edge(START, "south")
    graph.add_edge(["north", "south"], "join")
    graph.add_edge("join", END)
    return graph.compile()


def test_parallel_branches_record_both_and_reducers_add_once(engine: ResumeEngine, calls: Calls) -> None:
    run = engine.start_run("regional_report")
    state = branching_graph(engine, run, calls).invoke({"topic": "sales", "sources": ["brief"]})
    assert state["text"] == "north sales + south sales"
    assert state["sources"] == ["brief", "n", "s"]
    found = reload(engine, run)
    assert [step.sequence for step in found.steps] == [0, 1, 2]
    assert completed(engine, run) == [(0, "north"), (1, "south"), (2, "join")]


def test_only_the_failed_branch_runs_again(engine: ResumeEngine, calls: Calls) -> None:
    run = engine.start_run("regional_report")
    calls.errors["south"] = [ConnectionError("connection reset")]
    graph = branching_graph(engine, run, calls)
    with pytest.raises(ConnectionError):
        graph.invoke({"topic": "sales", "sources": ["brief"]})
    state = branching_graph(engine, run, calls).invoke({"topic": "sales", "sources": ["brief"]})
    assert state["text"] == "north sales + south sales"
    assert state["sources"] == ["brief", "n", "s"]
    assert calls.made.count("north") == 1
    assert calls.made.count("south") == 2


class Ticket(BaseModel):
    subject: str
    priority: str = "low"
    reply: str = ""


@dataclass
class Order:
    number: int
    paid: bool = False


def test_states_that_are_models_reach_the_node_as_models(engine: ResumeEngine) -> None:
    run = engine.start_run("tickets")

    def triage(state: Ticket) -> dict:
        return {"priority": "high" if "down" in state.subject else "low"}

    def answer(state: Ticket) -> dict:
        return {"reply": f"{state.priority}: {state.subject}"}

    graph = StateGraph(Ticket)
    graph.add_node("triage", wrap_langgraph_node(engine, run.run_id, "triage", 0, triage))
    graph.add_node("answer", wrap_langgraph_node(engine, run.run_id, "answer", 1, answer))
    graph.add_edge(START, "triage")
    graph.add_edge("triage", "answer")
    assert graph.compile().invoke({"subject": "site down"})["reply"] == "high: site down"
    assert reload(engine, run).steps[1].input_data == {
        "subject": "site down",
        "priority": "high",
        "reply": "",
    }


def test_a_dataclass_state_is_recorded_by_its_fields(engine: ResumeEngine) -> None:
    run = engine.start_run("orders")
    graph = StateGraph(Order)
    graph.add_node(
        "charge",
        wrap_langgraph_node(engine, run.run_id, "charge", 0, lambda state: {"paid": state.number > 0}),
    )
    graph.add_edge(START, "charge")
    assert graph.compile().invoke(Order(7)) == {"number": 7, "paid": True}
    assert reload(engine, run).steps[0].input_data == {"number": 7, "paid": False}


def test_a_node_gets_the_idempotency_key_and_what_langgraph_injects(engine: ResumeEngine) -> None:
    run = engine.start_run("payments")
    seen: dict[str, Any] = {}

    def charge(state: dict, key: str) -> dict:
        seen["key"] = key
        return {"charged": True}

    def notify(state: dict, config: RunnableConfig) -> dict:
        seen["thread"] = config["configurable"]["thread"]
        return {"notified": True}

    graph = StateGraph(dict)
    graph.add_node("charge", wrap_langgraph_node(engine, run.run_id, "charge", 0, charge))
    graph.add_node("notify", wrap_langgraph_node(engine, run.run_id, "notify", 1, notify))
    graph.add_edge(START, "charge")
    graph.add_edge("charge", "notify")
    state = graph.compile().invoke({"amount": 5}, {"configurable": {"thread": "t-1"}})
    assert state == {"amount": 5, "charged": True, "notified": True}
    assert seen == {"key": reload(engine, run).steps[0].idempotency_key, "thread": "t-1"}


def test_an_interrupt_waits_for_a_person_and_is_no_failure(engine: ResumeEngine) -> None:
    run = engine.start_run("sign_off")

    def sign(state: dict) -> dict:
        return {"signed_by": interrupt("who signs?")}

    graph = StateGraph(dict)
    graph.add_node("sign", wrap_langgraph_node(engine, run.run_id, "sign", 0, sign))
    graph.add_edge(START, "sign")
    compiled = graph.compile(checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    compiled.invoke({"document": "d-1"}, thread)
    assert reload(engine, run).steps == []
    assert compiled.invoke(Command(resume="ana"), thread) == {"document": "d-1", "signed_by": "ana"}
    assert completed(engine, run) == [(0, "sign")]


def test_a_node_that_returns_nothing_changes_nothing(engine: ResumeEngine) -> None:
    run = engine.start_run("checks")
    graph = StateGraph(dict)
    graph.add_node("check", wrap_langgraph_node(engine, run.run_id, "check", 0, lambda state: None))
    graph.add_edge(START, "check")
    assert graph.compile().invoke({"total": 3}) == {"total": 3}


def test_a_node_that_steers_the_graph_is_refused_as_an_output(engine: ResumeEngine) -> None:
    run = engine.start_run("routing")
    node = wrap_langgraph_node(engine, run.run_id, "route", 0, lambda state: Command(goto="end"))
    with pytest.raises(OutputNotDictError, match="returned Command, expected a dict"):
        node({})


def test_a_node_called_without_a_graph_answers_with_the_merged_state(engine: ResumeEngine) -> None:
    run = engine.start_run("direct")
    node = wrap_langgraph_node(engine, run.run_id, "enrich", 0, lambda state: {"b": 2})
    assert node({"a": 1}) == {"a": 1, "b": 2}
    assert wrap_langgraph_node(
        engine, run.run_id, "enrich", 0, lambda state: {"b": 2}, merge_state=False
    )({"a": 1}) == {"b": 2}  # fmt: skip
    assert node.__name__ == "enrich"


def test_a_node_cannot_change_the_recorded_input_or_the_graphs_state(engine: ResumeEngine) -> None:
    run = engine.start_run("mutation")

    def careless(state: dict) -> dict:
        state["items"].append("changed")
        return {"count": len(state["items"])}

    before = {"items": ["a"]}
    state = wrap_langgraph_node(engine, run.run_id, "count", 0, careless)(before)
    assert state == {"items": ["a"], "count": 2}
    assert reload(engine, run).steps[0].input_data == {"items": ["a"]}


def test_what_json_cannot_hold_is_named_before_the_node_runs(engine: ResumeEngine, calls: Calls) -> None:
    run = engine.start_run("odd")
    node = wrap_langgraph_node(engine, run.run_id, "read", 0, lambda state: calls.note("read"))
    with pytest.raises(InputNotSerializableError, match="step 0 'read'"):
        node({"handle": object()})
    with pytest.raises(InvalidValueError, match="state: must be a dict or a model, found list"):
        node(["a"])
    assert calls.made == []


def test_async_nodes_are_refused_when_they_are_wrapped(engine: ResumeEngine) -> None:
    async def fetch(state: dict) -> dict:
        return {}

    with pytest.raises(InvalidValueError, match="coroutine"):
        wrap_langgraph_node(engine, "run", "fetch", 0, fetch)


# CrewAI, with a stand-in flow


class ContentFlow:
    """Stand in for a CrewAI flow: it has a state with a random id, and methods that call wrapped tasks."""

    def __init__(self, engine: ResumeEngine, run: Run, calls: Calls, url: str) -> None:
        self.engine, self.run, self.calls = engine, run, calls
        self.state: dict[str, Any] = {"id": str(uuid.uuid4()), "url": url}

    def ingest(self) -> dict:
        def scrape(state: dict) -> dict:
            self.calls.note("ingest")
            return {"raw": f"text of {state['url']}"}

        return wrap_crewai_task(self.engine, self.run.run_id, "ingest", 0, scrape)(self.state)

    def publish(self, state: dict) -> dict:
        def post(state: dict, key: str) -> dict:
            self.calls.note("publish")
            return {"published": f"{state['raw']} as {key[:4]}"}

        return wrap_crewai_task(self.engine, self.run.run_id, "publish", 1, post)(state)

    def kickoff(self) -> dict:
        return self.publish(self.ingest())


def test_a_flow_kicked_off_again_does_not_repeat_completed_tasks(engine: ResumeEngine, calls: Calls) -> None:
    run = engine.start_run("content_flow")
    calls.errors["publish"] = [TimeoutError("CMS did not answer")]
    with pytest.raises(TimeoutError):
        ContentFlow(engine, run, calls, "https://example.com").kickoff()
    result = ContentFlow(engine, run, calls, "https://example.com").kickoff()
    assert result["published"].startswith("text of https://example.com as ")
    assert calls.made == ["ingest", "publish", "publish"]
    assert reload(engine, run).steps[0].input_data == {"url": "https://example.com"}


def test_a_closed_gate_stops_the_flow(engine: ResumeEngine, calls: Calls) -> None:
    run = engine.start_run("content_flow", environment="prod")
    calls.errors["publish"] = [PartialStepError("Posted, but the ledger write failed")]
    with pytest.raises(PartialStepError):
        ContentFlow(engine, run, calls, "https://example.com").kickoff()
    with pytest.raises(ResumeBlockedError):
        ContentFlow(engine, run, calls, "https://example.com").kickoff()
    engine.record_compensation(run.run_id, result={"post_deleted": True})
    with pytest.raises(ResumeBlockedError, match="prod_resume_ack"):
        ContentFlow(engine, run, calls, "https://example.com").kickoff()
    engine.ack_prod_resume(run.run_id, "ana@example.com")
    assert "published" in ContentFlow(engine, run, calls, "https://example.com").kickoff()


class FlowState(BaseModel):
    id: str = ""
    url: str
    retries: int = 0


def test_a_pydantic_flow_state_reaches_the_task_as_it_is(engine: ResumeEngine) -> None:
    run = engine.start_run("content_flow")
    task = wrap_crewai_task(engine, run.run_id, "ingest", 0, lambda state: {"host": state.url[8:]})
    assert task(FlowState(id=str(uuid.uuid4()), url="https://example.com")) == {"host": "example.com"}
    assert task(FlowState(id=str(uuid.uuid4()), url="https://example.com")) == {"host": "example.com"}
    assert len(reload(engine, run).steps) == 1
    assert reload(engine, run).steps[0].input_data == {"url": "https://example.com", "retries": 0}


def test_an_id_of_ones_own_is_part_of_the_input(engine: ResumeEngine) -> None:
    run = engine.start_run("orders")
    task = wrap_crewai_task(engine, run.run_id, "load", 0, lambda state: {"loaded": state["id"]})
    assert task({"id": "order-17"}) == {"loaded": "order-17"}
    assert reload(engine, run).steps[0].input_data == {"id": "order-17"}


def test_several_tasks_are_wrapped_at_once_and_take_values_by_name(engine: ResumeEngine) -> None:
    run = engine.start_run("content_flow")
    wrapped = wrap_crewai_flow_tasks(
        engine, run.run_id, [("add", 0, lambda s: {"sum": s["a"] + s["b"]}), ("stop", 1, lambda s: {})]
    )
    assert [name for name, _ in wrapped] == ["add", "stop"]
    assert wrapped[0][1]({"a": 1}, b=2) == {"sum": 3}
    assert wrapped[1][1]() == {}


# @durable_step


def test_a_durable_step_runs_once(engine: ResumeEngine, calls: Calls) -> None:
    run = engine.start_run("enrichment")

    @durable_step(engine, run.run_id, "enrich", 2)
    def enrich(state: dict) -> dict:
        """Enrich a record."""
        calls.note("enrich")
        return {"enriched": state["input"].upper()}

    assert enrich.execute({"input": "data"}) == {"enriched": "DATA"}
    assert enrich.execute(input="data") == {"enriched": "DATA"}
    assert calls.made == ["enrich"]
    assert (enrich.step_name, enrich.step_index, enrich.run_id) == ("enrich", 2, run.run_id)
    assert (enrich.__name__, enrich.__doc__) == ("enrich", "Enrich a record.")


def test_a_durable_step_called_directly_records_nothing(engine: ResumeEngine) -> None:
    run = engine.start_run("enrichment")

    @durable_step(engine, run.run_id, "enrich", 0)
    def enrich(state: dict, key: str) -> dict:
        return {"key": key}

    assert enrich({"input": 1}) == {"key": ""}
    assert reload(engine, run).steps == []
    finished = engine.execute_workflow(run.run_id, [(enrich.step_name, enrich)])
    assert finished.steps[0].output_data == {"key": finished.steps[0].idempotency_key}


@pytest.mark.parametrize("answer", [None, "text", ["a"]])
def test_a_durable_step_must_return_a_dict(engine: ResumeEngine, answer: object) -> None:
    run = engine.start_run("enrichment")
    step = durable_step(engine, run.run_id, "enrich", 0)(lambda state: answer)  # type: ignore[arg-type, return-value]
    with pytest.raises(OutputNotDictError, match="Step 0 'enrich'"):
        step({})
    with pytest.raises(OutputNotDictError):
        step.execute({})
    assert reload(engine, run).steps[0].status is StepStatus.FAILED


def test_a_closed_gate_stops_a_durable_step(engine: ResumeEngine, calls: Calls) -> None:
    run = engine.start_run("enrichment")
    calls.errors["enrich"] = [PermissionError("key revoked")]

    @durable_step(engine, run.run_id, "enrich", 0)
    def enrich(state: dict) -> dict:
        calls.note("enrich")
        return {}

    with pytest.raises(PermissionError):
        enrich.execute({})
    with pytest.raises(ResumeBlockedError):
        enrich.execute({})
    engine.grant_human_approval(run.run_id, "ana@example.com")
    assert enrich.execute({}) == {}


@pytest.mark.parametrize(
    ("fn", "gets_key"),
    [
        (lambda state: {"key": None}, False),
        (lambda state, key: {"key": key}, True),
        (lambda state, token: {"key": token}, True),
        (lambda state, idempotency_key="": {"key": idempotency_key}, True),
        (lambda state, *, key: {"key": key}, True),
        (lambda state, attempts=3: {"key": None}, False),
        (lambda *states: {"key": None}, False),
    ],
)
def test_the_key_goes_to_functions_that_ask_for_it(engine: ResumeEngine, fn: Any, gets_key: bool) -> None:
    run = engine.start_run("keys")
    output = durable_step(engine, run.run_id, "ask", 0)(fn).execute({})
    expected = reload(engine, run).steps[0].idempotency_key if gets_key else None
    assert output == {"key": expected}
