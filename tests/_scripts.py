"""Calls that go as written: what each attempt does, and when it arrived; and every form in which a Retry makes a call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
import trio

import trioresil
from trioresil.abc import Policy

Link = Callable[[tuple[Any, ...], Mapping[str, Any]], Awaitable[Any]]


@attrs.frozen
class After:
    """A step that takes some time."""

    seconds: float
    step: Any


@attrs.frozen
class Refuse:
    """A step that never starts: a queue refuses it."""

    error: trioresil.TrioresilError


def refuse(retry_after: float | None = None, name: str = "gate") -> Refuse:
    """Return a step that a queue refuses with a new RejectedError."""
    return Refuse(trioresil.RejectedError(name, retry_after))


class Script(Policy):
    """A policy and the function inside of it, which take the next step at each call: an exception is raised, a value returned.

    The last step is repeated.
    """

    name = "script"

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.began_at: list[float] = []
        self.run = self(_perform)

    def link(self, inner: Link) -> Link:
        async def link(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            self.began_at.append(trio.current_time())
            step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
            if isinstance(step, After) and isinstance(step.step, Refuse):
                await trio.sleep(step.seconds)
                step = step.step
            if isinstance(step, Refuse):
                raise step.error
            return await inner((step,), {})

        return link

    def statistics(self) -> None:
        return None


async def _perform(step: Any) -> Any:
    if isinstance(step, After):
        await trio.sleep(step.seconds)
        step = step.step
    if isinstance(step, BaseException):
        raise step
    return step


async def by_call(retry: trioresil.Retry, fn: Callable[[], Awaitable[Any]]) -> Any:
    return await retry.call(fn)


async def by_decorator(retry: trioresil.Retry, fn: Callable[[], Awaitable[Any]]) -> Any:
    return await retry(fn)()


async def by_bind(retry: trioresil.Retry, fn: Callable[[], Awaitable[Any]]) -> Any:
    return await retry.bind(fn)()


async def by_loop(retry: trioresil.Retry, fn: Callable[[], Awaitable[Any]]) -> Any:
    result = None
    async for attempt in retry:
        with attempt:
            result = await fn()
            attempt.result = result
    return result


async def by_loop_with_return(retry: trioresil.Retry, fn: Callable[[], Awaitable[Any]]) -> Any:
    result = None
    async for attempt in retry:
        with attempt:
            result = await fn()
            attempt.result = result
            if retry.on_result is None or not retry.on_result(result):
                return result
    return result


Form = Callable[[trioresil.Retry, Callable[[], Awaitable[Any]]], Awaitable[Any]]
FORMS: dict[str, Form] = {"call": by_call, "loop": by_loop}
OTHER_FORMS: dict[str, Form] = {"decorator": by_decorator, "bind": by_bind, "loop with return": by_loop_with_return}
"""The same code as one of the two above: a few tests will do."""
