"""A function for workers that knows what was done to each item."""

from __future__ import annotations

from typing import Any

import trio


class Book:
    """Runs items: each takes `seconds`, and fails if it is in `errors`. Notes when each was entered and how it ended."""

    def __init__(self, seconds: float = 1.0, errors: dict[Any, BaseException] | None = None) -> None:
        self.seconds = seconds
        self.errors = errors or {}
        self.entered: list[Any] = []
        self.ended: list[Any] = []
        self.broken_off: list[Any] = []
        self.times: dict[Any, tuple[float, float]] = {}
        self.inside = self.most = 0

    async def run(self, item: Any) -> str:
        """Be the function."""
        self.entered.append(item)
        self.inside += 1
        self.most = max(self.most, self.inside)
        began_at = trio.current_time()
        try:
            await trio.sleep(self.seconds)
        except BaseException:
            self.broken_off.append(item)
            raise
        finally:
            self.inside -= 1
        self.times[item] = (began_at, trio.current_time())
        self.ended.append(item)
        if item in self.errors:
            raise self.errors[item]
        return f"{item}!"
