"""Recorded JSON on a page: nothing lost, nothing hidden, nothing that could exhaust the server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from resume_engine.core.masking import mask_json_text
from webapp import json_view

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def shown(value: Any, **options: int) -> str:
    return "".join(text for _, text in json_view.tokens(value, **options))


@given(VALUES)
def test_what_is_shown_is_the_same_json(value: Any) -> None:
    text = json.dumps(value)
    assume(mask_json_text(text) == text)  # a secret by its name or shape, which chance draws too, is hidden
    assert json.loads(shown(text)) == json.loads(text)


def test_tokens_are_coloured_and_indented() -> None:
    assert list(json_view.tokens('{"a": [1, true], "b": {}}')) == [
        ("", "{\n  "),
        ("k", '"a"'),
        ("", ": [\n    "),
        ("n", "1"),
        ("", ",\n    "),
        ("b", "true"),
        ("", "\n  ],\n  "),
        ("k", '"b"'),
        ("", ": {}\n}"),
    ]


def test_numbers_keep_their_digits() -> None:
    assert "1.10" in shown('{"amount": 1.10, "big": 12345678901234567890123}')


def test_markup_is_left_for_the_template_to_escape() -> None:
    assert ("s", '"<b>&"') in list(json_view.tokens('"<b>&"'))


@pytest.mark.parametrize("disguise", ["\u202e", "\u2066", "\x1b", "\ufeff"])
def test_disguises_are_written_out(disguise: str) -> None:
    assert disguise not in shown(json.dumps(f"safe{disguise}exe"))
    assert disguise not in json_view.preview(f'"safe{disguise}exe"')
    assert json_view.visible(disguise) == f"\\u{ord(disguise):04x}"


def test_text_that_is_no_json_is_shown_as_it_is() -> None:
    assert shown("not json <at all>").replace(" ", "") == "notjson<atall>"


def test_a_long_value_is_cut_and_says_so() -> None:
    text = shown(json.dumps(["x" * 10] * 100), limit=50)
    assert "more characters" in text
    assert len(text) < 300


def test_depth_does_not_matter() -> None:
    assert shown("[" * 15_000).count("[") == 15_000


def test_preview_is_one_short_line() -> None:
    preview = json_view.preview({"text": "line\nbreak" * 100})
    assert "\n" not in preview
    assert len(preview) <= json_view.PREVIEW_CHARACTERS + 1
    assert json_view.size({"a": "é"}) == len('{"a": "é"}'.encode())
