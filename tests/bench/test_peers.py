"""The table of peers: every one is run, counted, or named with the reason why it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import peer_process, peers
from bench.databases import Shelf
from bench.peer_process import Peer, PeerFailed, PeerProcess


def test_every_peer_is_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "SIZES", (5, 10))
    monkeypatch.setattr(peers, "OTHERS", (Peer("nobody", "engine_loop.py", ("a requirement that is none",)),))
    monkeypatch.setattr(peer_process, "_call", lambda command: "no such thing")
    floor, ours, missing = peers.report(Shelf(tmp_path, None), 1).splitlines()[2:]
    assert floor.split()[-1] == ours.split()[-1] == "1.00", "as many rows as steps"
    assert missing.startswith("nobody: not installed: no such thing")


def test_a_worker_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(PeerFailed, match="it ended: .*unable to open"):
        PeerProcess(Peer("engine", "engine_loop.py"), tmp_path, "sqlite:////nowhere/at/all.db")


def test_every_worker_is_there() -> None:
    for peer in (peers.FLOOR, peers.OURS, *peers.OTHERS):
        assert (peer_process.WORKERS / peer.worker).exists()
    assert {"burr", "langgraph", "dbos", "resume_engine 0.2.0"} == {peer.name for peer in peers.OTHERS}
