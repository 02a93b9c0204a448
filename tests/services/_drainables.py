"""Things to register with a shutdown, which do what a test wants of them."""

from __future__ import annotations

import trio


class Door:
    """A Drainable that says when it was closed, and is drained so many seconds after that."""

    def __init__(self, name: str = "door", seconds: float = 0.0, *, error: Exception | None = None) -> None:
        self.name = name
        self.seconds = seconds
        self.error = error
        self.closed_at: list[float] = []
        self.watched = 0

    def close_admission(self) -> None:
        self.closed_at.append(trio.current_time())

    async def wait_drained(self) -> None:
        self.watched += 1
        await trio.sleep(self.seconds)
        if self.error is not None:
            raise self.error


class Jammed:
    """A Drainable without a name, which can't be closed."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def close_admission(self) -> None:
        raise self.error

    async def wait_drained(self) -> None:
        raise AssertionError("it was never closed")


class Readiness:
    """Stands for a health monitor."""

    draining = False
