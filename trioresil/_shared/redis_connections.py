"""Connections to servers, made with coredis: opened in time, checked, and what their errors mean.

One connection serves all callers at once: what they ask is sent at once and synchronously, and the answers come in that order.
Waiting for one is waiting for an event, so a cancelled caller takes nothing from the others.
"""

from __future__ import annotations

import hashlib
import logging
import ssl
from contextvars import ContextVar
from typing import Any, Final

import anyio
import attrs
import trio
from anyio.abc import ByteStream
from coredis.connection import BaseConnection, TCPLocation, UnixDomainSocketLocation
from coredis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    InvalidResponse,
    NoScriptError,
    ProtocolError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from coredis.exceptions import ConnectionError as LostError

from .._redaction import one_line
from .._services._tasks import Tasks
from .redis_urls import Address, Place, shown

OLDEST: Final = 7
"""The oldest major version that will do: Redis 7, as which Valkey began."""
PASSING_WORDS: Final = ("BUSY ", "LOADING ", "MASTERDOWN ", "MISCONF ", "NOREPLICAS ", "READONLY ", "UNKILLABLE ")
TOO_OLD_WORDS: Final = "unknown command"  # HELLO
NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNSUPPORTED_PROTOCOL")
PROBE: Final = "redis.call('TIME') return 1"
PROBE_SHA: Final = hashlib.sha1(PROBE.encode()).hexdigest().encode()


class AwayError(Exception):
    """No connection now; there may be one later."""


class UnfitError(Exception):
    """The server is there and won't do, and time won't help: wrong password, no permission, too old, it evicts keys."""


_ours: ContextVar[bool] = ContextVar("trioresil_shared_connection", default=False)


