"""How others do the same work: sequential steps that do nothing and return about 250 bytes, each durable.

Every peer runs in a process and an environment of its own, with its own settings for the database. All
take turns, round after round, and beside each stands the floor of the same round. Rows are counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.databases import Shelf
from bench.measure import table
from bench.peer_process import Peer, PeerFailed, PeerProcess

SIZES = (100, 1_000)
FLOOR = Peer("insert and commit", "floor_loop.py")
OURS = Peer("resume_engine", "engine_loop.py")
OTHERS = (
    Peer("burr", "burr_loop.py", ("burr", "psycopg2-binary")),
    Peer(
        "langgraph",
        "langgraph_loop.py",
        (
            "langgraph",
            "langgraph-checkpoint-sqlite",
            "langgraph-checkpoint-postgres",
            "psycopg[binary]",
        ),
    ),
    Peer("dbos", "dbos_loop.py", ("dbos",)),
    Peer(
        "resume_engine 0.2.0",
        "engine_loop.py",
        ("resume_engine==0.2.0", "sqlalchemy>=2,<2.1", "psycopg2-binary"),
    ),
)
_PROCESSES, _STEPS_EACH, _PARALLEL_ROUNDS = 8, 200, 3


@dataclass
class _Standing:
    """One peer on one database: its process, the times of its rounds, and why it is out."""

    peer: Peer
    process: PeerProcess | None = None
    problem: str | None = None
    seconds: dict[int, list[float]] = field(default_factory=lambda: {size: [] for size in SIZES})
    steps: int = 0

    def end(self) -> None:
        """End its process."""
        if self.process is not None:
            self.process.close()

    def run(self, size: int) -> None:
        """Run a workflow and note its time."""
        if self.process is None:
            return
        try:
            self.seconds[size].append(self.process.seconds(size))
            self.steps += size
        except PeerFailed as problem:
            self.problem = str(problem)
            self.process.close()
            self.process = None


def report(shelf: Shelf, rounds: int) -> str:
    """Measure every peer on both databases and return the table."""
    header = [
        "a durable step",
        "ms, 100",
        "to floor",
        "ms, 1,000",
        "to floor",
        "1,000 over 100",
        "rows a step",
    ]
    parts = []
    for backend in shelf.backends:
        standings = [_begun(peer, shelf, backend) for peer in (FLOOR, OURS, *OTHERS)]
        try:
            for size in SIZES:
                for _ in range(max(2, rounds * SIZES[0] // size)):
                    for standing in standings:
                        standing.run(size)
            lines = [_line(standing, standings[0]) for standing in standings]
        finally:
            for standing in standings:
                standing.end()
        parts.append(table([f"{backend}: {header[0]}", *header[1:]], lines))
    if "postgresql" in shelf.backends:
        parts.append(_parallel(shelf))
    return "\n\n".join(parts)


def _begun(peer: Peer, shelf: Shelf, backend: str) -> _Standing:
    standing = _Standing(peer)
    name = peer.name.replace(" ", "_").replace(".", "_")
    try:
        standing.process = PeerProcess(
            peer, shelf.folder / "peers", shelf.scratch_url(backend, f"peer_{name}")
        )
        standing.process.seconds(20)
        standing.steps = 20
    except PeerFailed as problem:
        standing.problem = str(problem)
    return standing


def _line(standing: _Standing, floor: _Standing) -> list[str]:
    if standing.process is None:
        return [f"{standing.peer.name}: {standing.problem or ''}"[:100], *["-"] * 6]
    cells = []
    for size in SIZES:
        ratios = [a / b for a, b in zip(standing.seconds[size], floor.seconds[size], strict=False)]
        cells += [f"{median(standing.seconds[size]) / size * 1000:.3f}", f"{median(ratios):.2f}"]
    small, large = (median(standing.seconds[size]) / size for size in SIZES)
    rows = standing.process.rows() / standing.steps
    return [standing.peer.name, *cells, f"{large / small:.2f}", f"{rows:.2f}"]


def _parallel(shelf: Shelf) -> str:
    """Return the table of steps a second with several processes at once, each with a run of its own."""
    lines, floor = [], 0.0
    for peer in (FLOOR, OURS):
        address = shelf.scratch_url("postgresql", "peer_parallel")
        found = _together(peer, shelf.folder / "peers", address)
        floor = floor or found
        lines.append([peer.name, f"{found:,.0f}", f"{found / floor:.2f}"])
    title = f"postgresql: {_PROCESSES} processes x {_STEPS_EACH} steps"
    return table([title, "steps a second", "to floor"], lines)


def _together(peer: Peer, folder: Path, address: str) -> float:
    processes = [PeerProcess(peer, folder, address) for _ in range(_PROCESSES)]
    try:
        rates = []
        for _ in range(_PARALLEL_ROUNDS + 1):
            for process in processes:
                process.tell(f"run {_STEPS_EACH}")
            slowest = max(float(process.answer()) for process in processes)
            rates.append(_PROCESSES * _STEPS_EACH / slowest)
        return median(rates[1:])
    finally:
        for process in processes:
            process.close()
