"""A site with one file, whose bodies break off: over loopback (a script of RawServer), or as a transport without a network."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import trio

from tests.http._raw_server import Connection

LAST_MODIFIED = "Mon, 05 Jan 2026 10:00:00 GMT"
DATE = "Mon, 05 Jan 2026 12:00:00 GMT"


class FileSite:
    """Serves `content` under every path.

    Args:
      content: the file.
      cuts: for each request in turn, after how many bytes of the body the connection breaks; None: not at all, as for all
        requests after the last of them.
    """

    def __init__(self, content: bytes, cuts: Iterable[int | None] = ()) -> None:
        self.content = content
        self.cuts: Iterator[int | None] = iter(cuts)
        self.etag: str | None = '"v1"'
        self.last_modified: str | None = None
        self.ranges = True
        self.if_range = True  # whether If-Range is understood; without, each Range is served
        self.length = True  # whether a whole answer tells its length
        self.longest: int | None = None  # of a part that is served
        self.extra: dict[str, str] = {}
        self.refuse: list[tuple[int, dict[str, str]]] = []  # answers to give first
        self.asked: list[dict[str, str]] = []
        """The headers of each request."""
        self.statuses: list[int] = []
        self.sent = 0
        """Bytes of bodies sent."""
        self.piece = 64 * 1024
        self.break_by = "fin"

    def reply(self, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and the whole body of the answer to a request."""
        self.asked.append(headers)
        status, more, body = self._reply(headers)
        self.statuses.append(status)
        return status, {"date": DATE, **more, **self.extra}, body

    def _reply(self, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        if self.refuse:
            status, more = self.refuse.pop(0)
            return status, {"content-length": "0", **more}, b""
        told = {"etag": self.etag, "last-modified": self.last_modified}
        validators = {name: value for name, value in told.items() if value is not None}
        wanted = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        fresh = "if-range" not in headers or headers["if-range"] in validators.values()
        if wanted is None or not self.ranges or (self.if_range and not fresh):
            framing = {"content-length": str(len(self.content))} if self.length else {"transfer-encoding": "chunked"}
            return 200, {**validators, **framing}, self.content
        first, total = int(wanted[1]), len(self.content)
        if first >= total:
            return 416, {"content-range": f"bytes */{total}", "content-length": "0"}, b""
        body = self.content[first : total if self.longest is None else first + self.longest]
        place = f"bytes {first}-{first + len(body) - 1}/{total}"
        return 206, {**validators, "content-range": place, "content-length": str(len(body))}, body

    async def script(self, connection: Connection) -> None:
        """Serve on a connection of a RawServer."""
        while (request := await connection.request()) is not None:
            status, headers, body = self.reply(dict(request.headers))
            lines = [f"HTTP/1.1 {status} Reply", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
            await connection.send("\r\n".join(lines).encode())
            cut = next(self.cuts, None)
            for piece in self._pieces(body[:cut]):
                self.sent += len(piece)
                chunked = headers.get("transfer-encoding") == "chunked"
                await connection.send(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            if cut is not None and cut < len(body):
                connection.reset() if self.break_by == "rst" else connection.fin()
                return
            if headers.get("transfer-encoding") == "chunked":
                await connection.send(b"0\r\n\r\n")

    def transport(self, library: Any) -> Any:
        """Return a transport of a client library, which calls the site in memory."""
        site = self

        class Body(library.AsyncByteStream):  # type: ignore[misc]
            def __init__(self, pieces: Iterable[bytes], broken: bool) -> None:
                self.pieces = pieces
                self.broken = broken

            async def __aiter__(self) -> AsyncIterator[bytes]:
                for piece in self.pieces:
                    await trio.lowlevel.checkpoint()
                    site.sent += len(piece)
                    yield piece
                if self.broken:
                    raise library.RemoteProtocolError("peer closed connection without sending complete message body")

            async def aclose(self) -> None:
                await trio.lowlevel.cancel_shielded_checkpoint()

        class Transport(library.AsyncBaseTransport):  # type: ignore[misc]
            async def handle_async_request(self, request: Any) -> Any:
                await trio.lowlevel.checkpoint()
                status, headers, body = site.reply(dict(request.headers))
                cut = next(site.cuts, None)
                broken = cut is not None and cut < len(body)
                return library.Response(status, headers=headers, stream=Body(site._pieces(body[:cut]), broken))

        return Transport()

    def _pieces(self, body: bytes) -> Iterator[bytes]:
        for start in range(0, len(body), self.piece):
            yield body[start : start + self.piece]
