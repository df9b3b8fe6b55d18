"""Which process an executor is, and whether it is still there."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from pathlib import Path


def new_owner() -> str:
    """Return a name for an executor of this process: `host:pid:start:machine:nonce`.

    `machine` tells apart containers that share a host name but not their processes; `start` tells apart
    processes that were given the same number.
    """
    pid = os.getpid()
    return f"{socket.gethostname()[:150]}:{pid}:{_start_of(pid)}:{_machine()}:{secrets.token_hex(3)}"


def is_gone(owner: str) -> bool:
    """Return whether `owner` was a process of this machine and is no more; False when it cannot be told."""
    parts = owner.rsplit(":", 4)
    if len(parts) != 5 or not parts[1].isdigit():
        return False
    host, pid, start, machine, _ = parts
    if "unknown" in (start, machine) or (host, machine) != (socket.gethostname()[:150], _machine()):
        return False
    return _start_of(int(pid)) != start


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return "unknown"
    return hashlib.sha256(f"{boot}{namespace}".encode()).hexdigest()[:8]


def _start_of(pid: int) -> str:
    """Return when a process started, in ticks since boot; "gone" if there is none, "unknown" off Linux."""
    if not Path("/proc/self/stat").exists():
        return "unknown"
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "gone"
    # The second field is the command in parentheses and may hold spaces: count from behind it.
    fields = stat.rpartition(")")[2].split()
    return "gone" if fields[0] in ("Z", "X") else fields[19]
