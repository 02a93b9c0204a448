"""Opening an engine over servers: what won't do is refused with its reason, and what is merely away is waited for."""

from __future__ import annotations

import ssl
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

from tests.shared._engines import add, until
from tests.shared._servers import KINDS, Server, Servers, free_port, frozen
from trioresil import SharedStateError
from trioresil.redis import EngineDownError, ScriptRefusedError, open_redis

NEEDED = ("+eval", "+evalsha", "+publish", "+subscribe", "+ping", "+hello", "+time", "+incrby", "+pexpire")


async def refusal_of(url: str, **options: object) -> str:
    """The message of the SharedStateError that opening raises."""
    with pytest.raises(SharedStateError) as caught:
        async with open_redis(url, **options):  # type: ignore[arg-type]
            raise AssertionError("it opened")
    assert "secret" not in str(caught.value)
    assert caught.value.policy == "redis"
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
async def test_password_is_checked(kind: str, servers: Servers) -> None:
    server = servers.new(kind, start=False)
    server.options, server.user = ("--requirepass", "secret"), ("secret",)
    server.start()
    where = f"127.0.0.1:{server.port}"
    assert "it refuses the user name or the password" in await refusal_of(f"redis://:secret1@{where}")
    assert "it refuses the user name or the password" in await refusal_of(f"redis://{where}")
    assert "it refuses the user name or the password" in await refusal_of(f"redis://ada:secret@{where}")
    async with open_redis(f"redis://:secret@{where}") as engine:
        assert await add(engine) == 1
    async with open_redis(f"redis://:wrong@{where}", password="secret") as engine:
        assert await add(engine) == 2


async def test_user_needs_only_what_scripts_use(server: Server) -> None:
    server.command("ACL", "SETUSER", "ada", "reset", "on", ">secret", "~*", "&*", *NEEDED)
    heard: list[str | None] = []
    async with open_redis(f"redis://ada:secret@127.0.0.1:{server.port}") as engine:
        engine.subscribe("trioresil:sums", heard.append)
        await until(lambda: heard)
        assert await add(engine) == 1
        await until(lambda: heard == [None, "1"])
    server.command("ACL", "SETUSER", "ada", "-incrby")
    async with open_redis(f"redis://ada:secret@127.0.0.1:{server.port}") as engine:
        with pytest.raises(ScriptRefusedError, match=r"no permission|can't run this command"):
            await add(engine)
        assert engine.available


@pytest.mark.parametrize("missing", ["-evalsha", "-eval", "-time"])
async def test_user_without_permission_is_refused_by_name_of_what_is_missing(server: Server, missing: str) -> None:
    server.command("SCRIPT", "FLUSH")
    server.command("ACL", "SETUSER", "bob", "reset", "on", ">secret", "~*", "&*", *NEEDED, missing)
    message = await refusal_of(f"redis://bob:secret@127.0.0.1:{server.port}")
    assert "it won't run a script: " in message
    assert "no permission" in message or "can't run this command" in message
    if missing != "-time":
        assert missing[1:] in message


@pytest.mark.parametrize("kind", KINDS)
async def test_server_that_evicts_is_refused_unless_allowed(kind: str, servers: Servers) -> None:
    server = servers.new(kind, "--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru")
    wanted = "its maxmemory-policy is volatile-lru, so it may forget shared state; it must be noeviction"
    assert wanted in await refusal_of(server.url)
    async with open_redis(server.url, allow_eviction=True) as engine:
        assert await add(engine) == 1
    server.command("ACL", "SETUSER", "ada", "reset", "on", ">secret", "~*", "&*", *NEEDED, "+info")
    assert wanted in await refusal_of(f"redis://ada:secret@127.0.0.1:{server.port}")  # CONFIG is forbidden


async def test_database_is_chosen_and_checked(server: Server) -> None:
    async with open_redis(f"{server.url}/3") as engine:
        assert await add(engine) == 1
    async with open_redis(server.url) as engine:
        assert await add(engine) == 1
    assert "DB index is out of range" in await refusal_of(f"{server.url}/99")


async def test_socket_in_the_file_system(servers: Servers, tmp_path: Path) -> None:
    path = tmp_path / "s"
    servers.new("valkey", "--unixsocket", str(path))
    async with open_redis(f"unix://{path}") as engine:
        assert await add(engine) == 1
        assert engine.statistics().servers == (str(path),)


