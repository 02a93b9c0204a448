"""How a command ends early: the first SIGINT or SIGTERM is told to it, a second one does what it does without us."""

from __future__ import annotations

import signal
from collections.abc import Callable

import trio


async def tell_of_signal(stop: Callable[[int], object], *, task_status: trio.TaskStatus[None]) -> None:
    """Call `stop` with the number of the first signal, then let go of both."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        number = await anext(aiter(signals))
    stop(number)
