"""What every engine does, in memory or over a server: one suite for all."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio

from tests.shared._engines import ADD, ECHO, ENGINES, KINDS_OF_REPLY, NOTHING, WITHIN, Rig, add, rig_of, until
from tests.shared._servers import Servers
from trioresil import SharedStateLost, SharedStateRestored, instrument
from trioresil.redis import EngineDownError, ScriptEngine

SLACK = 0.1
"""Seconds: ten times what is allowed, for a machine that has other work."""


@pytest.fixture(params=ENGINES)
def rig(request: pytest.FixtureRequest, servers: Servers) -> Rig:
    return rig_of(request.param, servers)


class Heard:
    """An instrument that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def record(self, event: Any) -> None:
        if isinstance(event, SharedStateLost | SharedStateRestored):
            self.events.append(event)


async def test_engine_fits_the_protocol(rig: Rig) -> None:
    async with rig.open() as engine:
        assert isinstance(engine, ScriptEngine)
        assert engine.available
        assert engine.statistics().available


async def test_replies_have_the_same_types(rig: Rig) -> None:
    async with rig.open() as engine:
        reply = await engine.eval(KINDS_OF_REPLY, ["{a}"], [], within=WITHIN)
        assert reply == [7, b"text", None, 1, [], [1, [b"deep"]]]
        assert await engine.eval(NOTHING, ["{a}"], [], within=WITHIN) is None


async def test_arguments_travel_as_text_with_all_their_digits(rig: Rig) -> None:
    args = ["grün\r\n$3", "", 7, -3, 1700000000.123456, 0.1 + 0.2, 1e-7, math.pi]
    async with rig.open() as engine:
        key, *heard = await engine.eval(ECHO, ["{ключ}"], args, within=WITHIN)
        assert key.decode() == "{ключ}"
        assert [each.decode() for each in heard[:2]] == args[:2]
        assert [float(each) for each in heard[2:]] == args[2:]


async def test_script_that_the_server_has_forgotten_is_sent_again(rig: Rig) -> None:
    async with rig.open() as engine:
        for n in range(1, 21):
            rig.forget_scripts()
            assert await add(engine) == n


async def test_many_tasks_get_their_own_answers(rig: Rig) -> None:
    async def ask(n: int) -> None:
        for i in range(10):
            assert await engine.eval(ECHO, ["{a}"], [n, i], within=WITHIN) == [b"{a}", b"%d" % n, b"%d" % i]

    async with rig.open() as engine, trio.open_nursery() as nursery:
        for n in range(100):
            nursery.start_soon(ask, n)


async def test_eval_outside_of_the_block_is_a_mistake(rig: Rig) -> None:
    engine = rig.open()
    with pytest.raises(RuntimeError, match="is not open"):
        await add(engine)
    async with engine:
        pass
    with pytest.raises(RuntimeError, match="is not open"):
        await add(engine)


async def test_answer_in_time_is_not_late(rig: Rig) -> None:
    late: list[Any] = []
    async with rig.open() as engine:
        assert await add(engine, late=late.append) == 1
        await trio.sleep(0.01)
    assert late == []


async def test_frozen_server_is_found_out_within_the_budget(rig: Rig) -> None:
    late: list[Any] = []
    async with rig.open() as engine:
        await add(engine)
        rig.freeze()
        began_at = trio.current_time()
        with pytest.raises(EngineDownError, match=r"did not answer within 0\.05 s"):
            await add(engine, 10, within=0.05, late=late.append)
        assert 0.05 <= trio.current_time() - began_at < 0.05 + SLACK
        assert not engine.available
        began_at = trio.current_time()
        with pytest.raises(EngineDownError):
            await add(engine, 100, within=5)
        assert trio.current_time() - began_at < 0.002 + SLACK
        rig.thaw()
        await until(lambda: engine.available)
        await until(lambda: late)
        assert late == [11]
        assert await add(engine) == 12


async def test_cancelled_caller_has_his_answer_handed_over(rig: Rig) -> None:
    late: list[Any] = []
    async with rig.open() as engine:
        await add(engine)
        rig.freeze()
        with trio.move_on_after(0.01) as scope:
            await add(engine, 10, late=late.append)
        assert scope.cancelled_caught
        assert late == []
        rig.thaw()
        await until(lambda: late)
        assert late == [11]
        assert engine.available
        assert await add(engine) == 12


