"""Which process an executor is, and whether it is still there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from resume_engine.core import process_identity
from resume_engine.core.process_identity import is_gone, new_owner

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def changed(owner: str, **parts: str) -> str:
    """Return an owner with some of its parts replaced."""
    named = dict(zip(("host", "pid", "start", "machine", "nonce"), owner.rsplit(":", 4), strict=True))
    return ":".join((named | parts).values())


def test_an_owner_names_host_process_start_machine_and_a_nonce() -> None:
    host, pid, start, machine, nonce = new_owner().rsplit(":", 4)
    assert host and int(pid) == os.getpid() and int(start) > 0
    assert len(machine) == 8 and len(nonce) == 6 and len(new_owner()) <= 255
    assert new_owner() != new_owner()


def test_this_process_is_here() -> None:
    assert not is_gone(new_owner())


@pytest.mark.parametrize(
    ("parts", "gone"),
    [
        ({}, False),
        ({"start": "1"}, True),  # the number was given to another process since
        ({"pid": str(2**22 + 1)}, True),
        ({"host": "elsewhere"}, False),  # of another host nothing is known
        ({"machine": "00000000"}, False),  # nor of another container of the same name
        ({"machine": "unknown"}, False),
        ({"start": "unknown"}, False),
        ({"pid": "x"}, False),
        ({"pid": "-1"}, False),
    ],
)
def test_what_is_certain_to_be_gone(parts: dict[str, str], gone: bool) -> None:
    assert is_gone(changed(new_owner(), **parts)) is gone


@pytest.mark.parametrize("owner", ["worker-1", "", ":", "a:b:c:d:e", "1:2:3", "::::"])
def test_of_a_name_given_by_hand_nothing_is_known(owner: str) -> None:
    assert not is_gone(owner)


def test_a_host_name_may_hold_colons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_identity.socket, "gethostname", lambda: "fe80::1")
    assert not is_gone(new_owner())
    assert is_gone(changed(new_owner(), start="1"))


def test_a_killed_process_is_gone_before_its_parent_notices() -> None:
    code = (
        "import sys; from resume_engine.core.process_identity import new_owner;"
        "print(new_owner(), flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(Path(process_identity.__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes) as process:  # type: ignore[call-overload]
        owner = process.stdout.readline().strip()
        assert not is_gone(owner)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it ended, and nobody has asked how
        assert is_gone(owner)
    assert is_gone(owner)


@pytest.mark.parametrize("missing", ["boot_id", "namespace", "stat"])
def test_where_it_cannot_be_told_nobody_is_gone(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    if missing == "stat":
        monkeypatch.setattr(process_identity, "_start_of", lambda _: "unknown")
    else:
        monkeypatch.setattr(process_identity, "_machine", lambda: "unknown")
    owner = new_owner()
    monkeypatch.undo()
    assert "unknown" in owner and not is_gone(owner)
