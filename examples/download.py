"""Download a file from a server whose connections break: it goes on where it broke off, in the next run of the program too."""

from __future__ import annotations

import hashlib
import logging
import random
import sys
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import trio
from _server import Reply, Request, Reset, serve

from trioresil.httpx import download

CONTENT = random.Random(1).randbytes(8_000_000)
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MAX_BYTES = 1_500_000  # then the server drops the connection


async def unreliable(request: Request) -> Reply:
    """Serve the file from where the client asks, and break off."""
    wanted = request.headers.get("range", "bytes=0-")
    start = int(wanted.removeprefix("bytes=").removesuffix("-"))

    async def body() -> AsyncGenerator[bytes]:
        for at in range(start, len(CONTENT), 100_000):
            if at - start >= MAX_BYTES:
                raise Reset
            yield CONTENT[at : at + 100_000]

    headers = {"ETag": '"v1"'}
    if start:
        headers["Content-Range"] = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
    return Reply(206 if start else 200, body(), headers | {"Content-Length": str(len(CONTENT) - start)})


def draw(done: int, total: int | None) -> None:
    """Draw a bar for each chunk that was written. On a terminal, print it with end="\\r" instead."""
    if total is None:
        print(f"  {done:>9,} bytes")
    else:
        print(f"  [{'#' * (done * 40 // total):<40}] {done / total:4.0%}")


async def main() -> None:
    # Without an instrument, trioresil reports retries to the standard logger "trioresil".
    logging.basicConfig(stream=sys.stdout, format="  %(message)s")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.bin"
        async with serve(unreliable) as url, httpx.AsyncClient() as client:
            print("the program is stopped in the middle:")
            with trio.CancelScope() as program:

                def stop_half_way(done: int, total: int | None) -> None:
                    draw(done, total)
                    if done > len(CONTENT) / 2:
                        program.cancel()

                await download(client, url, path, stop_half_way)
            print("left behind:", *sorted(file.name for file in await trio.Path(folder).iterdir()))

            print("the next run goes on from there:")
            report = await download(client, url, path, draw, digest=DIGEST)
        print(
            f"{report.kept_bytes:,} of {report.total_bytes:,} bytes were there, the rest took {report.requests} requests"
        )
        print("the file is what it should be:", path.read_bytes() == CONTENT)


if __name__ == "__main__":
    trio.run(main)