async def test_killed_server_is_known_and_told_at_once(rig: Rig) -> None:
    heard, seen = Heard(), list[bool]()
    with instrument(heard):
        async with rig.open() as engine:
            engine.watch(seen.append)
            await add(engine)
            rig.kill()
            await until(lambda: not engine.available)
            began_at = trio.current_time()
            with pytest.raises(EngineDownError):
                await add(engine, within=5)
            assert trio.current_time() - began_at < 0.002 + SLACK
            assert seen == [False]
            rig.start()
            began_at = trio.current_time()
            await until(lambda: engine.available)
            assert trio.current_time() - began_at < 1
            assert await add(engine) == 1
            await until(lambda: len(heard.events) == 2)
            assert seen == [False, True]
    lost, restored = heard.events
    assert isinstance(lost, SharedStateLost)
    assert lost.policy is engine
    assert isinstance(lost.error, EngineDownError)
    assert isinstance(restored, SharedStateRestored)
    assert restored.seconds > 0


async def test_asking_while_the_server_goes_away_is_not_left_waiting(rig: Rig) -> None:
    async with rig.open() as engine:
        await add(engine)
        rig.freeze()

        async def ask() -> None:
            with pytest.raises(EngineDownError):
                await add(engine, within=5)

        with trio.fail_after(1):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(ask)
                await trio.sleep(0.01)
                rig.kill()


async def test_messages_come_in_order_to_all_who_hear(rig: Rig) -> None:
    one, two, other = list[Any](), list[Any](), list[Any]()
    async with rig.open() as engine:
        engine.subscribe("trioresil:sums", one.append)
        closed = engine.subscribe("trioresil:sums", two.append)
        engine.subscribe("trioresil:others", other.append)
        await until(lambda: one and two and other)
        for _ in range(5):
            await add(engine)
        await until(lambda: len(one) == 6 and len(two) == 6)
        closed.close()
        closed.close()
        await add(engine)
        await until(lambda: len(one) == 7)
        assert engine.statistics().subscriptions == 2
    assert one == [None, "1", "2", "3", "4", "5", "6"]
    assert two == [None, "1", "2", "3", "4", "5"]
    assert other == [None]


async def test_subscription_to_a_second_channel_begins_too(rig: Rig) -> None:
    one, two = list[Any](), list[Any]()
    async with rig.open() as engine:
        engine.subscribe("trioresil:others", one.append)
        await until(lambda: one)
        engine.subscribe("trioresil:sums", two.append)
        await until(lambda: two)
        await add(engine)
        await until(lambda: len(two) == 2)
    assert one == [None]
    assert two == [None, "1"]


async def test_subscriber_is_told_to_look_again_after_an_outage(rig: Rig) -> None:
    heard = list[Any]()
    async with rig.open() as engine:
        engine.subscribe("trioresil:sums", heard.append)
        await until(lambda: heard)
        rig.kill()
        await until(lambda: not engine.available)
        rig.start()
        await until(lambda: engine.available)
        await until(lambda: heard == [None, None])
        await add(engine)
        await until(lambda: heard == [None, None, "1"])


async def test_closed_watcher_hears_nothing(rig: Rig) -> None:
    seen = list[bool]()
    async with rig.open() as engine:
        watching = engine.watch(seen.append)
        watching.close()
        watching.close()
        rig.kill()
        await until(lambda: not engine.available)
    assert seen == []


async def test_tasks_end_with_the_block(rig: Rig) -> None:
    ended = False

    async def work() -> None:
        nonlocal ended
        try:
            await trio.sleep_forever()
        finally:
            ended = True

    async with rig.open() as engine:
        engine.start_soon(work)
        await trio.sleep(0.01)
        assert not ended
    assert ended


async def test_task_that_is_cancelled_with_the_block_can_still_give_back(rig: Rig) -> None:
    said: list[Any] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(1, shield=True):
                said.append(await add(engine))
                engine.start_soon(trio.sleep, 0)

    async with rig.open() as engine:
        for _ in range(3):
            engine.start_soon(work)
        await trio.sleep(0.01)
    assert sorted(said) == [1, 2, 3]


async def test_error_of_the_body_leaves_bare(rig: Rig) -> None:
    error = LookupError("mine")
    with pytest.raises(LookupError) as caught:
        async with rig.open() as engine:
            await add(engine)
            raise error
    assert caught.value is error


async def test_script_runs_once_for_one_call(rig: Rig) -> None:
    async with rig.open() as engine:
        for n in range(1, 51):
            assert await engine.eval(ADD, ["{n}"], [1], within=WITHIN) == n
        assert engine.statistics().evaluations >= 50
