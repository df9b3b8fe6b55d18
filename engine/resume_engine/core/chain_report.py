"""What a verification of the audit found."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

_KEPT = 20


class Verdict(IntEnum):
    """The exit codes of `resume-engine audit verify`."""

    INTACT = 0
    TAMPERED = 1
    CANNOT_TELL = 2
    UNREADABLE = 3


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is not as it must be, at the first place where that shows."""

    stream: str
    seq: int | None
    problem: str
    expected: str | None = None
    found: str | None = None

    def __str__(self) -> str:
        """Return it as one sentence."""
        place = self.stream if self.seq is None else f"{self.stream} #{self.seq}"
        hashes = f" (expected {self.expected}, found {self.found})" if self.expected or self.found else ""
        return f"{place}: {self.problem}{hashes}"


@dataclass(kw_only=True)
class ChainReport:
    """Hold what was looked at, what is wrong and what could not be told."""

    streams: int = 0
    entries: int = 0
    unsealed: int = 0
    locked: int = 0
    checkpoint: int | None = None  # the newest one that was checked
    findings: list[Finding] = field(default_factory=list)
    more_findings: int = 0
    doubts: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """Return the whole in one word."""
        if self.findings:
            return Verdict.TAMPERED
        return Verdict.CANNOT_TELL if self.doubts or self.unsealed or self.locked else Verdict.INTACT

    def add(self, finding: Finding) -> None:
        """Keep a finding; of very many only the first ones."""
        if len(self.findings) < _KEPT:
            self.findings.append(finding)
        else:
            self.more_findings += 1

    def sentences(self) -> list[str]:
        """Return what could not be told, one sentence each."""
        found = list(self.doubts)
        if self.locked:
            found.append(f"{self.locked} entries are encrypted, and the key is not here: give the key")
        if self.unsealed:
            found.append(
                f"{self.unsealed} entries were written after the last checkpoint: "
                "run `resume-engine audit seal`"
            )
        return found
