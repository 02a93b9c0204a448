"""What stands between a socket and the protocol engine: the wire, and the stream that the engine reads and writes.

A wire notes the least that a later decision needs: whether any byte of the current request was handed to the kernel. (Only then
may a request that failed on a connection be repeated whatever its method.) The stream over it, maybe through TLS, notes
whether any byte of the response was seen. Both close synchronously: over `https_compatible` TLS there is nothing to wait for,
so giving a connection back, dropping it and shutting the pool never wait.
"""

from __future__ import annotations

import socket as stdlib_socket
import ssl
from contextlib import suppress
from typing import Any, ClassVar, Final, TypeAlias

import trio
from trio.lowlevel import checkpoint

Buffer: TypeAlias = bytes | bytearray | memoryview
_CLOSED: Final = "this connection was already closed"
_TLS_RECORDS: Final = 64 * 1024

GRACE: Final = 1.0
"""Seconds that a cancelled writer of a shared connection waits for a peer that takes nothing."""


class Wire(trio.abc.Stream):
    """A connected socket, read and written without a layer between.

    Over HTTP/2 its writer stands in a shield, because what it sends belongs to every stream of the connection: see `write_whole`.
    """

    def __init__(self, socket: trio.socket.SocketType) -> None:
        self.socket = socket
        self.sent = False
        self.shield: trio.CancelScope | None = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return bytes as they come; b"" at the end."""
        try:
            return await self.socket.recv(_TLS_RECORDS if max_bytes is None else max_bytes)
        except OSError as exc:
            raise self._broken(exc) from exc

    async def send_all(self, data: Buffer) -> None:
        """Hand every byte to the kernel."""
        if self.shield is not None:
            await self._send_whole(data, self.shield)
        else:
            await self._send(data)

    async def _send(self, data: Buffer) -> None:
        try:
            done = await self.socket.send(data)
            self.sent = True
            while done < len(data):
                done += await self.socket.send(memoryview(data)[done:])
        except OSError as exc:
            raise self._broken(exc) from exc

    async def _send_whole(self, data: Buffer, shield: trio.CancelScope) -> None:
        done = 0
        while done < len(data):
            with trio.CancelScope(deadline=trio.current_time() + GRACE):
                try:
                    while done < len(data):
                        done += await self.socket.send(memoryview(data)[done:] if done else data)
                        self.sent = True
                except OSError as exc:
                    raise self._broken(exc) from exc
            if done < len(data):
                shield.shield = False
                if trio.current_effective_deadline() <= trio.current_time():
                    self.close_now()
                    await checkpoint()
                shield.shield = True

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the kernel takes bytes."""
        await trio.lowlevel.wait_writable(self.socket)

    async def aclose(self) -> None:
        """Close it."""
        self.close_now()
        await checkpoint()

    def close_now(self) -> None:
        """Close the socket, without waiting. In a run it wakes whoever reads or writes."""
        try:
            self.socket.close()
        except RuntimeError:  # outside of a run: nobody waits there to be woken
            with suppress(OSError):
                stdlib_socket.close(self.socket.detach())

    def is_readable(self) -> bool:
        """Tell whether a read would return at once; a closed wire counts as readable, for it would return an error."""
        return self.socket.fileno() < 0 or self.socket.is_readable()

    def is_ended(self) -> bool:
        """Tell whether the other side has closed it, by looking at the next byte without taking it."""
        if self.socket.fileno() < 0:
            return True
        with stdlib_socket.fromfd(self.socket.fileno(), self.socket.family, self.socket.type) as copy:
            copy.setblocking(False)
            try:
                return not copy.recv(1, stdlib_socket.MSG_PEEK)
            except BlockingIOError:
                return False
            except OSError:
                return True

    def _broken(self, exc: OSError) -> trio.BrokenResourceError | trio.ClosedResourceError:
        if self.socket.fileno() < 0:
            return trio.ClosedResourceError(_CLOSED)
        return trio.BrokenResourceError(str(exc))


