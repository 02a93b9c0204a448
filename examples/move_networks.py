"""Follow a server that moves: it closes connections behind your back, changes its address, and is away for a while.

The name "api.example" is looked up by a resolver of this program, which leads to a server on loopback, first one and then
another.
"""

from __future__ import annotations

import logging
import socket
import sys
from typing import Any

import httpx
import trio
from _server import Reply, Request, serve

import trioresil
from trioresil.httpx import open_client, transient


class Names(trio.abc.HostnameResolver):
    """A name service whose answer changes."""

    def __init__(self) -> None:
        self.url: httpx.URL | None = None
        self.asked = 0

    async def getaddrinfo(self, host: Any, port: Any, *more: Any, **options: Any) -> Any:
        self.asked += 1
        if self.url is None:
            raise socket.gaierror(socket.EAI_AGAIN, "no network")
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (self.url.host, self.url.port))]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


async def first(request: Request) -> Reply:
    return Reply(200, b"the first server")


async def second(request: Request) -> Reply:
    return Reply(200, b"the second server")


class Printer:
    def record(self, event: trioresil.Event) -> None:
        if isinstance(event, trioresil.ConnectionClosed):
            print(f"    a connection was closed: {event.reason}")
        elif isinstance(event, trioresil.ConnectFailed):
            print(f"    no connection: {event.error}")


async def main() -> None:
    logging.basicConfig(stream=sys.stdout, level=logging.ERROR)
    names = Names()
    trio.socket.set_custom_hostname_resolver(names)
    try:
        with trioresil.instrument(Printer()):
            await move(names)
    finally:
        trio.socket.set_custom_hostname_resolver(None)


async def move(names: Names) -> None:
    patient = trioresil.Retry(
        on=transient, on_result=transient, max_attempts=20, backoff=trioresil.exponential(0.05, max=0.1)
    )
    async with open_client(base_url="http://api.example", retry=patient, max_lifetime=0.3) as client:

        async def ask(about: str) -> None:
            response = await client.get("/")
            how = response.extensions["trioresil"]
            connection = "a used" if how.reused else "a new"
            print(f"{about}: {response.text}, at attempt {how.attempts}, on {connection} connection")

        async with serve(second) as there:
            async with serve(first) as here:
                names.url = httpx.URL(here)
                await ask("at home")
                await ask("again")
                names.url = httpx.URL(there)
                await ask("the name leads elsewhere, the connection lives")
                await trio.sleep(0.35)  # longer than max_lifetime
                await ask("the connection was too old")
                names.url = httpx.URL(here)
                await trio.sleep(0.35)
                await ask("the name leads back")
            names.url = httpx.URL(there)
            await ask("the first server has gone, and closed the connection")
        names.url = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "the network was away")
            await trio.sleep(0.2)
            async with serve(second) as there:
                names.url = httpx.URL(there)
                await trio.sleep(0.3)


if __name__ == "__main__":
    trio.run(main)
