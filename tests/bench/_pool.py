"""Section `pool`: what a lease of an idle connection costs, uncontended, against a checkpoint."""

from __future__ import annotations

import trio

import trioresil

from ._measure import Contender, Plan, per_call


def pool(plan: Plan) -> dict[str, float]:
    """Measure µs for a block, by contender."""
    return trio.run(_pool, plan)


async def _pool(plan: Plan) -> dict[str, float]:
    limiter = trio.CapacityLimiter(10)

    async def bare(value: int) -> object:
        return value

    async def checkpoint(value: int) -> object:
        await trio.lowlevel.checkpoint()
        return value

    async def limited(value: int) -> object:
        async with limiter:
            return value

    async with trioresil.open_pool(_connect) as idle:

        async def leased(value: int) -> object:
            async with idle.connection():
                pass
            return value

        calls = {
            "bare block": bare,
            "checkpoint": checkpoint,
            "CapacityLimiter, async with": limited,
            "open_pool, acquire and release": leased,
        }
        measured = await per_call([Contender(key, call) for key, call in calls.items()], plan)
    return measured


class _Connection:
    """Nothing, that can be closed."""

    async def aclose(self) -> None:
        """Close."""


async def _connect() -> _Connection:
    return _Connection()
