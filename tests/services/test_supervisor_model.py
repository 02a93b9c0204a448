"""open_supervisor against an exact model: children that fail, return, are stopped and restarted at random, to the second."""

from __future__ import annotations

from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from trioresil import open_supervisor
from trioresil._kernel.intensity import Restart

DELAYS = (1.0, 2.0, 4.0)
STABLE = 8.0

lives = st.lists(st.tuples(st.sampled_from([0.5, 1.0, 3.0, 8.0, 20.0]), st.booleans()), max_size=6)
children = st.lists(st.tuples(st.sampled_from(["always", "on_failure", "never"]), lives), min_size=1, max_size=4)
orders = st.lists(
    st.tuples(st.sampled_from(["stop", "restart"]), st.integers(0, 3), st.sampled_from([0.0625, 1.0625, 5.0625])),
    max_size=5,
)

# Lives and delays are halves and orders come at sixteenths, five at most: no two things happen at the same instant.


class Model:
    """One child under one_for_one: the instants at which its runs begin and end, worked out beforehand."""

    def __init__(self, restart: Restart, lives: list[tuple[float, bool]], orders: list[tuple[str, float]]) -> None:
        self.log: list[tuple[str, float]] = []
        self.ends_for_good = False
        script, asked = iter(lives), iter([*orders, ("end", 1000.0)])
        order, at = next(asked)
        now, pause = 0.0, 0
        while now < 1000:
            self.log.append(("+", now))
            life, fails = next(script, (5000.0, False))
            ends = now + life
            if order != "end" and at < ends or ends >= 1000:  # noqa: RUF021
                if order == "end":
                    self.log.append(("-", 1000))
                    return
                self.log.append(("-", at))
                if order == "stop":
                    self.ends_for_good = True
                    return
                now = at
                order, at = next(asked)
                continue
            self.log.append(("-", ends))
            if restart == "never" or (restart == "on_failure" and not fails):
                self.ends_for_good = True
                return
            pause = 0 if life >= STABLE else pause
            now, pause = ends + DELAYS[min(pause, 2)], pause + 1
            if order != "end" and at < now:
                if order == "stop":
                    self.ends_for_good = True
                    return
                now = at
                order, at = next(asked)


async def play(script: list[tuple[Any, list[tuple[float, bool]]]], asked: list[tuple[str, int, float]]) -> None:
    logs: dict[str, list[tuple[str, float]]] = {}
    orders: dict[str, list[tuple[str, float]]] = {}

    async def child(name: str, lives: Any) -> None:
        log = logs.setdefault(name, [])
        log.append(("+", trio.current_time()))
        life, fails = next(lives, (5000.0, False))
        try:
            await trio.sleep(life)
            if fails:
                raise OSError(name)
        finally:
            log.append(("-", trio.current_time()))

    with trio.CancelScope(deadline=1000.0):
        async with open_supervisor(
            backoff=list(DELAYS), max_restarts=100, within=1e4, stable_after=STABLE
        ) as supervisor:
            for number, (restart, lives) in enumerate(script):
                supervisor.start_soon(child, f"{number}", iter(lives), restart=restart, name=f"{number}")
            for order, number, gap in asked:
                await trio.sleep(gap)
                name = f"{number}"
                orders.setdefault(name, [])
                try:
                    await (supervisor.stop(name) if order == "stop" else supervisor.restart(name))
                except KeyError:
                    assert number >= len(script) or Model(*script[number], orders[name]).ends_for_good
                else:
                    orders[name].append((order, trio.current_time()))
            await trio.sleep_forever()
    for number, (restart, lives) in enumerate(script):
        model = Model(restart, lives, orders.get(f"{number}", []))
        assert logs[f"{number}"] == model.log
    assert supervisor.statistics().closed


@settings(derandomize=True, database=None, deadline=None, max_examples=300)
@given(script=children, asked=orders)
def test_children_run_when_the_model_says_so(script: Any, asked: Any) -> None:
    trio.run(play, script, asked, clock=MockClock(autojump_threshold=0))
