"""Connections to servers: opened in time, checked, and what their errors mean."""

from __future__ import annotations

import hashlib
import socket
import ssl
from typing import Any, Final

import attrs
import trio
from coredis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    InvalidResponse,
    NoScriptError,
    ProtocolError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from coredis.exceptions import ConnectionError as LostError

from .._redaction import one_line
from .._services._tasks import Tasks
from .redis_connection import Connection
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


@attrs.frozen
class Settings:
    """How connections are made."""

    place: Place
    ssl_context: ssl.SSLContext | None = attrs.field(repr=False)
    connect_timeout: float
    allow_eviction: bool
    sentinel_username: str | None = attrs.field(default=None, repr=False)
    sentinel_password: str | None = attrs.field(default=None, repr=False)

    async def connect(self, address: Address) -> Connection:
        """Return a connection to a server, with nothing said yet."""
        if isinstance(address, str):
            below = await trio.open_unix_socket(address)
        else:
            below = await trio.open_tcp_stream(*address)
        plain = socket.socket(fileno=below.socket.detach())  # so that it can be written to without a checkpoint
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(plain))
        if isinstance(address, str) or self.ssl_context is None:
            return Connection(stream, plain)
        encrypted = trio.SSLStream(stream, self.ssl_context, server_hostname=address[0], https_compatible=True)
        try:
            await encrypted.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(encrypted)
            raise
        return Connection(encrypted, None)


async def open_connection(
    tasks: Tasks, settings: Settings, address: Address, *, closed: trio.Event, to_sentinel: bool = False
) -> Connection:
    """Return an open connection; `closed` is set when it is lost.

    Raises:
      AwayError: there is none to be had in time.
      UnfitError: there won't be one.
    """
    place = settings.place
    connection: Connection | None = None
    try:
        with trio.move_on_after(settings.connect_timeout):
            connection = await settings.connect(address)
            tasks.start_soon(_run, connection, closed)
            if to_sentinel:
                await connection.greet(settings.sentinel_username, settings.sentinel_password, 0)
            else:
                await connection.greet(place.username, place.password, place.db)
            return connection
    except (OSError, trio.BrokenResourceError, RedisError) as exc:
        _give_up(connection)
        raise _meaning(address, exc) from None
    except BaseException:
        _give_up(connection)
        raise
    _give_up(connection)
    raise AwayError(f"{shown(address)} did not answer within {settings.connect_timeout:g} s")


def _give_up(connection: Connection | None) -> None:
    if connection is not None:
        connection.invalidate("it could not be opened")


async def _run(connection: Connection, closed: trio.Event) -> None:
    try:
        await connection.run()
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


async def check_server(connection: Connection, address: Address, *, allow_eviction: bool) -> None:
    """See that a server will do, on a connection that nobody uses yet.

    Raises:
      AwayError: not now: it is a replica, or loads its data.
      UnfitError: it won't do.
    """
    where = shown(address)
    if int((connection.server_version or "0").partition(".")[0]) < OLDEST:
        raise UnfitError(f"{where}: version {connection.server_version} is older than {OLDEST}")
    asked = [
        connection.ask(*words)
        for words in (
            (b"ROLE",),
            (b"CONFIG", b"GET", b"maxmemory-policy"),
            (b"INFO", b"memory"),
            (b"EVALSHA", PROBE_SHA, 0),
        )
    ]
    role, config, memory, probe = [await each for each in asked]
    if isinstance(probe, NoScriptError):
        probe = await connection.ask(b"EVAL", PROBE, 0)
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
