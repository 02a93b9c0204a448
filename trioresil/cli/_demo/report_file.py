"""The file that a report goes to: its place is taken before the run, and whoever reads it sees the old report or the new one."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from typing import Final

RESERVED_BYTES: Final = 512 * 1024
"""More than a report has."""


class ReportFile:
    """A file that will be written, or else stays as it is.

    Creating it shows that it can be written, and reserves the room. It must then be closed: what has not been written by then
    leaves no trace.

    Args:
      path (str): where the report will be. A symbolic link stays one.

    Raises:
      OSError: it can't be written.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._goal = os.path.realpath(path)
        self._mode = _mode_of(self._goal)
        directory, name = os.path.split(self._goal)
        self._descriptor, self._draft = tempfile.mkstemp(prefix=f".{name[:100]}.", suffix=".tmp", dir=directory)
        self._open = True
        try:
            _reserve(self._descriptor)
        except BaseException:
            self.close()
            raise

    def write(self, text: str) -> None:
        """Write the report and put it where it belongs, at once. OSError: the disk takes it no more, and nothing has changed."""
        data = memoryview(text.encode())
        size = len(data)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        while data:
            data = data[os.write(self._descriptor, data) :]
        os.ftruncate(self._descriptor, size)
        os.fsync(self._descriptor)
        self._close_draft()  # Windows renames no open file
        os.chmod(self._draft, self._mode)
        os.replace(self._draft, self._goal)

    def close(self) -> None:
        """Remove the draft, if it has not become the report."""
        self._close_draft()
        with suppress(FileNotFoundError):
            os.unlink(self._draft)

    def _close_draft(self) -> None:
        if self._open:
            self._open = False
            os.close(self._descriptor)


def _mode_of(path: str) -> int:
    """Return the mode of the file that is to be replaced; else what a new one gets. OSError if it can't be replaced."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        mask = os.umask(0o077)
        os.umask(mask)
        return 0o666 & ~mask
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError("it is a directory")
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is no ordinary file")  # to replace /dev/null with a report would be a bad joke
    if not os.access(path, os.W_OK):
        raise PermissionError("it is write-protected")
    return stat.S_IMODE(found.st_mode)


def _reserve(descriptor: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, RESERVED_BYTES)
    else:  # macOS
        os.write(descriptor, bytes(RESERVED_BYTES))
        os.fsync(descriptor)
