"""What a power cut leaves of the files of a database.

What was synced is there. Of what was not, each write is at random kept, dropped, or torn into its sectors,
whatever became of those before it; so is each truncation, and each file made or deleted.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.recorded_disk import WAL, Created, Deleted, Move, Noted, Synced, Truncated, Written

SECTOR_BYTES = 512


@dataclass
class _Content:
    """What is in a file: for certain, and what was done to it since."""

    certain: bytearray = field(default_factory=bytearray)
    loose: list[Written | Truncated] = field(default_factory=list)

    def settle(self) -> None:
        """Bring to the platter what was done."""
        for move in self.loose:
            _do(self.certain, move)
        self.loose.clear()


@dataclass
class Disk:
    """The files that are left, by name, and what became of that which was not synced."""

    files: dict[str, bytes] = field(default_factory=dict)
    kept: int = 0
    dropped: int = 0
    torn: int = 0

    def put(self, folder: Path) -> None:
        """Write the files into a folder."""
        folder.mkdir()
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


class Cut:
    """Cut the power behind some moves; `chance` decides what becomes of that which was not synced.

    `keeping` is the share of it that is kept, by default another one for each cut.
    """

    def __init__(self, moves: Sequence[Move], chance: random.Random, keeping: float | None = None) -> None:
        self._chance = chance
        # Some cuts lose everything, some next to nothing: what lies between is not all there is.
        self._keeping = chance.choice((0.0, 0.0, 0.3, 0.7, 1.0)) if keeping is None else keeping
        self._tearing = chance.choice((0.0, 0.5, 0.9))
        # What a name stands for: for certain, then since; None where there is no file.
        self._names: dict[str, list[_Content | None]] = {}
        for move in moves:
            self._follow(move)

    def disk(self) -> Disk:
        """Return what is left."""
        disk = Disk()
        for name, meanings in self._names.items():
            content = meanings[-1]
            if len(meanings) > 1 and self._chance.random() >= self._keeping:
                content = self._chance.choice(meanings[:-1])
                disk.dropped += 1
            if content is not None:
                disk.files[name] = self._left(content, disk)
        return disk

    def _follow(self, move: Move) -> None:
        match move:
            case Created(file):
                self._names.setdefault(file, [None]).append(_Content())
            case Written(file) | Truncated(file):
                self._content(file).loose.append(move)
            case Synced(file, folder):
                self._content(file).settle()
                self._settle_names([*self._names] if folder else [file])
            case Deleted(file, folder):
                self._names[file].append(None)
                self._settle_names([*self._names] if folder else [])

    def _content(self, file: str) -> _Content:
        content = self._names[file][-1]
        assert content is not None, f"{file} is used and was not made"
        return content

    def _settle_names(self, files: Sequence[str]) -> None:
        for file in files:
            del self._names[file][:-1]

    def _left(self, content: _Content, disk: Disk) -> bytes:
        left = bytearray(content.certain)
        for move in content.loose:
            parts = list(self._surviving(move))
            for part in parts:
                _do(left, part)
            disk.kept += parts == [move]
            disk.dropped += not parts
            disk.torn += bool(parts) and parts != [move]
        return bytes(left)

    def _surviving(self, move: Written | Truncated) -> Iterator[Written | Truncated]:
        if self._chance.random() < self._keeping:
            yield move
        elif isinstance(move, Written) and self._chance.random() < self._tearing:
            yield from (part for part in _sectors(move) if self._chance.random() < 0.5)


def _sectors(move: Written) -> Iterator[Written]:
    end = move.offset + len(move.data)
    first = move.offset - move.offset % SECTOR_BYTES
    for start in range(first, end, SECTOR_BYTES):
        begin = max(start, move.offset)
        data = move.data[begin - move.offset : start + SECTOR_BYTES - move.offset]
        yield Written(move.file, begin, data)


def _do(content: bytearray, move: Written | Truncated) -> None:
    size = move.size if isinstance(move, Truncated) else move.offset
    if size > len(content):
        content.extend(bytes(size - len(content)))
    if isinstance(move, Truncated):
        del content[size:]
    else:
        content[size : size + len(move.data)] = move.data


def boundaries(moves: Sequence[Move], database: str) -> Mapping[str, Sequence[int]]:
    """Return how many moves come before a cut, for each kind of place to cut at."""
    found: dict[str, list[int]] = {"making": [], "told": [], "written": [], "synced": [], "checkpoint": []}
    first = next(number for number, move in enumerate(moves) if isinstance(move, Noted))
    half_copied = False
    for number, move in enumerate(moves):
        if getattr(move, "file", "") == database:
            half_copied = isinstance(move, Written | Truncated)
        if number < first:
            found["making"].append(number + 1)
        elif half_copied:
            found["checkpoint"].append(number + 1)
        elif isinstance(move, Noted):
            found["told"].append(number + 1)
        elif isinstance(move, Written):
            found["written"].append(number + 1)
        elif isinstance(move, Synced):
            found["synced"].append(number + 1)
    return found | {"end": [len(moves)]}


def syncs_of_steps(moves: Sequence[Move], database: str) -> Mapping[str, set[int]]:
    """Return, by step, how often a file was synced between its effect and the news that it is on record.

    Steps whose commit began the log anew or copied it into the database are left out.
    """
    found: dict[str, set[int]] = {}
    for start, move in enumerate(moves):
        if not isinstance(move, Noted) or move.kind != "effect":
            continue
        told = move._replace(kind="acknowledged", key="")
        between = moves[start : moves.index(told, start)]
        written = [one for one in between if isinstance(one, Written)]
        if all(one.file == database + WAL and one.offset for one in written):
            found.setdefault(move.step, set()).add(sum(isinstance(one, Synced) for one in between))
    return found
