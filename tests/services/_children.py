"""Children that are run as they are told, and write down what becomes of them."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from trioresil import stop_requested

Outcome = BaseException | None


class Stage:
    """The log of its children: "a+ 2" if a began at 2 s, "a! 3" if it was up at 3, "a- 4" if it ended at 4."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.living: list[str] = []
        self.reasons: list[str | None] = []  # of cancellations

    def note(self, what: str) -> None:
        self.log.append(f"{what} {trio.current_time():g}")

    def take(self) -> list[str]:
        """Return what was written since the last time."""
        log, self.log = self.log, []
        return log

    def child(
        self,
        name: str,
        *lives: tuple[float, Outcome],
        up: float = 0.0,
        ends: float = 0.0,
        obeys: float = math.inf,
        failing: Exception | None = None,
    ) -> Callable[..., Awaitable[None]]:
        """Return a child.

        Its n-th run is up after `up` seconds, and then lasts for `lives[n]` seconds and ends with that outcome; for ever if there
        is none. If cancelled it takes `ends` seconds to clean up, and raises `failing` then. If it is asked to stop it does so
        within `obeys` seconds; if that is infinite, it doesn't listen.
        """
        script = iter(lives)

        async def run(*, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
            seconds, outcome = next(script, (math.inf, None))
            self.note(f"{name}+")
            self.living.append(name)
            try:
                stop = stop_requested() if obeys < math.inf else trio.Event()
                await trio.sleep(up)
                self.note(f"{name}!")
                task_status.started(len(self.log))
                with trio.move_on_after(seconds):
                    await stop.wait()
                    await trio.sleep(obeys)
                    return
                if outcome is not None:
                    raise outcome
            except trio.Cancelled as exc:
                self.reasons.append(exc.reason)
                raise
            finally:
                if ends and trio.current_effective_deadline() == -math.inf:
                    with trio.CancelScope(shield=True):
                        await trio.sleep(ends)
                self.living.remove(name)
                self.note(f"{name}-")
                if failing is not None and trio.current_effective_deadline() == -math.inf:
                    raise failing

        run.__qualname__ = name
        return run


async def fail(error: BaseException, *args: Any) -> None:
    raise error
