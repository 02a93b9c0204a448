"""The unfinished file of a download: `name.part` beside its target, and `name.part.json`, which says what it is a part of.

The law of this file:

1. What is in the part is a prefix of the version that the note beside it names: the part is emptied before the note changes, and
   the note is there before the first byte. So its length is all that has to be known to go on, after a crash too.
2. Nobody sees the target before it is whole: it comes there by one rename, after its contents have reached the disk.
3. One writer: the part is locked as long as it is open, where the system can lock files.

Everything in here blocks: it is called in threads, one call at a time. The note holds no URL, since URLs hold secrets, but a
digest of it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from typing import Any, Final

import attrs

try:
    import fcntl
except ImportError:  # pragma: no cover: Windows
    fcntl = None  # type: ignore[assignment]

READ_BYTES: Final = 4 * 1024 * 1024
_IN_USE: Final = {errno.EWOULDBLOCK, errno.EACCES}


@attrs.frozen
class Version:
    """One state of a resource: what tells it from the others, and how long it is."""

    source: str
    """Digest of the URL."""
    validator: str | None
    """What If-Range takes: a strong entity tag, or a date of last modification. None: it can't be resumed."""
    total: int | None
    """Its length in bytes, if that is known."""


class PartFile:
    """The bytes of a download that have come so far."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.path = f"{target}.part"
        self.size = 0
        self.version: Version | None = None
        self._note = f"{self.path}.json"
        self._fd = -1

    def open(self, source: str) -> None:
        """Open and lock the part, and keep what it holds if that came from the same URL and can be gone on with."""
        if os.path.isdir(self.target):
            raise IsADirectoryError(errno.EISDIR, "path must be the path of a file", self.target)
        self._fd = _open_locked(self.path)
        try:
            version = self._noted()
            self.size = os.fstat(self._fd).st_size
            fits = version is not None and (version.total is None or self.size <= version.total)
            if version is not None and fits and version.source == source and version.validator is not None:
                self.version = version
            else:
                self.empty()
        except BaseException:
            os.close(self._fd)
            raise

    def begin(self, version: Version) -> None:
        """Begin anew, with another version."""
        self.empty()
        with open(self._note, "w", encoding="ascii") as file:
            json.dump(attrs.asdict(version), file)
        self.version = version

    def write(self, data: bytes) -> None:
        """Append. If it raises, what could be written is there, and counts."""
        rest = memoryview(data)
        os.lseek(self._fd, self.size, os.SEEK_SET)
        while rest:
            written = os.write(self._fd, rest)
            self.size += written
            rest = rest[written:]

    def empty(self) -> None:
        """Drop what it holds."""
        os.ftruncate(self._fd, 0)
        self.size = 0
        self.version = None

    def feed(self, digest: Any, start: int) -> int:
        """Give a digest the next bytes from `start`; returns how many."""
        os.lseek(self._fd, start, os.SEEK_SET)
        data = os.read(self._fd, READ_BYTES)
        digest.update(data)
        return len(data)

    def commit(self) -> None:
        """Put the whole file in its place, and close."""
        os.fsync(self._fd)
        os.replace(self.path, self.target)
        # The file is there now: nothing may raise any more.
        with contextlib.suppress(OSError):
            os.unlink(self._note)
        with contextlib.suppress(OSError):  # some file systems can't
            _sync_directory(os.path.dirname(self.target))
        self._close()

    def close(self) -> None:
        """Close, and leave what can be gone on with; nothing at all if there is nothing. No-op when closed."""
        if self._fd < 0:
            return
        if self.size == 0 or self.version is None or self.version.validator is None:
            for path in (self._note, self.path):
                with contextlib.suppress(OSError):
                    os.unlink(path)
        self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)

    def _noted(self) -> Version | None:
        try:
            with open(self._note, encoding="ascii") as file:
                version = Version(**json.load(file))
        except (FileNotFoundError, ValueError, TypeError):  # none, or cut off by a crash
            return None
        kinds = (
            isinstance(version.source, str),
            isinstance(version.validator, str),
            isinstance(version.total, int | None),
        )
        return version if all(kinds) else None


def source_of(url: str) -> str:
    """Return what stands for a URL in a note."""
    return hashlib.sha256(url.encode()).hexdigest()


def _open_locked(path: str) -> int:
    """Open the part for one writer. The file that was locked must still be the one with this name: its writer may have ended."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            _lock(fd, path)
            if os.path.exists(path) and os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _lock(fd: int, path: str) -> None:
    if fcntl is None:  # pragma: no cover: Windows
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno in _IN_USE:
            raise BlockingIOError(exc.errno, "another download to this path is under way", path) from None
        # A file system that has no locks: then it is for the user to start one download for each path.


def _sync_directory(directory: str) -> None:
    if os.name == "nt":  # pragma: no cover: directories can't be opened there
        return
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
