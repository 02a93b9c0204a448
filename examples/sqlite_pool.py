"""Use SQLite from Trio: connections in a pool, their calls in threads. A failed INSERT costs no connection."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import trio

import trioresil


class Database:
    """One SQLite connection. Calls go to a thread; a call that is cancelled is waited for, as SQLite would go on anyway."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)

    async def execute(self, statement: str, *values: Any) -> list[Any]:
        return await trio.to_thread.run_sync(lambda: self._connection.execute(statement, values).fetchall())

    async def rollback(self) -> None:
        await trio.to_thread.run_sync(self._connection.rollback)

    async def aclose(self) -> None:
        await trio.to_thread.run_sync(self._connection.close)


async def register(pool: trioresil.Pool[Database], name: str) -> None:
    """One transaction: the pool's `reset` rolls it back if it fails."""
    async with pool.connection() as database:
        await database.execute("BEGIN IMMEDIATE")
        await database.execute("INSERT INTO log VALUES (?)", f"registering {name}")
        await database.execute("INSERT INTO users VALUES (?)", name)
        await database.execute("COMMIT")


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "users.sqlite"

        async def connect() -> Database:
            return await trio.to_thread.run_sync(Database, path)

        async with trioresil.open_pool(connect, max_size=4, reset=Database.rollback, name="users") as pool:
            async with pool.connection() as database:
                await database.execute("CREATE TABLE users (name TEXT PRIMARY KEY)")
                await database.execute("CREATE TABLE log (line TEXT)")

            for name in ("ada", "grace", "ada"):
                try:
                    await register(pool, name)
                except sqlite3.IntegrityError as error:
                    print(f"{name}: {error}")

            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(register, pool, f"user {number}")

            async with pool.connection() as database:
                [[users]] = await database.execute("SELECT count(*) FROM users")
                [[lines]] = await database.execute("SELECT count(*) FROM log")
            print(f"{users} users, {lines} lines in the log: what failed has left nothing behind")
            print(f"connections made: {pool.statistics().opened}; lent again: {pool.statistics().reused} times")


if __name__ == "__main__":
    trio.run(main)
