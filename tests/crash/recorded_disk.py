"""A disk that notes what SQLite does to the files of one database, and when clients were told what.

It stands between SQLite and SQLite's own file layer: every call goes on to the real file, and what changes a
file is noted. It becomes the default of its process and stays: record in a process made for that.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import os
import pickle
import threading
from collections.abc import Callable, Sequence
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int64, c_void_p, cast, string_at
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tests.crash.effects import Effects

WAL = "-wal"
_CREATES = 0x4
_JOURNALS = 0x00000800 | 0x00004000 | 0x00080000  # of one database, of several, and the write-ahead log


class Created(NamedTuple):
    """A file has been made."""

    file: str


class Written(NamedTuple):
    """So many bytes have been written at an offset."""

    file: str
    offset: int
    data: bytes


class Truncated(NamedTuple):
    """A file has been cut (or extended) to so many bytes."""

    file: str
    size: int


class Synced(NamedTuple):
    """A file, and if so the names of its folder, have been brought to the platter."""

    file: str
    folder: bool


class Deleted(NamedTuple):
    """A file is gone, and if so the names of its folder have been brought to the platter."""

    file: str
    folder: bool


class Noted(NamedTuple):
    """Something happened outside, or a client was told something (see `Effects`)."""

    kind: str
    run_id: str
    step: str
    key: str
    nonce: str


Move = Created | Written | Truncated | Synced | Deleted | Noted


class NotedEffects(Effects):
    """The world outside, which notes on the disk's own list when something happened to it."""

    def __init__(self, path: str, moves: list[Move]) -> None:
        super().__init__(path)
        self._moves = moves

    def _note(self, connection: Any, *noted: str) -> None:
        super()._note(connection, *noted)
        self._moves.append(Noted(*noted))


class _Methods(Structure):
    """`sqlite3_io_methods`."""

    _fields_ = [
        ("iVersion", c_int),
        *((name, c_void_p) for name in ("xClose", "xRead", "xWrite", "xTruncate", "xSync", "xFileSize")),
        *((name, c_void_p) for name in ("xLock", "xUnlock", "xCheckReservedLock", "xFileControl")),
        *((name, c_void_p) for name in ("xSectorSize", "xDeviceCharacteristics", "xShmMap", "xShmLock")),
        *((name, c_void_p) for name in ("xShmBarrier", "xShmUnmap", "xFetch", "xUnfetch")),
    ]


class _File(Structure):
    """`sqlite3_file`."""

    _fields_ = [("methods", POINTER(_Methods))]


class _Layer(Structure):
    """`sqlite3_vfs`."""

    _fields_ = [
        ("iVersion", c_int),
        ("szOsFile", c_int),
        ("mxPathname", c_int),
        *((name, c_void_p) for name in ("pNext", "zName", "pAppData", "xOpen", "xDelete", "xAccess")),
        *((name, c_void_p) for name in ("xFullPathname", "xDlOpen", "xDlError", "xDlSym", "xDlClose")),
        *((name, c_void_p) for name in ("xRandomness", "xSleep", "xCurrentTime", "xGetLastError")),
        *((name, c_void_p) for name in ("xCurrentTimeInt64", "xSetSystemCall", "xGetSystemCall")),
        ("xNextSystemCall", c_void_p),
    ]


# The names of files are handed on as the pointers they are: SQLite keeps more behind their end.
_OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, POINTER(_File), c_int, c_void_p)
_DELETE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_WRITE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
_SYNC = CFUNCTYPE(c_int, c_void_p, c_int)


