"""One table for every word that people see."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from resume_engine.core.audit import EventType
from resume_engine.core.decisions import DecisionKind
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run_summary import RunState
from resume_engine.core.step_record import FailureClassification, StepStatus
from webapp import presentation

ROOT = Path(__file__).resolve().parents[2]
LOOKS = [
    *presentation.STATES.values(),
    *presentation.STEP_STATES.values(),
    *presentation.FAILURES.values(),
    *presentation.GATES.values(),
]


def test_every_word_of_the_engine_has_a_look() -> None:
    assert set(presentation.STATES) == set(RunState)
    assert set(presentation.STEP_STATES) == set(StepStatus)
    assert set(presentation.FAILURES) == set(FailureClassification)
    assert set(presentation.GATES) == set(DecisionKind)
    assert set(presentation.OPEN_GATES) == set(GateAction)
    assert set(presentation.EVENTS) >= set(EventType)


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: look.label)
def test_every_icon_and_colour_exists(look: presentation.Look) -> None:
    sprite = (ROOT / "templates/components/sprite.html").read_text(encoding="utf-8")
    css = (ROOT / "static/app.css").read_text(encoding="utf-8")
    assert f'id="i-{look.icon}"' in sprite
    assert f".tone-{look.tone} " in css
    assert look.sentence.endswith(".")


def test_every_icon_that_templates_name_is_in_the_sprite() -> None:
    sprite = (ROOT / "templates/components/sprite.html").read_text(encoding="utf-8")
    for path in (ROOT / "templates").rglob("*.html"):
        for name in re.findall(r'icon\("([a-z]+)"', path.read_text(encoding="utf-8")):
            assert f'id="i-{name}"' in sprite, f"{path.name}: {name}"


def test_states_differ_by_icon_and_not_by_colour_alone() -> None:
    icons = [look.icon for look in presentation.STATES.values()]
    assert len(set(icons)) == len(icons)


def test_an_unknown_word_is_shown_as_itself() -> None:
    assert presentation.look(presentation.STATES, "<new>").label == "<new>"
    assert presentation.gate_look("second_pair_of_eyes").needs == "needs second pair of eyes"
    assert presentation.event_words("moon.has_landed") == "moon has landed"


@pytest.mark.parametrize(
    ("step_index", "ending"),
    [
        (0, "No step was completed before it."),
        (1, "Step 0 is not repeated."),
        (12, "Steps 0 to 11 are not repeated."),
    ],
)
def test_a_decision_says_what_it_lets_happen(step_index: int, ending: str) -> None:
    failure = SimpleNamespace(step_index=step_index, step_name="charge")
    sentence = presentation.allows("human_approval", failure)
    assert f"step {step_index}" in sentence
    assert sentence.endswith(ending)
    assert ending not in presentation.allows("human_approval", failure, briefly=True)
    assert "for good" in presentation.allows("reject", failure)


def test_buttons_say_the_act() -> None:
    assert [presentation.GATES[kind].button for kind in (*presentation.OPEN_GATES, "reject")] == [
        "Record compensation",
        "Approve",
        "Acknowledge prod resume",
        "Reject",
    ]
