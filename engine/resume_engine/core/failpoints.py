"""Named places where a test can make the process die or pause.

Switched on by `RESUME_ENGINE_FAILPOINT=name:nth[:action]`, action `kill` (the default: SIGKILL) or `stop`
(SIGSTOP). Without the variable a failpoint costs one comparison.
"""

from __future__ import annotations

import os
import signal

NAMES = (
    "before_intent",
    "after_intent",
    "before_effect",
    "after_effect",
    "before_commit",
    "after_commit",
)


def _from_environment() -> tuple[str, int, signal.Signals] | None:
    text = os.environ.get("RESUME_ENGINE_FAILPOINT", "")
    if not text:
        return None
    name, _, rest = text.partition(":")
    nth, _, action = rest.partition(":")
    if name not in NAMES or not nth.isdigit() or action not in ("", "kill", "stop"):
        raise SystemExit(
            f"RESUME_ENGINE_FAILPOINT={text!r}: expected NAME:NTH[:kill|stop], NAME one of {NAMES}"
        )
    return name, int(nth), signal.SIGSTOP if action == "stop" else signal.SIGKILL


_armed = _from_environment()
_passed = 0


def reach(name: str) -> None:
    """Pass the place `name`; die or pause there if a test asked for it."""
    if _armed is None or _armed[0] != name:
        return
    global _passed
    _passed += 1
    if _passed == _armed[1]:
        os.kill(os.getpid(), _armed[2])
