"""The engine over Redis or Valkey: scripts go out on connections that the engine owns, never through a client's pool.

A caller sends synchronously and waits for an event. So a cancellation can't lose a connection, nor cross two answers: what was
asked is answered in order, and an answer that nobody waits for any more goes to whoever was named for it.
"""

from __future__ import annotations

import hashlib
import random
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from contextvars import Context, copy_context
from types import TracebackType
from typing import Any, Final
from weakref import WeakKeyDictionary

import attrs
import trio
from coredis.exceptions import AskError, ClusterDownError, MovedError, NoScriptError, ReadOnlyError
from trio.lowlevel import cancel_shielded_checkpoint, enable_ki_protection

from .. import _instruments
from .._checks import chance, flag, seconds, text
from .._errors import SharedStateError
from .._events import SharedStateLost, SharedStateRestored
from .._services._tasks import Tasks
from .engine import Argument, EngineDownError, Late, Receive, Reply, Script, ScriptRefusedError, Subscription, as_text
from .redis_connection import Connection, Request
from .redis_connections import Settings, UnfitError, open_connection, passes, said
from .redis_keeper import Keeper
from .redis_listener import Listener
from .redis_sites import Cluster, Single, Site
from .redis_urls import Address, Place, read

OPENING: Final = 1.0
"""Seconds for which opening waits for a server that is away."""
LAST_WORDS: Final = 0.2
"""Seconds for which closing waits until the server has what was sent last."""
MOST_TRIES: Final = 5
"""Times that one script is sent, at most, while a cluster points elsewhere."""


_shas: WeakKeyDictionary[Script, bytes] = WeakKeyDictionary()


@attrs.frozen(kw_only=True)
class RedisEngineStatistics:
    """Snapshot of a RedisEngine."""

    name: str
    """Its name."""
    available: bool
    """Whether a server answers, as far as is known."""
    error: str | None
    """Why none does."""
    servers: tuple[str, ...]
    """Where scripts are sent: the server, the primary, or the primaries of the cluster."""
    evaluations: int
    """Scripts sent, those for a second time too, as when the server didn't know them."""
    timeouts: int
    """Answers that did not come in time."""
    late: int
    """Answers that came when nobody waited for them any more, and were handed over."""
    connections: int
    """Connections made for scripts since it was opened."""
    subscriptions: int
    """Who hears of a channel."""
    refused_channels: tuple[str, ...]
    """Channels that the server won't let us hear."""


