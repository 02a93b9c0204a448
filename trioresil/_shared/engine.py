"""What a shared policy needs of a server: to run a script there, to hear of messages, and to be told when it is away.

An answer may come when nobody waits for it any more, because the caller was cancelled or its time was up. What the script did
has happened all the same: a slot was reserved, a permit granted. So whoever evaluates a script may say who takes an answer that
comes late; nothing else could give back what it brought.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import attrs

Argument: TypeAlias = str | int | float
Reply: TypeAlias = Any  # None, int, bytes, or a list of replies
Late: TypeAlias = Callable[[Reply], None]
Receive: TypeAlias = Callable[[str | None], None]


class Store(Protocol):
    """Where the Python form of a script keeps its state: one object for each key, and the server's clock."""

    @property
    def now(self) -> int:
        """The server's time in microseconds since 1970, the same throughout one script."""

    def load(self, key: str) -> Any:
        """Return the object at a key, None if there is none or its time was up."""

    def save(self, key: str, value: object, *, ttl: float) -> None:
        """Keep an object for `ttl` seconds; in place of what was there."""

    def delete(self, key: str) -> None:
        """Forget what is at a key."""

    def publish(self, channel: str, message: str) -> None:
        """Send a message to all who have subscribed, once the script has ended."""


@attrs.frozen(eq=False)
class Script:
    """One atomic step on the server, in two forms that do the same."""

    name: str
    """Its name, for errors."""
    lua: str
    """For a server: Lua that uses KEYS and ARGV, and `redis.call('TIME')` as the only clock."""
    local: Callable[[Store, Sequence[str], Sequence[str]], Reply] = attrs.field(repr=False)
    """For the in-memory engine: takes the store, the keys and the arguments as text; returns int, str, list or None."""


class EngineDownError(Exception):
    """A script's answer did not come: the server is away, or too slow. Whether the script ran is not known.

    Never leaves this package: a policy does what its on_unavailable says.
    """


class ScriptRefusedError(Exception):
    """The server refused a script for a reason that won't pass: wrong type at the key, no permission.

    Never leaves this package: a policy raises a SharedStateError with its own name and key.
    """


class Subscription(Protocol):
    """Somebody who hears of a channel, until closed."""

    def close(self) -> None:
        """Hear no more. Synchronous; does nothing the second time."""


@runtime_checkable
class ScriptEngine(Protocol):
    """A server that runs scripts, through one client. Implement it to use another client than the built-in one.

    An engine belongs to the block that opened it, and to that run of Trio.
    """

    name: str
    """Its name in events and statistics."""

    @property
    def available(self) -> bool:
        """Whether the server answers, as far as is known. While False, `eval` fails at once."""

    async def eval(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Argument],
        *,
        within: float,
        late: Late | None = None,
    ) -> Reply:
        """Run a script and return its answer. Not a checkpoint before the script was sent; one afterwards.

        Args:
          script (Script): what to run.
          keys (list of str): the keys that it touches; all with the same hash tag.
          args (list of str, int or float): its arguments.
          within (float, seconds): how long to wait for the answer.
          late ((reply) -> None): called with the answer if it comes after this call has raised, by a cancellation or for
            want of time; not called if it never comes. Synchronous; must not raise.

        Cancellation: the script may have run; then `late` gets its answer.

        Raises:
          EngineDownError: no answer in time, or none to be had.
          ScriptRefusedError: the server refused it.
        """

    def subscribe(self, channel: str, receive: Receive) -> Subscription:
        """Hear of a channel's messages.

        Args:
          channel (str): its name.
          receive ((str or None) -> None): called with each message, in the engine's task. Called with None whenever the
            subscription begins or begins anew: what was sent before may have been missed. Synchronous; must not raise.
        """

    def start_soon(self, fn: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run a task inside of the engine's block, until that block ends; it is cancelled there. Must not raise."""

    def watch(self, changed: Callable[[bool], None]) -> Subscription:
        """Call `changed(available)` whenever the server has gone away or come back. Synchronous; must not raise."""


def as_text(argument: Argument) -> str:
    """Return an argument as a script gets it. A float keeps all its digits, which clients may cut off."""
    return argument if isinstance(argument, str) else repr(argument)
