"""What executors do to the run of a case: every way to begin it, and to go on with it."""

from __future__ import annotations

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.permissions import Role
from resume_engine.core.run import RunStatus
from tests.crash.gate_case import STARTER, Case
from tests.crash.gate_steps import function_of, workflow_of

EDITOR = "dia"


def start(case: Case) -> None:
    """Make the run."""
    actor = Actor(name=STARTER, role=Role.RUNNER, channel=Channel.DASHBOARD)
    case.engines[0].start_run("graph", run_id=case.run_id, environment=case.environment, actor=actor)


def begin(case: Case) -> None:
    """Execute the workflow for the first time."""
    case.engine().execute_workflow(case.run_id, workflow_of(case), initial_input={"order": case.run_id})


def resume(case: Case) -> None:
    """Go on where the run stopped."""
    case.engine().resume(case.run_id, workflow_of(case))


def resume_over_http(case: Case) -> None:
    """Go on with a run that is recorded on a control plane."""
    case.remote.resume(case.run_id, workflow_of(case))


def resume_an_outdated_version(case: Case) -> None:
    """Go on with the run as it was some changes ago."""
    now = case.store.load_summary(case.run_id)
    assert now is not None
    old = max(0, now.version - case.chance.randint(1, 3))
    case.engine().resume(case.run_id, workflow_of(case), if_version=old)
    assert now.status is RunStatus.COMPLETED or old == now.version, "an outdated version was resumed"


def resume_with_another_input(case: Case) -> None:
    """Go on from a new initial input, each time another."""
    case.engine().resume(
        case.run_id,
        workflow_of(case),
        initial_input={"order": case.run_id, "edit": len(case.told)},
        allow_input_change=True,
        actor=Actor(name=EDITOR, role=Role.RUNNER, channel=Channel.DASHBOARD),
    )


def execute_from_somewhere(case: Case) -> None:
    """Execute the workflow from any of its steps."""
    first = case.chance.randint(0, len(case.steps))
    case.engine().execute_workflow(case.run_id, workflow_of(case), start_index=first)


def execute_by_hand(case: Case) -> None:
    """Execute any single step."""
    index = case.chance.randrange(len(case.steps))
    engine = case.remote if case.chance.random() < 0.2 else case.engine()
    function = function_of(case, index, "hand")
    engine.execute_step(case.run_id, case.steps[index].name, index, case.input_of(index), function)


def repeat_by_hand(case: Case) -> None:
    """Do again what was cut off with an input of its own: the workflow would not do that."""
    for index in list(case.oracle.doubts):
        function = function_of(case, index, "hand")
        case.engines[0].execute_step(case.run_id, case.steps[index].name, index, case.inputs[index], function)


def complete_run(case: Case) -> None:
    """Say that the run is done."""
    case.engine().complete_run(case.run_id)
    if case.oracle.finished is None:
        case.oracle.goes_on("complete_run")