class RedisEngine:
    """A server that holds shared state, and the tasks that keep the connections to it. `open_redis` makes one."""

    name: str
    """Its name in events, errors and statistics."""

    def __init__(self, name: str, settings: Settings, rng: random.Random) -> None:
        self.name = name
        self._settings = settings
        self._place: Place = settings.place
        self._rng = rng
        self._tasks = Tasks(f"engine {name!r}")  # connections: they outlive what policies have started
        self._of_policies = Tasks(f"engine {name!r}")
        self._stack = AsyncExitStack()
        self._closing = False
        self._context: Context | None = None
        self._open = False
        self._opening = True
        kind = Cluster if settings.place.kind == "cluster" else Single
        self._site: Site = kind(settings, self._tasks, self._changed, self._connected, rng)
        self._listener = Listener(name, self._tasks, find=self._find_a_server, open=self._open_connection, rng=rng)
        self._came_up = trio.Event()
        self._watchers: list[_Watcher] = []
        self._evaluations = self._timeouts = self._late = 0

    @property
    def available(self) -> bool:
        """Whether a server answers, as far as is known. Of a cluster: whether any of its primaries does."""
        return self._site.error is None

    # -- opening and closing ---------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def __aenter__(self) -> RedisEngine:
        await self._stack.enter_async_context(self._tasks)
        self._stack.push_async_callback(self._last_words)
        await self._stack.enter_async_context(self._of_policies)
        self._context = copy_context()
        self._open = True
        if _instruments.installed:
            _instruments.announce(self)
        try:
            self._tasks.start_soon(self._site.run)
            await self._wait_for_the_first_connection()
        except BaseException as exc:
            self._closing = True
            await self._stack.__aexit__(type(exc), exc, exc.__traceback__)
            self._open = False
            raise
        return self

    async def _wait_for_the_first_connection(self) -> None:
        """Wait up to a second for a server that may be starting, but not for one that won't do."""
        with trio.move_on_after(OPENING):
            await self._site.settled()
            while not self.available and self._unfit() is None:
                await self._came_up.wait()
        self._site.give_up(OPENING)
        self._opening = False
        if (unfit := self._unfit()) is not None:
            raise SharedStateError(self.name, reason=str(unfit))

    def _unfit(self) -> UnfitError | None:
        """Return why a server won't do: of a cluster, any of them."""
        errors = (self._site.error, *(each.error for each in self._site.keepers))
        return next((each for each in errors if isinstance(each, UnfitError)), None)

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._of_policies.check_task()
        try:
            return await self._stack.__aexit__(kind, error, traceback)
        finally:
            self._open = False

    async def _last_words(self) -> None:
        """See that the server has what was sent last, as by tasks that gave something back when they were cancelled."""
        self._closing = True
        with trio.move_on_after(LAST_WORDS, shield=True):
            for keeper in self._site.keepers:
                if self._evaluations and keeper.is_up and keeper.connection is not None and keeper.connection.usable:
                    await keeper.connection.ask(b"PING")

    # -- scripts ---------------------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def eval(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Argument],
        *,
        within: float,
        late: Late | None = None,
    ) -> Reply:
        """Run a script; see ScriptEngine."""
        if not self._open:
            raise RuntimeError(f"engine {self.name!r} is not open: use it inside of `async with`")
        sha = _shas.get(script) or _sha_of(script)
        words = (len(keys), *keys, *map(as_text, args))
        keeper = self._site.known_keeper(keys[0]) or await self._site.keeper_for(keys[0], within)
        reply = await self._ask(keeper, (b"EVALSHA", sha, *words), within, late)
        if isinstance(reply, BaseException):
            return await self._ask_again(keeper, reply, (sha, script.lua, words), within, late)
        return reply

    async def _ask(
        self, keeper: Keeper, words: tuple[Any, ...], within: float, late: Late | None, *, asking: bool = False
    ) -> Any:
        """Send words and return the answer, be it an error of the server. Sent is sent: nothing here waits before that."""
        connection = keeper.connection
        if connection is None or keeper.error is not None or not connection.usable:
            connection, within = await self._wait_for_connection(keeper, within)
        if asking:
            connection.ask(b"ASKING")
        request = connection.ask(*words)
        self._evaluations += 1
        try:
            with trio.move_on_after(within) as scope:
                return await request
        except BaseException:
            self._hand_over(request, late)
            raise
        return await self._out_of_time(keeper, connection, request, late, within, trio.current_time() - scope.deadline)

    async def _wait_for_connection(self, keeper: Keeper, within: float) -> tuple[Connection, float]:
        """Return a connection that can be used, and what is left of the time."""
        ends_at = trio.current_time() + within
        while True:
            if keeper.connection is not None and not keeper.connection.usable:
                keeper.forget(keeper.connection)
            connection = await keeper.wait(within)
            within = max(0.0, ends_at - trio.current_time())
            if connection.usable:
                return connection, within

    async def _out_of_time(
        self,
        keeper: Keeper,
        connection: Connection,
        request: Request,
        late: Late | None,
        within: float,
        late_by: float,
    ) -> Any:
        for _ in range(2):  # our own program may have held up its loop: then the answer is here, and not read yet
            await cancel_shielded_checkpoint()
        if request.complete:
            return await request
        self._timeouts += 1
        self._hand_over(request, late)
        keeper.suspect(connection, self._tasks, within=within, late_by=late_by)
        raise EngineDownError(f"{keeper.name} did not answer within {within:g} s")

    async def _ask_again(
        self,
        keeper: Keeper,
        reply: BaseException,
        script: tuple[bytes, str, tuple[Any, ...]],
        within: float,
        late: Late | None,
    ) -> Reply:
        """Do what an error asks for: send the whole script, or send it elsewhere; raise what it means otherwise."""
        sha, lua, words = script
        ends_at = trio.current_time() + within
        command: tuple[Any, ...] = (b"EVALSHA", sha)
        asking = False
        for _ in range(MOST_TRIES):
            if isinstance(reply, NoScriptError):
                command = (b"EVAL", lua)
            elif isinstance(reply, AskError):
                keeper, asking = self._elsewhere(keeper, reply)
            else:
                break
            remaining = max(0.0, ends_at - trio.current_time())
            reply = await self._ask(keeper, (*command, *words), remaining, late, asking=asking)
            if not isinstance(reply, BaseException):
                return reply
        self._raise(keeper, reply)

    def _elsewhere(self, keeper: Keeper, error: AskError) -> tuple[Keeper, bool]:
        try:
            return self._site.redirected(error, keeper), not isinstance(error, MovedError)
        except UnfitError as exc:
            raise ScriptRefusedError(str(exc)) from None

    def _raise(self, keeper: Keeper, error: BaseException) -> Any:
        if isinstance(error, ReadOnlyError | ClusterDownError):
            self._site.refused(keeper)
        reason = said(error)
        if not isinstance(error, Exception) or passes(error) or isinstance(error, AskError):
            raise EngineDownError(f"{keeper.name}: {reason}")
        raise ScriptRefusedError(reason)

    def _hand_over(self, request: Request, late: Late | None) -> None:
        if late is not None and self._open:
            self._tasks.start_soon(self._await_late, request, late)

    async def _await_late(self, request: Request, late: Late) -> None:
        reply = await request
        if not isinstance(reply, BaseException):
            self._late += 1
            late(reply)

    # -- messages, tasks, watchers ---------------------------------------------------------------------------------------------

    def subscribe(self, channel: str, receive: Receive) -> Subscription:
        """Hear of a channel's messages; see ScriptEngine."""
        return self._listener.subscribe(channel, receive)

    def watch(self, changed: Callable[[bool], None]) -> Subscription:
        """Hear when it goes away and comes back; see ScriptEngine."""
        return _Watcher(self._watchers, changed)

    def start_soon(self, fn: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run a task in the engine's block; see ScriptEngine."""
        if not self._closing:  # an answer that comes late finds nobody who could use it
            self._of_policies.start_soon(fn, *args)

    def statistics(self) -> RedisEngineStatistics:
        """Return a snapshot."""
        error = self._site.error
        return RedisEngineStatistics(
            name=self.name,
            available=error is None,
            error=None if error is None else str(error),
            servers=tuple(each.name for each in self._site.keepers),
            evaluations=self._evaluations,
            timeouts=self._timeouts,
            late=self._late,
            connections=sum(each.connections for each in self._site.keepers),
            subscriptions=self._listener.subscriptions,
            refused_channels=tuple(self._listener.refused),
        )

    def __repr__(self) -> str:
        state = "not open" if not self._open else "available" if self.available else "away"
        return f"<trioresil.redis.RedisEngine {self.name!r} at {self._place} {state}>"

    # -- inside ----------------------------------------------------------------------------------------------------------------

    def _changed(self, keeper: Keeper, up: bool) -> None:
        """Tell who wants to know; the listeners are those of the task that opened the engine."""
        if up:
            came_up, self._came_up = self._came_up, trio.Event()
            came_up.set()
        if self._closing or self._context is None or (self._opening and isinstance(keeper.error, UnfitError)):
            return
        context = self._context.copy()
        if up:
            context.run(
                _instruments.emit, SharedStateRestored, policy=self, seconds=trio.current_time() - keeper.lost_at
            )
        else:
            context.run(_instruments.emit, SharedStateLost, policy=self, error=EngineDownError(str(keeper.error)))
        for watcher in tuple(self._watchers):
            watcher.changed(self.available)

    def _connected(self, keeper: Keeper) -> None:
        came_up, self._came_up = self._came_up, trio.Event()
        came_up.set()
        self._listener.look([each.address for each in self._site.keepers])

    async def _find_a_server(self) -> Address:
        """Return where messages can be heard: any server will do, as they pass them on to each other."""
        while True:
            for keeper in self._site.keepers:
                if keeper.is_up and keeper.address is not None:
                    return keeper.address
            await self._came_up.wait()

    async def _open_connection(self, address: Address, closed: trio.Event) -> Connection:
        return await open_connection(self._tasks, self._settings, address, closed=closed)


class _Watcher:
    def __init__(self, others: list[_Watcher], changed: Callable[[bool], None]) -> None:
        self._others = others
        self.changed = changed
        others.append(self)

    def close(self) -> None:
        """Hear no more."""
        if self in self._others:
            self._others.remove(self)


def _sha_of(script: Script) -> bytes:
    sha = _shas[script] = hashlib.sha1(script.lua.encode(), usedforsecurity=False).hexdigest().encode()
    return sha


def open_redis(
    url: str,
    *,
    name: str = "redis",
    username: str | None = None,
    password: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    sentinel_username: str | None = None,
    sentinel_password: str | None = None,
    connect_timeout: float = 1.0,
    allow_eviction: bool = False,
    rng: random.Random | None = None,
) -> RedisEngine:
    """Connect to a Redis or Valkey that holds shared state, for the time of an `async with`.

    Needs Redis 7 or later, or Valkey, and the extra `redis`. It is an engine for shared policies, not a client: it runs their
    scripts and hears their messages, over one connection for all tasks, and a second one once a policy wants messages.

    A server that is away stops no program from starting: opening waits a second for it and then goes on without, and
    each policy does what its `on_unavailable` says until the server is there.

    Synopsis::

        async with open_redis("redis://127.0.0.1:6379/0") as engine:
            bucket = SharedTokenBucket(engine, "api", rate=100, on_unavailable=FailClosed())
            await bucket.acquire()

    Args:
      url (str): where: `redis://user:password@host:port/db`, `rediss://…` over TLS, `unix:///path`,
        `redis+sentinel://host:port,host:port/service/db`, `redis+cluster://host:port,host:port`; the last two over TLS as
        `rediss+…`. What is special in a password is escaped, as `%3F` for `?`.
      name (str): its name in events, errors and statistics. Default: "redis".
      username (str): the user to log in as; the URL's if None. Default: None.
      password (str): his password; the URL's if None. Default: None.
      ssl_context (ssl.SSLContext): for a `rediss` URL; one that trusts the system's authorities if None. Default: None.
      sentinel_username (str): the user to log in as at the sentinels. Default: None.
      sentinel_password (str): his password. Default: None, no login.
      connect_timeout (float, seconds, > 0): how long one attempt to connect may take. Default: 1.
      allow_eviction (bool): take a server, too, that forgets keys when its memory is full: limits may then be exceeded.
        Default: False.
      rng (random.Random): chance for the pauses between attempts to connect; one seeded by the system if None. Default: None.

    Cancellation: leaving the block cancels what policies have started in it and closes the connections.

    Raises:
      ValueError: the URL is none of these, or an argument is out of range. No message shows a password.
      SharedStateError: on opening: the server refuses the login or the scripts, is too old, or evicts keys.
    """
    place = read(url)
    for argument, value in (("username", username), ("password", password)):
        if value is not None:
            changes: dict[str, Any] = {argument: _secret(argument, value)}
            place = attrs.evolve(place, **changes)
    if ssl_context is not None and not isinstance(ssl_context, ssl.SSLContext):
        raise TypeError(f"ssl_context must be an ssl.SSLContext or None, not {type(ssl_context).__name__}")
    if ssl_context is not None and not place.tls:
        raise ValueError(f"ssl_context must be None for a URL without TLS, not {ssl_context!r}: use rediss://")
    for argument, value in (("sentinel_username", sentinel_username), ("sentinel_password", sentinel_password)):
        if value is not None:
            _secret(argument, value)
            if place.kind != "sentinel":
                raise ValueError(f"{argument} must be None unless the URL is redis+sentinel://…")
    settings = Settings(
        place=place,
        ssl_context=ssl_context if ssl_context is not None or not place.tls else ssl.create_default_context(),
        connect_timeout=seconds("connect_timeout", connect_timeout, zero=False, finite=True),
        allow_eviction=flag("allow_eviction", allow_eviction),
        sentinel_username=sentinel_username,
        sentinel_password=sentinel_password,
    )
    return RedisEngine(text("name", name), settings, chance("rng", rng) or random.Random())


def _secret(argument: str, value: object) -> str:
    """Return value if it is a string with something in it; the message shows only its type."""
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a string or None, not {type(value).__name__}")
    if not value:
        raise ValueError(f"{argument} must be a string with at least one character, or None")
    return value
