"""The engine over servers: what happens to callers while connections break, servers change and the program stalls."""

from __future__ import annotations

import contextlib
import logging
import random
import time
from typing import Any

import pytest
import trio

from tests.shared._engines import ECHO, WITHIN, add, until
from tests.shared._servers import KINDS, Server, Servers, free_port, frozen
from trioresil import SharedStateError, SharedStateLost, instrument
from trioresil.redis import EngineDownError, Script, ScriptRefusedError, open_redis

HUGE = Script("huge", "return {string.rep('x', ARGV[1]), ARGV[2]}", lambda store, keys, args: None)
LONG = Script(
    "long", "local t = {} for i = 1, ARGV[1] do t[i] = {i, tostring(i)} end return t", lambda store, keys, args: None
)


class Losses:
    """An instrument that counts how often the server was found away."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def record(self, event: Any) -> None:
        if isinstance(event, SharedStateLost):
            self.events.append(event)


@pytest.mark.slow
async def test_ten_thousand_cancels_cross_no_answer_and_lose_no_connection(server: Server) -> None:
    await cancel_many(server, 10_000)


async def cancel_many(server: Server, times: int) -> None:
    """Cancel calls before, while and after they wait; whatever the server did is heard of once, by the caller or late."""
    chance = random.Random(7)
    answers: list[int] = []
    late: list[int] = []
    cancelled = 0

    async def call(delay: float) -> None:
        nonlocal cancelled
        with trio.CancelScope() as scope:
            if delay < 0:
                scope.cancel()
            elif delay > 0:
                scope.deadline = trio.current_time() + delay
            answers.append(await add(engine, late=late.append))
        cancelled += scope.cancelled_caught

    async def check(n: int) -> None:
        assert await engine.eval(ECHO, ["{a}"], [n], within=WITHIN) == [b"{a}", b"%d" % n]

    async with open_redis(server.url) as engine:
        for batch in range(times // 100):
            async with trio.open_nursery() as nursery:
                for n in range(100):
                    nursery.start_soon(call, chance.choice([-1, chance.uniform(1e-5, 0.01)]))
                    if n % 10 == 0:
                        nursery.start_soon(check, batch * 100 + n)
            assert engine.available
        total = await add(engine, 0)
        await until(lambda: len(answers) + len(late) >= total)
        assert sorted([*answers, *late]) == list(range(1, total + 1))
        assert len(answers) + cancelled == times
        assert cancelled > times // 4
        assert engine.statistics().connections == 1
        assert engine.statistics().late == len(late)


async def test_what_was_sent_last_reaches_the_server(server: Server) -> None:
    async with open_redis(server.url) as engine:
        await add(engine, 0)  # it knows the script from here on
    for n in range(1, 11):
        async with open_redis(server.url) as engine:
            engine.start_soon(add, engine)
        assert server.command("GET", "{sum}") == b"%d" % n


@pytest.mark.slow
async def test_frozen_server_does_not_hold_up_the_end(servers: Servers) -> None:
    server = servers.new("valkey")
    async with open_redis(server.url) as engine:
        await add(engine)
        server.freeze()
        began_at = trio.current_time()
    assert trio.current_time() - began_at < 2
    server.thaw()


async def test_huge_answers_come_whole(server: Server) -> None:
    async with open_redis(server.url) as engine:
        text, mark = await engine.eval(HUGE, ["{a}"], [5_000_000, "end"], within=WITHIN)
        assert len(text) == 5_000_000
        assert mark == b"end"
        with trio.move_on_after(0.001):
            await engine.eval(HUGE, ["{a}"], [5_000_000, "end"], within=WITHIN)
        rows = await engine.eval(LONG, ["{a}"], [7_000], within=WITHIN)
        assert rows == [[n, b"%d" % n] for n in range(1, 7_001)]
        assert await add(engine) == 1


async def test_stall_of_our_own_loop_is_no_outage(server: Server) -> None:
    losses = Losses()
    with instrument(losses):
        async with open_redis(server.url) as engine:
            for _ in range(20):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(lambda: add(engine, within=0.05))
                    await trio.sleep(0.005)  # it is sent and answered, and the answer may be unread
                    time.sleep(0.06)  # noqa: ASYNC251 -- the stall
                assert engine.available
    assert losses.events == []


async def test_stall_before_a_script_is_sent_is_no_outage(server: Server) -> None:
    losses = Losses()

    async def ask() -> None:
        with contextlib.suppress(EngineDownError):  # its time may be up before the server has it
            await add(engine, within=0.02)

    with instrument(losses):
        async with open_redis(server.url) as engine:
            for _ in range(20):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask)
                    await trio.lowlevel.checkpoint()
                    time.sleep(0.04)  # noqa: ASYNC251 -- the stall
                assert engine.available
                assert await add(engine) > 0
    assert losses.events == []


async def test_connection_that_breaks_is_made_anew_without_an_outage(server: Server) -> None:
    losses = Losses()
    with instrument(losses):
        async with open_redis(server.url) as engine:
            await add(engine)
            await trio.sleep(0.6)  # a connection that breaks young is tried again with a pause
            server.command("CLIENT", "KILL", "TYPE", "normal")
            await until(lambda: engine.statistics().connections == 2)
            assert await add(engine) == 2
    assert losses.events == []


async def test_caller_waits_for_a_connection_that_is_being_made(server: Server) -> None:
    async with open_redis(server.url) as engine:
        await trio.sleep(0.6)
        for n in range(1, 6):
            server.command("CLIENT", "KILL", "TYPE", "normal")
            with trio.move_on_after(2):
                while True:
                    try:
                        assert await add(engine) <= n + 5
                        break
                    except EngineDownError:
                        await trio.sleep(0.01)
            assert engine.available


async def test_refusals_name_their_cause(server: Server) -> None:
    server.command("HSET", "{sum}", "a", 1)
    async with open_redis(server.url) as engine:
        with pytest.raises(ScriptRefusedError, match="wrong kind of value"):
            await add(engine)
        broken = Script("broken", "return redis.call('NOSUCH')", lambda store, keys, args: None)
        with pytest.raises(ScriptRefusedError, match="Unknown"):
            await engine.eval(broken, ["{a}"], [], within=WITHIN)
        assert engine.available
        assert await add(engine, key="{other}") == 1


async def test_server_that_is_busy_with_a_script_is_away_for_a_while(servers: Servers) -> None:
    server = servers.new("valkey", "--busy-reply-threshold", "1")
    endless = Script("endless", "while true do end", lambda store, keys, args: None)
    async with open_redis(server.url) as engine:
        with pytest.raises(EngineDownError):
            await engine.eval(endless, ["{a}"], [], within=0.05)
        with pytest.raises(EngineDownError):
            await add(engine, within=0.05)
        server.command("SCRIPT", "KILL")
        await until(lambda: engine.available)
        assert await add(engine) == 1


async def test_primary_that_becomes_a_replica_is_away(servers: Servers) -> None:
    server, other = servers.new("valkey"), servers.new("valkey")
    async with open_redis(server.url) as engine:
        assert await add(engine) == 1
        server.command("REPLICAOF", "127.0.0.1", other.port)
        with pytest.raises(EngineDownError):
            await add(engine)
        await until(lambda: not engine.available)
        server.command("REPLICAOF", "NO", "ONE")
        await until(lambda: engine.available)
        await add(engine)


async def test_refused_channel_disturbs_no_other(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.command("ACL", "SETUSER", "cem", "reset", "on", ">secret", "~*", "resetchannels", "&trioresil:sums", "+@all")
    one, other = list[Any](), list[Any]()
    async with open_redis(f"redis://cem:secret@127.0.0.1:{server.port}") as engine:
        engine.subscribe("trioresil:sums", one.append)
        engine.subscribe("trioresil:others", other.append)
        await until(lambda: engine.statistics().refused_channels == ("trioresil:others",))
        await until(lambda: None in one)
        await until(lambda: one[-1] is None)
        assert await add(engine) == 1
        await until(lambda: one[-1] == "1")
        engine.subscribe("trioresil:third", other.append)
        await until(lambda: len(engine.statistics().refused_channels) == 2)
        assert await add(engine) == 2
    assert other == []
    assert [each.message[:53] for each in caplog.records if each.levelno >= logging.WARNING] == [
        "redis: no messages from channel trioresil:others: no ",
        "redis: no messages from channel trioresil:third: no p",
    ]


@pytest.mark.slow
async def test_outage_is_told_once(servers: Servers, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = servers.new("redis")
    async with open_redis(server.url) as engine:
        engine.subscribe("trioresil:sums", lambda message: None)
        server.kill()
        await until(lambda: not engine.available)
        await trio.sleep(1)
        server.start()
        await until(lambda: engine.available)
        with frozen(server):
            with pytest.raises(EngineDownError):
                await add(engine, within=0.01)
            await trio.sleep(2.2)  # the connection is given up, and new ones are not answered
        await until(lambda: engine.available)
    told = [each for each in caplog.records if each.name.startswith(("coredis", "trioresil"))]
    assert [each.name for each in told] == ["trioresil"] * 4
    assert "is away: " in told[0].message
    assert "is back after " in told[1].message


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["valkey", pytest.param("redis", marks=pytest.mark.long)])
async def test_failover_by_sentinels_is_followed_within_three_seconds(kind: str, servers: Servers) -> None:
    primary, replica, sentinels = await trio.to_thread.run_sync(servers.with_sentinels, kind)
    ports = [free_port(), *(each.port for each in sentinels)]  # the first is away: the next is asked
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    heard = list[Any]()
    async with open_redis(f"redis+sentinel://{hosts}/trio") as engine:
        assert engine.statistics().servers == (f"127.0.0.1:{primary.port}",)
        engine.subscribe("trioresil:sums", heard.append)
        await until(lambda: heard)
        assert await add(engine) == 1
        primary.kill()
        where = (b"127.0.0.1", b"%d" % replica.port)
        await until(lambda: tuple(sentinels[1].command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "trio")) == where)
        switched_at = trio.current_time()
        await until(lambda: engine.available)
        assert trio.current_time() - switched_at < 3
        assert await add(engine) in (1, 2)  # the replica may have missed the first
        assert engine.statistics().servers == (f"127.0.0.1:{replica.port}",)
        await until(lambda: heard.count(None) >= 2)
        total = await add(engine)
        await until(lambda: heard[-1] == str(total))


async def test_service_that_no_sentinel_knows_is_refused(servers: Servers) -> None:
    sentinel = servers.new("valkey", start=False)
    sentinel.config = sentinel.folder / "sentinel.conf"
    sentinel.config.write_text("")
    sentinel.start()
    with pytest.raises(SharedStateError, match="it watches no service 'other'"):
        async with open_redis(f"redis+sentinel://127.0.0.1:{sentinel.port}/other"):
            raise AssertionError("it opened")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_cluster_is_asked_where_the_key_lies(kind: str, servers: Servers) -> None:
    nodes = await trio.to_thread.run_sync(servers.with_cluster, kind)
    heard = list[Any]()
    async with open_redis(f"redis+cluster://127.0.0.1:{nodes[1].port},127.0.0.1:{nodes[2].port}") as engine:
        assert engine.available
        assert set(engine.statistics().servers) == {f"127.0.0.1:{node.port}" for node in nodes}
        engine.subscribe("trioresil:sums", heard.append)
        await until(lambda: heard)
        for n in range(50):
            assert await add(engine, key=f"{{key{n}}}") == 1
        await until(lambda: heard == [None, *["1"] * 50])
        assert sum(node.command("DBSIZE") for node in nodes) == 50

        # A slot moves: first ASK while it does, then MOVED when it has.
        slot = nodes[0].command("CLUSTER", "KEYSLOT", "{moving}")
        (source,) = [node for node in nodes if node.port == port_of(nodes[0], slot)]
        target = nodes[(nodes.index(source) + 1) % 3]
        ids = {node: node.command("CLUSTER", "MYID").decode() for node in nodes}
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        assert await add(engine, key="{moving}") == 1
        assert await add(engine, key="{moving}") == 2
        assert b"{moving}" in target.command("KEYS", "*")
        for node in nodes:
            node.command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
        for n in range(3, 6):
            assert await add(engine, key="{moving}") == n

        # One primary goes: its slots are away, the others are not.
        source.kill()
        here = [
            n for n in range(50) if port_of(target, target.command("CLUSTER", "KEYSLOT", f"{{key{n}}}")) == source.port
        ]
        gone = f"{{key{here[0]}}}"
        with pytest.raises(EngineDownError):
            with trio.fail_after(5):
                while True:
                    await add(engine, key=gone)
        source.start()
        with trio.fail_after(15):
            while True:
                try:
                    await add(engine, key=gone)
                    break
                except EngineDownError:
                    await trio.sleep(0.05)
        assert engine.available


def port_of(node: Server, slot: int) -> int:
    """The port of the primary that serves a slot."""
    for first, last, primary, *_ in node.command("CLUSTER", "SLOTS"):
        if first <= slot <= last:
            return int(primary[1])
    raise LookupError(slot)
