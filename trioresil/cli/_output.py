"""Lines to standard output, written by a thread: a reader that pauses, as `| less` does, must not stop the program's clock.

The thread is one of its own, and a daemon: a write that never ends can't be cancelled, and must not keep the program from ending.
It writes to the descriptor, as a lock of sys.stdout that it held would be missed when the interpreter ends.
"""

from __future__ import annotations

import os
import queue
import select
import threading
from contextlib import suppress
from typing import Final

import trio

MAX_WAITING: Final = 10_000
FLUSH_SECONDS: Final = 2.0


def send_nowhere(descriptor: int) -> None:
    """Let what is still written there go nowhere, so that the interpreter doesn't complain when it flushes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


class OutputError(Exception):
    """Standard output takes no more. The message says why; `reader_left`: whoever read it has gone, which is no fault."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output can't be written: {error.strerror or error}")
        self.reader_left = isinstance(error, BrokenPipeError)


class Output:
    """Lines in the order in which they were given. One whose reader is too slow loses lines, and is told how many.

    Args:
      descriptor (int): what to write to.
    """

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._lost = 0
        self._given = 0
        self._written = 0  # by the thread, which alone changes it
        self._over = trio.Event()  # all is written, or nothing more can be
        self._error: OSError | None = None
        self._thread: threading.Thread | None = None

    def put(self, line: str) -> None:
        """Have a line written soon."""
        if self._waiting.qsize() >= MAX_WAITING:
            self._lost += 1
        else:
            self.write(f"{line}\n")

    def write(self, text: str) -> None:
        """Have a text written soon, however much is waiting."""
        self._given += 1
        self._waiting.put(text)

    @property
    def idle(self) -> bool:
        """Whether all that was given has been written."""
        return self._given == self._written

    def take_lost(self) -> int:
        """Return how many lines were lost since this was last asked; 0 as long as there is no room to tell it."""
        if self._waiting.qsize() >= MAX_WAITING:
            return 0
        lost, self._lost = self._lost, 0
        return lost

    async def run(self) -> None:
        """Write until cancelled. OutputError if that is not possible."""
        self._start()
        await self._over.wait()
        self._raise()

    async def flush(self) -> None:
        """Write what still waits, within reason, and no more after that. OutputError if that is not possible."""
        self._start()
        self._waiting.put(None)
        with trio.move_on_after(FLUSH_SECONDS):
            await self._over.wait()
        self._raise()

    def _start(self) -> None:
        if self._thread is None:
            token = trio.lowlevel.current_trio_token()
            self._thread = threading.Thread(target=self._work, args=[token], daemon=True, name="trioresil output")
            self._thread.start()

    def _raise(self) -> None:
        if self._error is not None:
            raise OutputError(self._error) from self._error

    def _work(self, token: trio.lowlevel.TrioToken) -> None:
        try:
            while (text := self._waiting.get()) is not None:
                rest = memoryview(text.encode(errors="backslashreplace"))
                while rest:
                    rest = rest[self._write(rest) :]
                self._written += 1
        except OSError as exc:
            self._error = exc
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(self._over.set)

    def _write(self, data: memoryview) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:  # whoever shares it has made it so
            select.select([], [self._descriptor], [])
            return 0