class NetworkStream:
    """The core library's network stream over a wire, with or without TLS; bound to one core by its subclass.

    One CancelScope for a finite timeout, none for an infinite one.
    """

    _core: ClassVar[Any]

    def __init__(self, stream: trio.abc.Stream, wire: Any) -> None:
        self._stream = stream
        self.wire = wire
        self.received = False

    @property
    def encrypted(self) -> bool:
        """Whether there is TLS on it."""
        return isinstance(self._stream, trio.SSLStream)

    @property
    def alpn(self) -> str | None:
        """The protocol that was agreed on over TLS."""
        agreed: str | None = self._stream.selected_alpn_protocol() if isinstance(self._stream, trio.SSLStream) else None
        return agreed

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - the core's interface
        """Return bytes as they come; b"" at the end."""
        try:
            if timeout is None:
                data = await self._stream.receive_some(max_bytes)
            else:
                with trio.CancelScope(deadline=trio.current_time() + timeout) as scope:
                    data = await self._stream.receive_some(max_bytes)
                if scope.cancelled_caught:
                    raise self._core.ReadTimeout(f"nothing came within {timeout:g} s")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise self._core.ReadError(_text(exc)) from exc
        if data:
            self.received = True
        return bytes(data) if type(data) is not bytes else data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the core's interface
        """Send all of the buffer."""
        if not buffer:
            return
        try:
            if timeout is None:
                await self._stream.send_all(buffer)
                return
            with trio.CancelScope(deadline=trio.current_time() + timeout) as scope:
                await self._stream.send_all(buffer)
            if scope.cancelled_caught:
                raise self._core.WriteTimeout(f"not sent within {timeout:g} s")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise self._core.WriteError(_text(exc)) from exc

    async def write_whole(self, buffer: bytes, seconds: float | None) -> None:
        """Send all of the buffer whatever cancels this task, which meets its cancellation at its next checkpoint.

        A frame sent in part, or headers that the compressor has counted and that are never sent, spoil the connection for
        every stream on it. So only a peer that takes nothing for GRACE seconds ends this early, and then the wire is closed.
        """
        with trio.CancelScope(shield=True) as shield:
            self.wire.shield = shield
            try:
                await self.write(buffer, seconds)
            finally:
                self.wire.shield = None

    def has_surplus(self) -> bool:
        """Tell whether bytes came that no read has returned yet: TLS holds them back, and no socket shows them any more."""
        stream: Any = self._stream
        while isinstance(stream, trio.SSLStream):  # TLS to a proxy may lie under TLS to the origin
            if stream._incoming.pending or stream._ssl_object.pending():
                return True
            stream = stream.transport_stream
        return False

    def is_readable(self) -> bool:
        """Tell whether something came that no read has returned yet, or the end did."""
        return self.has_surplus() or bool(self.wire.is_readable())

    async def aclose(self) -> None:
        """Close it; never waits."""
        self.wire.close_now()

    def close_now(self) -> None:
        """Close it, without waiting."""
        self.wire.close_now()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the core's interface
    ) -> NetworkStream:
        """Return a stream that speaks TLS over this one, after the handshake."""
        limit = float("inf") if timeout is None else timeout
        with trio.move_on_after(limit) as scope:
            return await self.encrypt(ssl_context, server_hostname)
        assert scope.cancelled_caught
        self.close_now()
        raise self._core.ConnectTimeout(f"no TLS handshake within {limit:g} s")

    async def encrypt(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None, alpn: list[str] | None = None
    ) -> NetworkStream:
        """Do a TLS handshake over this stream, and return the stream that it gives."""
        if alpn is not None:
            ssl_context.set_alpn_protocols(alpn)  # right before its use: the context may be shared
        stream = trio.SSLStream(self._stream, ssl_context, server_hostname=server_hostname, https_compatible=True)
        try:
            await stream.do_handshake()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self.close_now()
            raise self._core.ConnectError(_text(exc)) from exc
        except BaseException:
            self.close_now()
            raise
        return type(self)(stream, self.wire)

    def get_extra_info(self, info: str) -> Any:
        """Return what the core libraries' streams tell: ssl_object, socket, client_addr, server_addr, is_readable."""
        socket = getattr(self.wire, "socket", None)
        if info == "is_readable":
            return self.wire.is_readable()
        if info == "ssl_object":
            return getattr(self._stream, "_ssl_object", None) if self.encrypted else None
        if info == "socket":
            return socket
        if info == "client_addr" and socket is not None:
            return socket.getsockname()
        if info == "server_addr" and socket is not None:
            return socket.getpeername()
        return None


def _text(exc: BaseException) -> str:
    """Return what an error says, or else what its cause says: Trio wraps errors of TLS in one without words."""
    return str(exc) or str(exc.__cause__ or "")