async def serve(answer: bytes, nursery: trio.Nursery) -> str:
    async def handle(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.receive_some()

    [listener] = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
    return f"redis://127.0.0.1:{listener.socket.getsockname()[1]}"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"-ERR unknown command `HELLO`, with args beginning with: `3`\r\n", "it is older than Redis 7"),
        (b"-NOPROTO unsupported protocol version\r\n", "it is older than Redis 7"),
        (
            b"%3\r\n$7\r\nversion\r\n$6\r\n6.2.14\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:1\r\n",
            "version 6.2.14 is older than 7",
        ),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no server of this kind"),
        (b"-DENIED it is in protected mode\r\n", "DENIED it is in protected mode"),
    ],
)
async def test_what_is_no_server_for_this_is_refused(answer: bytes, reason: str, nursery: trio.Nursery) -> None:
    assert reason in await refusal_of(await serve(answer, nursery))
    nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_server_that_is_away_is_waited_for_and_found_later(servers: Servers) -> None:
    server = servers.new("valkey", start=False)
    began_at = trio.current_time()
    async with open_redis(server.url) as engine:
        assert 1 <= trio.current_time() - began_at < 2
        assert not engine.available
        assert "refused" in str(engine.statistics().error)
        with pytest.raises(EngineDownError, match="refused"):
            await add(engine)
        await trio.to_thread.run_sync(server.start)
        began_at = trio.current_time()
        await until(lambda: engine.available)
        assert trio.current_time() - began_at < 1
        assert await add(engine) == 1
        assert engine.statistics().error is None


@pytest.mark.slow
async def test_server_that_starts_meanwhile_is_found_while_opening(servers: Servers, nursery: trio.Nursery) -> None:
    server = servers.new("valkey", start=False)

    async def start_soon() -> None:
        await trio.sleep(0.3)
        await trio.to_thread.run_sync(server.start)

    nursery.start_soon(start_soon)
    async with open_redis(server.url) as engine:
        assert engine.available


@pytest.mark.slow
async def test_frozen_server_does_not_keep_a_program_from_starting(servers: Servers) -> None:
    server = servers.new("valkey")
    with frozen(server):
        began_at = trio.current_time()
        with trio.fail_after(5):
            async with open_redis(server.url) as engine:
                assert 1 <= trio.current_time() - began_at < 2
                assert not engine.available
                server.thaw()
                await until(lambda: engine.available, seconds=3)
                assert await add(engine) == 1


@pytest.mark.slow
async def test_name_that_nobody_knows_is_away() -> None:
    async with open_redis("redis://trioresil.invalid") as engine:
        assert not engine.available


async def test_nothing_is_left_of_an_opening_that_is_cancelled() -> None:
    with trio.move_on_after(0.05) as scope:
        async with open_redis(f"redis://127.0.0.1:{free_port()}"):
            raise AssertionError("it opened")
    assert scope.cancelled_caught


async def test_tls_is_spoken_and_certificates_are_checked(servers: Servers) -> None:
    authority = trustme.CA()
    server = servers.with_tls(authority)
    url = f"rediss://localhost:{server.tls_port}"
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with open_redis(url, ssl_context=trusting) as engine:
        assert await add(engine) == 1
    assert "its certificate can't be trusted" in await refusal_of(url)
    async with trio.open_nursery() as nursery:
        plain = await serve(b"-ERR what?\r\n", nursery)
        assert "no server of this kind" in await refusal_of(plain.replace("redis:", "rediss:"), ssl_context=trusting)
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_replica_is_no_place_for_state(servers: Servers) -> None:
    primary = servers.new("valkey")
    replica = servers.new("valkey", "--replicaof", "127.0.0.1", str(primary.port))
    async with open_redis(replica.url) as engine:
        assert not engine.available
        assert "is a replica" in str(engine.statistics().error)
        replica.command("REPLICAOF", "NO", "ONE")
        await until(lambda: engine.available)
        assert await add(engine) == 1


async def test_node_of_a_cluster_needs_the_url_of_a_cluster(servers: Servers) -> None:
    node = servers.new("valkey", "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    node.command("CLUSTER", "ADDSLOTSRANGE", 0, 100)
    async with open_redis(node.url) as engine:
        with pytest.raises((ScriptRefusedError, EngineDownError)):
            await add(engine, within=0.5)
    server = servers.new("valkey")
    assert "cluster" in await refusal_of(f"redis+cluster://127.0.0.1:{server.port}")
