"""A measured process in an environment of its own, which runs workflows when it is told to."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

WORKERS = Path(__file__).parent / "peer_workers"
ANSWER_SECONDS = 180.0
INSTALL_SECONDS = 300.0


class PeerFailed(Exception):
    """A peer could not be installed, started or asked; the message says why in a line."""


@dataclass(frozen=True)
class Peer:
    """A way to do durable steps: its worker, and what its environment holds; nothing: this one."""

    name: str
    worker: str
    requirements: tuple[str, ...] = ()

    def python(self, folder: Path) -> str:
        """Return the interpreter of its environment, made now if need be."""
        if not self.requirements:
            return sys.executable
        home = folder / self.name.replace(" ", "_")
        python, mark = home / "bin" / "python", home / "installed.txt"
        if not mark.exists() or mark.read_text() != "\n".join(self.requirements):
            print(f"  installing {self.name}", flush=True)
            _install(home, python, self.requirements)
            mark.write_text("\n".join(self.requirements))
        return str(python)


def _install(home: Path, python: Path, requirements: tuple[str, ...]) -> None:
    if _call(["uv", "--version"]) is None:
        steps = [["uv", "venv", "--quiet", "--clear", "--python", sys.executable, str(home)]]
        steps.append(["uv", "pip", "install", "--quiet", "--python", str(python), *requirements])
    else:
        steps = [[sys.executable, "-m", "venv", "--clear", str(home)]]
        steps.append([str(python), "-m", "pip", "install", "--quiet", *requirements])
    for step in steps:
        problem = _call(step)
        if problem is not None:
            raise PeerFailed(f"not installed: {problem}")


def _call(command: list[str]) -> str | None:
    """Run a command; return the last line of what went wrong, None when all is well."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        return str(problem).splitlines()[0]
    lines = done.stderr.strip().splitlines()
    return None if done.returncode == 0 else (lines[-1] if lines else f"code {done.returncode}")


class PeerProcess:
    """Speak to a worker; it ends when this object is closed."""

    def __init__(self, peer: Peer, folder: Path, address: str) -> None:
        self.peer = peer
        folder.mkdir(parents=True, exist_ok=True)
        python = peer.python(folder)
        self._log = (folder / f"{peer.worker}.log").open("w")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self._process = subprocess.Popen(
            [python, str(WORKERS / peer.worker), address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )
        try:
            self.answer()
        except PeerFailed:
            self.close()
            raise

    def tell(self, line: str) -> None:
        """Ask for something; `answer` waits for it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except OSError as problem:
            raise PeerFailed("it ended") from problem

    def answer(self) -> str:
        """Return the next line, waiting no longer than `ANSWER_SECONDS`."""
        assert self._process.stdout is not None
        timer = threading.Timer(ANSWER_SECONDS, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            self._process.wait(10)
            raise PeerFailed(self._last_words())
        return line.strip()

    def seconds(self, steps: int) -> float:
        """Run a workflow of so many steps and return how long it took."""
        self.tell(f"run {steps}")
        return float(self.answer())

    def rows(self) -> int:
        """Return how many records the peer has written."""
        self.tell("rows")
        return int(self.answer())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait(10)
        self._process.stdout.close()
        self._log.close()

    def _last_words(self) -> str:
        lines = Path(self._log.name).read_text().strip().splitlines()
        telling = [line for line in lines if "Error" in line] or lines or ["without a word"]
        return f"it ended: {telling[-1]}"
