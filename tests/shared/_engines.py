"""Each engine with what a test can do to its server, so that one test is about all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import trio

from tests.shared._servers import KINDS, Server, Servers
from trioresil.redis import MemoryEngine, Script, ScriptEngine, Store, open_redis

ENGINES = ("memory", *KINDS)
WITHIN = 5.0
"""Seconds: as long as a test waits for an answer that must come."""


class Rig(Protocol):
    """An engine's server, as a test handles it."""

    def open(self) -> Any:
        """The engine, to be entered."""

    def freeze(self) -> None: ...
    def thaw(self) -> None: ...
    def kill(self) -> None: ...
    def start(self) -> None: ...
    def forget_scripts(self) -> None: ...


class MemoryRig:
    """A MemoryEngine is its own server."""

    def __init__(self) -> None:
        self.engine = MemoryEngine()

    def open(self) -> MemoryEngine:
        return self.engine

    def freeze(self) -> None:
        self.engine.freeze()

    def thaw(self) -> None:
        self.engine.resume()

    def kill(self) -> None:
        self.engine.kill()

    def start(self) -> None:
        self.engine.flush()
        self.engine.resume()

    def forget_scripts(self) -> None:
        pass


class ServerRig:
    """The built-in engine over a server of its own."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.freeze, self.thaw, self.kill = server.freeze, server.thaw, server.kill

    def open(self) -> Any:
        return open_redis(self.server.url)

    def start(self) -> None:
        self.server.start()

    def forget_scripts(self) -> None:
        self.server.command("SCRIPT", "FLUSH")


def rig_of(kind: str, servers: Servers) -> Rig:
    return MemoryRig() if kind == "memory" else ServerRig(servers.new(kind))


def _echo(store: Store, keys: Sequence[str], args: Sequence[str]) -> Any:
    return [*keys, *args]


def _kinds(store: Store, keys: Sequence[str], args: Sequence[str]) -> Any:
    return [7, "text", None, 1, [], [1, ["deep"]]]


def _add(store: Store, keys: Sequence[str], args: Sequence[str]) -> int:
    value = int(store.load(keys[0]) or 0) + int(args[0])
    store.save(keys[0], value, ttl=60)
    store.publish("trioresil:sums", str(value))
    return value


ECHO = Script("echo", "return {KEYS[1], unpack(ARGV)}", _echo)
KINDS_OF_REPLY = Script("kinds", "return {7, 'text', false, true, {}, {1, {'deep'}}}", _kinds)
NOTHING = Script("nothing", "return nil", lambda store, keys, args: None)
ADD = Script(
    "add",
    """
    local sum = redis.call('INCRBY', KEYS[1], ARGV[1])
    redis.call('PEXPIRE', KEYS[1], 60000)
    redis.call('PUBLISH', 'trioresil:sums', tostring(sum))
    return sum
    """,
    _add,
)


async def add(engine: ScriptEngine, n: int = 1, *, within: float = WITHIN, late: Any = None, key: str = "{sum}") -> Any:
    return await engine.eval(ADD, [key], [n], within=within, late=late)


async def until(check: Callable[[], object], *, seconds: float = 10) -> None:
    """Wait until something is so."""
    with trio.fail_after(seconds):
        while not check():  # noqa: ASYNC110 -- what is waited for is in another process
            await trio.sleep(0.002)
