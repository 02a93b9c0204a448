"""The types of a shutdown, pinned. Never run."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import assert_type

import trioresil


async def takes_what_can_be_drained() -> None:
    async with (
        trioresil.open_health_monitor() as health,
        trioresil.open_shutdown(signals={signal.SIGTERM}, health=health) as shutdown,
    ):
        assert_type(shutdown, trioresil.Shutdown)
        shutdown.register(trioresil.Bulkhead(1))
        trigger: Callable[..., Awaitable[None]] = shutdown.wait
        await trigger()
        assert_type(shutdown.requested, bool)
        assert_type(shutdown.report, trioresil.ShutdownReport)
        assert_type(shutdown.report.running, tuple[trioresil.DrainReport, ...])
        assert_type(shutdown.statistics(), trioresil.ShutdownStatistics)
        shutdown.register(5)  # type: ignore[arg-type]
    trioresil.open_shutdown(health=5)  # type: ignore[arg-type]
    trioresil.open_shutdown(signals=signal.SIGTERM)  # type: ignore[arg-type]