class RecordedDisk:
    """Note what happens to a database file, its log and its journal from now on."""

    def __init__(self, database: str) -> None:
        self.moves: list[Move] = []
        database = os.path.realpath(database)  # which is how SQLite calls it
        self._files = {database + suffix for suffix in ("", WAL, "-journal")}
        self._names: dict[int, str] = {}  # of open files, by their address
        self._folder_due: set[int] = set()
        self._methods: dict[int, _Methods] = {}  # ours, by the address of the real ones
        self._one_at_a_time = threading.RLock()
        self._kept: list[Any] = [self]  # what SQLite points to is never collected
        self._sqlite = _library()
        self._real = self._sqlite.sqlite3_vfs_find(None)
        self._become_default()

    def save(self, path: str) -> None:
        """Write down what was noted, for `load`."""
        assert any(isinstance(move, Synced) for move in self.moves), (
            "Python uses another SQLite than was found"
        )
        Path(path).write_bytes(pickle.dumps(self.moves))

    def _become_default(self) -> None:
        layer = _Layer.from_buffer_copy(self._real.contents)
        name = c_char_p(b"recorded")
        layer.pNext, layer.zName = None, cast(name, c_void_p)
        layer.xOpen = self._callback(_OPEN, self._open)
        layer.xDelete = self._callback(_DELETE, self._delete)
        self._kept += [layer, name]
        assert self._sqlite.sqlite3_vfs_register(ctypes.byref(layer), 1) == 0

    def _callback(self, kind: Any, function: Callable[..., int]) -> int | None:
        def in_turn(*arguments: Any) -> int:
            with self._one_at_a_time:  # in the list things stand in the order in which they were done
                return function(*arguments)

        callback = kind(in_turn)
        self._kept.append(callback)
        return cast(callback, c_void_p).value

    def _open(self, _: Any, name: int | None, file: Any, flags: int, out: Any) -> int:
        path = _text(name)
        exists = os.path.exists(path)
        code: int = _OPEN(self._real.contents.xOpen)(cast(self._real, c_void_p), name, file, flags, out)
        if code == 0 and path in self._files:
            address = ctypes.addressof(file.contents)
            self._names[address] = os.path.basename(path)
            if flags & _CREATES and flags & _JOURNALS:
                self._folder_due.add(address)  # SQLite syncs the folder with the first sync of these
            if not exists:
                self.moves.append(Created(self._names[address]))
            self._watch(file)
        return code

    def _watch(self, file: Any) -> None:
        """Put our methods in the place of the real ones, of which there are some for each kind of locking."""
        real = file.contents.methods.contents
        address = ctypes.addressof(real)
        if address not in self._methods:
            methods = self._methods[address] = _Methods.from_buffer_copy(real)
            methods.xWrite = self._callback(_WRITE, partial(self._write, _WRITE(real.xWrite)))
            methods.xTruncate = self._callback(_TRUNCATE, partial(self._truncate, _TRUNCATE(real.xTruncate)))
            methods.xSync = self._callback(_SYNC, partial(self._sync, _SYNC(real.xSync)))
        file.contents.methods = ctypes.pointer(self._methods[address])

    def _write(self, real: Any, file: int, data: int, length: int, offset: int) -> int:
        move = Written(self._names[file], offset, string_at(data, length))
        return self._noted(move, real(file, data, length, offset))

    def _truncate(self, real: Any, file: int, size: int) -> int:
        return self._noted(Truncated(self._names[file], size), real(file, size))

    def _sync(self, real: Any, file: int, flags: int) -> int:
        move = Synced(self._names[file], file in self._folder_due)
        self._folder_due.discard(file)
        return self._noted(move, real(file, flags))

    def _delete(self, _: Any, name: int, folder: int) -> int:
        path = _text(name)
        code = _DELETE(self._real.contents.xDelete)(cast(self._real, c_void_p), name, folder)
        if path not in self._files:
            return int(code)
        return self._noted(Deleted(os.path.basename(path), bool(folder)), code)

    def _noted(self, move: Move, code: int) -> int:
        if code == 0:
            self.moves.append(move)
        return code


def load(path: Path) -> Sequence[Move]:
    """Return what a disk has noted."""
    moves: list[Move] = pickle.loads(path.read_bytes())
    return moves


def _text(name: int | None) -> str:
    return os.fsdecode(string_at(name)) if name else ""


def _library() -> Any:
    """Return the SQLite that Python uses; raise `RuntimeError` where it cannot be reached."""
    library = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
    try:
        library.sqlite3_vfs_find.restype = POINTER(_Layer)
        library.sqlite3_vfs_register.argtypes = [c_void_p, c_int]
    except AttributeError as missing:
        raise RuntimeError(
            "power cuts cannot be simulated with this Python: its SQLite is built in without the names "
            "sqlite3_vfs_find and sqlite3_vfs_register; use a Python that is linked with libsqlite3"
        ) from missing
    return library
