"""Connections to nowhere, for the pool's tests: they are counted, and can be slow, fail, or refuse to close."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

Delay = float | Callable[[], float]


class Connection:
    """One connection; it may be in use by one user at a time."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_open = True
        self.is_used = False

    def __repr__(self) -> str:
        return f"<connection {self.number}>"

    def __enter__(self) -> Connection:
        assert self.is_open, f"{self} is closed"
        assert not self.is_used, f"{self} is in use"
        self.is_used = True
        return self

    def __exit__(self, *_: object) -> None:
        self.is_used = False


class Peer:
    """What is connected to. Each step takes its seconds; a step's errors are raised one after the other."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = seconds
        self.errors: dict[str, list[BaseException]] = {}
        self.raised: list[BaseException] = []
        self.answers: list[object] = []  # of check; True when there are none left
        self.log: list[tuple[str, int, float]] = []
        self.connections: list[Connection] = []
        self.busy = 0  # being connected or closed
        self.most = 0

    @property
    def open(self) -> int:
        """How many connections exist, those included that are being made or closed."""
        return self.busy + sum(each.is_open for each in self.connections)

    async def _step(self, name: str, number: int) -> None:
        self.log.append((name, number, trio.current_time()))
        if name in self.seconds:
            await trio.sleep(self.seconds[name])
        if self.errors.get(name):
            self.raised.append(self.errors[name].pop(0))
            raise self.raised[-1]

    def fail(self, step: str, *errors: BaseException) -> None:
        self.errors[step] = list(errors)

    async def connect(self) -> Connection:
        self.busy += 1
        self.most = max(self.most, self.open)
        try:
            await self._step("connect", len(self.connections))
        finally:
            self.busy -= 1
        connection = Connection(len(self.connections))
        self.connections.append(connection)
        return connection

    async def check(self, connection: Connection) -> Any:
        assert connection.is_open
        await self._step("check", connection.number)
        return self.answers.pop(0) if self.answers else True

    async def reset(self, connection: Connection) -> None:
        assert connection.is_open
        await self._step("reset", connection.number)

    async def close(self, connection: Connection) -> None:
        assert connection.is_open, f"{connection} is closed twice"
        assert not connection.is_used, f"{connection} is closed while it is used"
        try:
            await self._step("close", connection.number)
        finally:
            connection.is_open = False

    def times(self, name: str) -> list[tuple[int, float]]:
        """Return which connections a step was made with, and when."""
        return [(number, at) for step, number, at in self.log if step == name]
