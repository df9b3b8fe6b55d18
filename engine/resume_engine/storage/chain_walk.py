"""Walk one stream of the audit from its first entry to its end and find the first that is not as it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from resume_engine.core.audit_chain import entry_hash
from resume_engine.core.chain_report import Finding
from resume_engine.core.errors import PayloadError, PayloadLockedError
from resume_engine.core.payload import payload_hash
from resume_engine.core.step_record import kind_of
from resume_engine.storage.chain_reader import StoredEntry
from resume_engine.storage.derived_inputs import MARK, RunInputs
from resume_engine.storage.payload_codec import PayloadCodec
from resume_engine.storage.rows import AnyRow

UNREADABLE = (
    PayloadError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What comes of rows that hold what none of ours does."""


@dataclass
class ChainWalk:
    """Where a walk stands; `sealed` says which hash a checkpoint holds of an entry, by its number."""

    stream: str
    codec: PayloadCodec
    sealed: Mapping[int, str]
    seq: int = 0
    head: str | None = None
    locked: int = 0

    def __post_init__(self) -> None:
        self._inputs = RunInputs(self.codec)

    def take(self, entry: StoredEntry) -> Finding | None:
        """Go one entry on; return what is wrong with it."""
        if not isinstance(entry.seq, int) or entry.hash is None:
            return self._at(self.seq + 1, "a row was put in that stands in no chain")
        if entry.seq <= self.seq:
            return self._at(entry.seq, "two rows claim this place")
        if entry.seq > self.seq + 1:
            gone = entry.seq - self.seq - 1
            return self._at(
                self.seq + 1, f"{gone} entries are missing" if gone > 1 else "the entry is missing"
            )
        prev = entry.row.prev_hash if not entry.is_step else self.head
        if prev != self.head:
            return self._at(entry.seq, "it does not follow the entry before it", self.head, prev)
        wrong = self._wrong(entry, entry.seq)
        if wrong is not None:
            return wrong
        self.seq, self.head = entry.seq, entry.hash
        return self._unlike_the_seal()

    def end(self, seq: int, head: str | None) -> Finding | None:
        """Return what is wrong with the end that is noted outside the entries."""
        if (seq, head) == (self.seq, self.head):
            return None
        if seq > self.seq:
            return self._at(self.seq + 1, f"the end is cut off: entries up to #{seq} were written")
        return self._at(self.seq, "the noted end is not the last entry", head, self.head)

    def _wrong(self, entry: StoredEntry, seq: int) -> Finding | None:
        try:
            expected = entry_hash(entry.header(self.stream, seq, self.head, self.codec))
        except PayloadLockedError:
            self.locked += 1  # its hash is taken as stored: what follows is checked all the same
            return None
        except UNREADABLE as problem:
            return self._at(seq, f"it cannot be read: {problem}")
        if expected != entry.hash:
            return self._at(seq, "it is not what was recorded", expected, entry.hash)
        if entry.is_step and entry.row.kind != kind_of(entry.row.step_name):
            return self._at(seq, f"its kind is {entry.row.kind}, and its name tells another one")
        return self._wrong_input(entry.row, seq) if entry.is_step and not self.locked else None

    def _wrong_input(self, row: AnyRow, seq: int) -> Finding | None:
        """Return what is wrong with an input that is not stored: what it follows from must give its hash."""
        try:
            given = self._inputs.before(row)
            self._inputs.after(row, None if row.output_json is None else self.codec.decode(row.output_json))
            is_right = not row.input_json.startswith(MARK) or payload_hash(given) == row.input_hash
        except UNREADABLE as problem:
            return self._at(seq, f"its input cannot be read: {problem}")
        return None if is_right else self._at(seq, "its input does not follow from what was recorded before")

    def _unlike_the_seal(self) -> Finding | None:
        sealed = self.sealed.get(self.seq)
        if sealed is None or sealed == self.head:
            return None
        return self._at(self.seq, "up to here history was rewritten after it was sealed", sealed, self.head)

    def _at(self, seq: int, problem: str, expected: str | None = None, found: str | None = None) -> Finding:
        return Finding(stream=self.stream, seq=seq, problem=problem, expected=expected, found=found)


def walk(
    stream: str, entries: Iterable[StoredEntry], codec: PayloadCodec, sealed: Mapping[int, str]
) -> tuple[ChainWalk, Finding | None]:
    """Walk until the end or the first finding."""
    walked = ChainWalk(stream, codec, sealed)
    for entry in entries:
        finding = walked.take(entry)
        if finding is not None:
            return walked, finding
    beyond = [seq for seq in sealed if seq > walked.seq]
    if beyond:
        return walked, Finding(
            stream=stream,
            seq=walked.seq + 1,
            problem=f"the end is cut off: entries up to #{max(beyond)} were sealed",
        )
    return walked, None
