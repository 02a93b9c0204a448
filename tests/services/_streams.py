"""Sessions that go as written: what each does, and when it began."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from trioresil import Stream, StreamLink

Step = Callable[[StreamLink[Any]], Awaitable[object]]


class Sessions:
    """A session function that takes the next script at each call; the last is repeated.

    A script is a list of steps: a number sleeps, an exception is raised, an async function is called with the link, "alive" and
    "finish" call the link's method, ("item", token) sends an item with a token, and any other text is sent as an item.
    """

    def __init__(self, *scripts: list[Any]) -> None:
        self.scripts = list(scripts)
        self.began_at: list[float] = []
        self.ended_at: list[float] = []
        self.links: list[StreamLink[Any]] = []
        self.resumes: list[Any] = []
        self.inside = 0

    async def __call__(self, link: StreamLink[Any]) -> None:
        assert self.inside == 0
        self.inside += 1
        self.began_at.append(trio.current_time())
        self.links.append(link)
        self.resumes.append(link.resume)
        try:
            for step in self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]:
                await perform(link, step)
        finally:
            self.ended_at.append(trio.current_time())
            self.inside -= 1


async def perform(link: StreamLink[Any], step: Any) -> None:
    if isinstance(step, (int, float)):
        await trio.sleep(step)
    elif isinstance(step, BaseException):
        raise step
    elif isinstance(step, tuple):
        await link.send_item(step[0], resume=step[1])
    elif step == "alive":
        link.alive()
    elif step == "finish":
        link.finish()
    elif isinstance(step, str):
        await link.send_item(step)
    else:
        await step(link)


async def read(stream: Stream[Any], number: int) -> list[Any]:
    """Return so many items."""
    return [await anext(stream) for _ in range(number)]


async def read_all(stream: Stream[Any]) -> list[Any]:
    """Return what comes until the stream ends."""
    return [item async for item in stream]


FOREVER = 1e9