class _NotOurs(logging.Filter):
    """Keeps coredis from logging each attempt to reach a server that is away: there is one event for it, SharedStateLost."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _ours.get()


logging.getLogger("coredis").addFilter(_NotOurs())  # of this module's connections only: others' are heard as before


@attrs.frozen
class Settings:
    """How connections are made."""

    place: Place
    ssl_context: ssl.SSLContext | None = attrs.field(repr=False)
    connect_timeout: float
    allow_eviction: bool
    sentinel_username: str | None = attrs.field(default=None, repr=False)
    sentinel_password: str | None = attrs.field(default=None, repr=False)

    async def connect(self, address: Address) -> ByteStream:
        """Return a stream to a server."""
        if isinstance(address, str):
            return await anyio.connect_unix(address)
        if self.ssl_context is not None:
            return await anyio.connect_tcp(*address, ssl_context=self.ssl_context, tls_standard_compatible=False)
        return await anyio.connect_tcp(*address)

    def connection(self, address: Address, stream: ByteStream, *, to_sentinel: bool = False) -> Connection:
        """Return a connection over a stream, with nothing said yet."""
        if to_sentinel:
            return Connection(address, stream, username=self.sentinel_username, password=self.sentinel_password)
        place = self.place
        return Connection(address, stream, username=place.username, password=place.password, db=place.db or None)


class Connection(BaseConnection):
    """A coredis connection over a stream that is open already.

    One that connects by itself leaves its buffers open if it can't, and hides why.
    """

    def __init__(self, address: Address, stream: ByteStream, **options: Any) -> None:
        where = UnixDomainSocketLocation(address) if isinstance(address, str) else TCPLocation(*address)
        super().__init__(where, **options)
        self._given = stream

    async def _connect(self) -> ByteStream:
        return self._given

    def describe(self) -> str:
        """Return where it goes."""
        return f"Connection<{self.location}>"


async def open_connection(
    tasks: Tasks, settings: Settings, address: Address, *, closed: trio.Event, to_sentinel: bool = False
) -> BaseConnection:
    """Return an open connection; `closed` is set when it is lost.

    Raises:
      AwayError: there is none to be had in time.
      UnfitError: there won't be one.
    """
    _ours.set(True)
    with trio.move_on_after(settings.connect_timeout) as scope:
        try:
            stream = await settings.connect(address)
            connection = settings.connection(address, stream, to_sentinel=to_sentinel)
            await tasks.start(_run, connection, closed)
            return connection
        except Exception as exc:
            if not scope.cancel_called:
                raise _meaning(address, exc) from None
    raise AwayError(f"{shown(address)} did not answer within {settings.connect_timeout:g} s")


async def _run(
    connection: BaseConnection, closed: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    try:
        await connection.run(task_status=task_status)
    finally:
        closed.set()


def _meaning(address: Address, error: Exception) -> Exception:
    """Return what the failure of an opening means."""
    where, cause = shown(address), _root(error)
    text = said(cause)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return UnfitError(f"{where}: its certificate can't be trusted: {cause.verify_message}")
    if isinstance(cause, InvalidResponse) or (isinstance(cause, ssl.SSLError) and cause.reason in NO_TLS):
        return UnfitError(f"{where}: what answers there is no server of this kind: {text}")
    if isinstance(cause, AuthenticationError):
        return UnfitError(f"{where}: it refuses the user name or the password: {text}")
    if isinstance(cause, ProtocolError):
        return UnfitError(f"{where}: it is older than Redis {OLDEST}: {text}")
    if isinstance(cause, ResponseError) and not passes(cause):
        if TOO_OLD_WORDS in text.lower():
            return UnfitError(f"{where}: it is older than Redis {OLDEST}: {text}")
        return UnfitError(f"{where}: {text}")
    return AwayError(f"{where}: {text}")


def _root(error: BaseException) -> BaseException:
    while (cause := error.__cause__) is not None:
        error = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else cause
    return error


def said(error: BaseException) -> str:
    """Return what an error says, on one line."""
    text = one_line(str(error)) or type(error).__name__
    return f"no permission: {text}" if isinstance(error, AuthorizationError) else text


def passes(error: Exception) -> bool:
    """Whether an error of the server is about its state of now, such as loading or being a replica."""
    if isinstance(error, LostError | ReadOnlyError | ClusterDownError | TryAgainError):
        return True
    return str(error).startswith(PASSING_WORDS)


async def check_server(connection: BaseConnection, address: Address, *, allow_eviction: bool) -> None:
    """See that a server will do, on a connection that nobody uses yet.

    Raises:
      AwayError: not now: it is a replica, or loads its data.
      UnfitError: it won't do.
    """
    where = shown(address)
    if int((connection.server_version or "0").partition(".")[0]) < OLDEST:
        raise UnfitError(f"{where}: version {connection.server_version} is older than {OLDEST}")
    asked = [
        connection.create_request(*words, raise_exceptions=False)
        for words in (
            (b"ROLE",),
            (b"CONFIG GET", b"maxmemory-policy"),
            (b"INFO", b"memory"),
            (b"EVALSHA", PROBE_SHA, 0),
        )
    ]
    role, config, memory, probe = [await each for each in asked]
    if isinstance(probe, NoScriptError):
        probe = await connection.create_request(b"EVAL", PROBE, 0, raise_exceptions=False)
    for reply in (role, probe):
        if isinstance(reply, Exception) and passes(reply):
            raise AwayError(f"{where}: {said(reply)}")
    if isinstance(probe, Exception):
        raise UnfitError(f"{where}: it won't run a script: {said(probe)}")
    if isinstance(role, list) and role[0] != b"master":
        raise AwayError(f"{where} is a replica")
    policy = _eviction_policy(config, memory)
    if policy not in ("", "noeviction") and not allow_eviction:
        raise UnfitError(
            f"{where}: its maxmemory-policy is {policy}, so it may forget shared state; "
            "it must be noeviction, or say allow_eviction=True"
        )


def _eviction_policy(config: Any, memory: Any) -> str:
    """Return the policy as far as we may know it: some hosts forbid CONFIG."""
    if isinstance(config, dict) and b"maxmemory-policy" in config:
        return str(config[b"maxmemory-policy"].decode())
    if isinstance(memory, bytes):
        lines = dict(line.split(":", 1) for line in memory.decode().splitlines() if ":" in line)
        return lines.get("maxmemory_policy", "").strip()
    return ""
