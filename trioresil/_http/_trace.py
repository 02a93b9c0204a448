"""Telling a request's `trace` extension of what is done for it, in the words of the core libraries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T", bound=Any)
Trace: TypeAlias = Callable[[str, dict[str, Any]], Awaitable[object]]


async def traced(trace: Trace | None, name: str, details: dict[str, Any], work: Awaitable[T]) -> T:
    """Do a step of the work for a request, and tell of its beginning and its end."""
    if trace is None:
        return await work
    await trace(f"{name}.started", details)
    try:
        result = await work
    except BaseException as exc:
        await trace(f"{name}.failed", {"exception": exc})
        raise
    try:
        await trace(f"{name}.complete", {"return_value": result})
    except BaseException:
        if result is not None:
            result.close_now()
        raise
    return result
