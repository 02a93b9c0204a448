"""What the tests of the health monitor share: things to check, and chance that falls in the middle."""

from __future__ import annotations

from collections import deque

import trio
import trio.testing

from tests.kernel._prove import FixedChance


def at_once() -> FixedChance:
    """Chance by which a first check starts at once, and every other exactly an interval after the one before."""
    return FixedChance(0.0, 0.5)


class Service:
    """Something to check. It notes when it was asked, and answers as listed; then as it is set."""

    def __init__(self, *answers: BaseException | bool | None, takes: float = 0.0) -> None:
        self.answers = deque(answers)
        self.takes = takes
        self.error: BaseException | None = None
        self.asked_at: list[float] = []
        self.inside = 0
        self.ended = 0
        self._next = trio.Event()

    async def check(self) -> object:
        self.asked_at.append(trio.current_time())
        assert self.inside == 0, "a check overlaps itself"
        self.inside += 1
        try:
            await trio.sleep(self.takes)
        finally:
            self.inside -= 1
            self.ended += 1
            self._next.set()
        answer = self.answers.popleft() if self.answers else self.error
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def answered(self) -> None:
        """Wait until a check that is asked for from now on, or runs, has ended, and has been recorded."""
        self._next = trio.Event()
        await self._next.wait()
        await trio.testing.wait_all_tasks_blocked()
