"""Ctrl-C at a chosen moment of a run."""

from __future__ import annotations

import signal
import sys
from collections.abc import Awaitable, Callable
from types import FrameType

import trio
from trio.testing import MockClock


class Interrupt:
    """Sends SIGINT at a given moment of those at which Python looks for signals: as a function begins, and after one in C."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.moments = 0

    def start(self) -> None:
        sys.setprofile(self._profile)

    def _profile(self, frame: FrameType, event: str, arg: object) -> None:
        if event in ("call", "c_return") and "/trioresil/" in frame.f_code.co_filename.replace("\\", "/"):
            self.moments += 1
            if self.moments == self.at:
                signal.raise_signal(signal.SIGINT)


def interrupted(main: Callable[[Callable[[], None]], Awaitable[None]], at: int) -> bool:
    """Run main, which says when to start counting, with a Ctrl-C at one moment; False if it ended before that."""
    interrupt = Interrupt(at)
    raised = False
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in a background job
    profiler = sys.getprofile()
    try:
        trio.run(main, interrupt.start, clock=MockClock(autojump_threshold=0))
    except KeyboardInterrupt:
        raised = True
    finally:
        sys.setprofile(profiler)
        signal.signal(signal.SIGINT, handler)
    assert raised is (interrupt.moments >= at)
    return raised
