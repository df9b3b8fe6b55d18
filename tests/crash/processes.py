"""Processes that may be killed at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
KILLED = -signal.SIGKILL


class Processes:
    """Start jobs in processes of their own; `close` leaves none behind."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._errors = log.with_suffix(".zygote").open("wb")
        self._running: set[int] = set()
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.zygote"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'engine'}{os.pathsep}{ROOT}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        assert self._answer() == "ready"

    def start(self, do: str, *, env: dict[str, str] | None = None, **job: Any) -> int:
        """Start a job; return its process id."""
        job = {"do": do, "env": env or {}, "log": str(self._log), **job}
        pid: int = self._ask({"job": job})
        self._running.add(pid)
        return pid

    def wait(self, pid: int, seconds: float = 60) -> int:
        """Return the exit code of a process, negative for the signal that ended it."""
        code: int | None = self._ask({"wait": pid, "seconds": seconds})
        assert code is not None, f"process {pid} still runs after {seconds} s\n{self.said()}"
        self._running.discard(pid)
        return code

    def run(self, do: str, **job: Any) -> int:
        """Do a job and return its exit code."""
        return self.wait(self.start(do, **job))

    def kill(self, pid: int) -> int:
        """Kill a process; return its exit code, which is not that of a kill when it was done before."""
        os.kill(pid, signal.SIGKILL)
        return self.wait(pid)

    def wait_until_stopped(self, pid: int, seconds: float = 30) -> None:
        """Wait until a process has stopped itself."""
        deadline = time.monotonic() + seconds
        while (state := _state(pid)) != "T":
            assert state not in ("", "Z") and time.monotonic() < deadline, f"{state!r}\n{self.said()}"
            time.sleep(0.005)

    def wait_for(self, path: Path, seconds: float = 30) -> None:
        """Wait until a process has made a file."""
        deadline = time.monotonic() + seconds
        while not path.exists():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.002)

    def said(self) -> str:
        """Return what the processes wrote, for a failed assertion."""
        with suppress(OSError):
            return self._log.read_text(errors="replace")[-6_000:]
        return ""

    def close(self) -> None:
        """Kill what still runs."""
        for pid in list(self._running):
            with suppress(OSError, AssertionError):
                os.kill(pid, signal.SIGKILL)
        assert self._zygote.stdin is not None and self._zygote.stdout is not None
        self._zygote.stdin.close()
        self._zygote.wait(30)
        self._zygote.stdout.close()
        self._errors.close()

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._zygote.stdin is not None
        self._zygote.stdin.write(json.dumps(request) + "\n")
        self._zygote.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._zygote.stdout is not None
        line = self._zygote.stdout.readline()
        assert line, f"the zygote ended: {self._log.with_suffix('.zygote').read_text(errors='replace')}"
        return json.loads(line)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
