"""The pool's types, pinned: a pool knows what it lends, however `connect` gives it. Never run."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import functools
from typing import assert_type

import trio

import trioresil
from trioresil.abc import Drainable


class Connection:
    async def ping(self) -> bool:
        return True

    def rollback(self) -> None: ...


async def connect() -> Connection:
    return Connection()


def connect_now() -> Connection:
    return Connection()


async def lends_what_connect_gives() -> None:
    async with trioresil.open_pool(connect, check=Connection.ping, reset=Connection.rollback) as pool:
        assert_type(pool, trioresil.Pool[Connection])
        drainable: Drainable = pool
        drainable.close_admission()
        assert_type(pool.statistics(), trioresil.PoolStatistics)
        async with pool.connection() as connection:
            assert_type(connection, Connection)
    async with trioresil.open_pool(connect_now) as pool:
        assert_type(pool, trioresil.Pool[Connection])
    async with trioresil.open_pool(Connection) as pool:
        assert_type(pool, trioresil.Pool[Connection])
    async with trioresil.open_pool(functools.partial(trio.open_tcp_stream, "localhost", 1)) as streams:
        assert_type(streams, trioresil.Pool[trio.SocketStream])
        async with streams.connection() as stream:
            assert_type(stream, trio.SocketStream)


async def refuses_what_it_does_not_know() -> None:
    trioresil.open_pool(connect, size=5)  # type: ignore[call-arg]
    trioresil.open_pool(5)  # type: ignore[arg-type]
