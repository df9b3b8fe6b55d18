"""Commands that other packages contribute."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import click
import pytest
from click.testing import CliRunner

from resume_engine.cli import main
from resume_engine.cli.command_group import ENTRY_POINT_GROUP


class Contributed:
    """Stands in for what packages declare in the entry-point group."""

    def __init__(self, *points: EntryPoint) -> None:
        self._points = points

    def __call__(self, *, group: str) -> tuple[EntryPoint, ...]:
        assert group == ENTRY_POINT_GROUP
        return self._points


@click.command()
def hello() -> None:
    """Say hello."""
    click.echo("hello")


def contribute(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    points = [EntryPoint(name, value, ENTRY_POINT_GROUP) for name, value in values.items()]
    monkeypatch.setattr("resume_engine.cli.command_group.entry_points", Contributed(*points))


def test_a_contributed_command_is_listed_and_run(monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("contributed_module")
    module.hello = hello
    monkeypatch.setitem(sys.modules, "contributed_module", module)
    contribute(monkeypatch, hello="contributed_module:hello")
    assert CliRunner().invoke(main, ["hello"]).output == "hello\n"
    assert "Say hello." in CliRunner().invoke(main, ["--help"]).output


@pytest.mark.parametrize("arguments", [[], ["--port", "1"], ["--help"], ["more", "words"]])
def test_a_command_whose_packages_are_missing_says_which_extra_brings_them(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    contribute(monkeypatch, dashboard="package_that_is_not_there.cli:dashboard")
    result = CliRunner().invoke(main, ["dashboard", *arguments])
    assert result.exit_code == 1
    assert "resume_engine[dashboard]" in result.stderr and "package_that_is_not_there" in result.stderr
    assert result.stderr.count("\n") == 1
    assert "dashboard" in CliRunner().invoke(main, ["--help"]).output


def test_our_own_names_are_not_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    contribute(monkeypatch, runs="package_that_is_not_there:runs")
    assert "List runs" in CliRunner().invoke(main, ["runs", "--help"]).output


def test_something_that_is_no_command_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    contribute(monkeypatch, odd="json:dumps")
    result = CliRunner().invoke(main, ["odd"])
    assert result.exit_code == 1 and "json:dumps is no command" in result.stderr
