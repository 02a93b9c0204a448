"""open_supervisor: cancelled at any moment, no task is left, none runs twice at once, and what was asked for is done."""

from __future__ import annotations

import functools
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from trioresil import RestartLimitError, Supervisor, open_supervisor, stop_requested
from trioresil._services import supervisor as module
from trioresil._services._restarts import Child, Run
from trioresil.testing import Sweep, SweepFailure, cancellation_sweep


class House:
    """A supervisor, who runs, and the invariants."""

    def __init__(self, sweep: Sweep, strategy: Any = "one_for_one", **options: Any) -> None:
        self.sweep = sweep
        self.manager = open_supervisor(strategy, **{"backoff": [0.5], "max_restarts": 9, "grace": 1.5, **options})
        self.supervisor: Supervisor | None = None
        self.living: list[str] = []
        self.runs: dict[str, int] = {}
        self.is_open = False
        self.up: set[str] = set()
        self.needs: dict[str, str] = {}  # who must be up before whom
        self.too_early: list[str] = []
        sweep.when_quiet(self.check)

    def check(self) -> None:
        assert len(set(self.living)) == len(self.living), "a child runs twice at once"
        assert not self.too_early
        if self.supervisor is None or not self.is_open:
            assert not self.living
            return
        states = {child.name: child.state for child in self.supervisor._children.values() if child.name in self.runs}
        assert set(self.living) <= set(states)
        for name, state in states.items():
            assert (name in self.living) is (state != "waiting"), (name, state)
        if not self.sweep.victim_cancelled and self.supervisor._group is not None and self.supervisor._round is None:
            assert "waiting" not in states.values(), "nobody will call it"

    def child(
        self, name: str, *lives: float, up: float = 0.25, ends: float = 0.0, obeys: float | None = None
    ) -> Callable[..., Awaitable[None]]:
        """Return a child whose n-th run fails lives[n] seconds after it was up, or so many before."""

        async def run(*, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
            number = self.runs[name] = self.runs.get(name, 0) + 1
            self.living.append(name)
            is_cancelled = trio.current_effective_deadline() == -math.inf
            if self.needs.get(name, name) not in {*self.up, name} and not is_cancelled:
                self.too_early.append(name)
            try:
                stop = stop_requested() if obeys is not None else trio.Event()
                life = lives[number - 1] if number <= len(lives) else 1000
                await trio.sleep(up + min(life, 0))
                if life < 0:
                    raise OSError(name)
                self.up.add(name)
                task_status.started(name)
                with trio.move_on_after(life):
                    await stop.wait()
                    await trio.sleep(obeys or 0)
                    return
                raise OSError(name)
            finally:
                self.up.discard(name)
                with trio.CancelScope(shield=True):
                    await trio.sleep(ends)
                self.living.remove(name)

        return run

    async def __aenter__(self) -> Supervisor:
        self.supervisor = await self.manager.__aenter__()
        self.is_open = True
        return self.supervisor

    async def __aexit__(self, *exc: Any) -> bool:
        try:
            return await self.manager.__aexit__(*exc)
        finally:
            self.is_open = False
            self.finish()

    def finish(self) -> None:
        assert self.supervisor is not None
        assert not self.living
        assert not self.supervisor._children
        assert self.supervisor.statistics().closed


async def restarts(sweep: Sweep) -> None:
    """The victim is the supervisor, while a child fails and waits for its back-off."""
    house = House(sweep)
    with sweep.victim():
        async with house as supervisor:
            await supervisor.start(house.child("a", 0.5, 0.25, ends=0.25), name="a")
            supervisor.start_soon(house.child("b", 0.5), name="b")
            await trio.sleep(3)


async def group(sweep: Sweep) -> None:
    """The victim is the supervisor, while a group is stopped, waits and is started."""
    house = House(sweep, "one_for_all")
    house.needs = {"b": "a", "c": "b"}
    with sweep.victim():
        async with house as supervisor:
            await supervisor.start(house.child("a", ends=0.75), name="a")
            await supervisor.start(house.child("b", 0.5), name="b")
            await supervisor.start(house.child("c", obeys=0.25), name="c")
            await trio.sleep(4)


async def twice(sweep: Sweep) -> None:
    """A group whose earlier child fails while the later ones are being restarted."""
    house = House(sweep, "rest_for_one")
    house.needs = {"b": "a", "c": "b"}
    with sweep.victim():
        async with house as supervisor:
            await supervisor.start(house.child("a", 1.5), name="a")
            await supervisor.start(house.child("b", 0.5, 0.25, ends=0.5), name="b")
            await supervisor.start(house.child("c", ends=0.5), name="c")
            await trio.sleep(6)


async def again(sweep: Sweep) -> None:
    """A group with a child that fails before it is up again, and a newcomer that fails while the others wait."""
    house = House(sweep, "rest_for_one", backoff=[1.0])
    house.needs = {"b": "a"}
    with sweep.victim():
        async with house as supervisor:
            await supervisor.start(house.child("a", 0.5, -0.125), name="a")
            await supervisor.start(house.child("b"), name="b")
            await trio.sleep(0.5)
            await supervisor.start(house.child("c", 0.25), name="c")
            await trio.sleep(5)
            assert sorted(house.living) == ["a", "b", "c"]


async def grace(sweep: Sweep) -> None:
    """The victim is the supervisor, also while it waits for those that listen."""
    house = House(sweep)
    with sweep.victim():
        async with house as supervisor:
            await supervisor.start(house.child("a", obeys=0.5), name="a")
            await supervisor.start(house.child("b", obeys=9, ends=0.25), name="b")
            await supervisor.start(house.child("c", 0), name="c")


async def limit(sweep: Sweep) -> None:
    """The supervisor ends by itself. A cancellation that comes together with the limit may not hide it from everybody."""
    house, out = House(sweep, max_restarts=1), list[Exception]()
    with sweep.victim():
        try:
            async with house as supervisor:
                await supervisor.start(house.child("a", 0.5, 0.5), name="a")
                await supervisor.start(house.child("b", ends=0.5), name="b")
                await trio.sleep_forever()
        except* RestartLimitError as group:
            out += group.exceptions
    assert out or sweep.victim_cancelled


async def starter(sweep: Sweep) -> None:
    """The victim starts a child: if start() raises, there is none."""
    house = House(sweep, "one_for_all")
    value = None
    async with house as supervisor:
        await supervisor.start(house.child("a", 0.5), name="a")
        with sweep.victim():
            value = await supervisor.start(house.child("b", up=1, ends=0.5), name="b")
        assert {child.name for child in supervisor.statistics().children} == ({"a"} if value is None else {"a", "b"})
        assert ("b" in house.living) <= (value is not None)
        await trio.sleep(3)
        assert sorted(house.living) == (["a"] if value is None else ["a", "b"])


async def failing_start(sweep: Sweep) -> None:
    """The victim starts a child that fails before it is up."""
    house = House(sweep)

    async def broken(*, task_status: Any) -> None:
        await trio.sleep(0.5)
        raise KeyError("broken")

    async with house as supervisor:
        await supervisor.start(house.child("a"), name="a")
        with sweep.victim():
            try:
                await supervisor.start(broken)
            except KeyError:
                await trio.lowlevel.checkpoint()
        assert [child.name for child in supervisor.statistics().children] == ["a"]


async def asks(sweep: Sweep, strategy: str) -> None:
    """The victim stops and restarts: what it has asked for is done all the same."""
    house, asked = House(sweep, strategy), list[str]()
    async with house as supervisor:
        for name in "abc":
            await supervisor.start(house.child(name, ends=0.25, obeys=0.25 if name == "b" else None), name=name)
        with sweep.victim():
            await trio.sleep(0.25)
            asked.append("restart b")
            await supervisor.restart("b")
            await trio.sleep(0.25)
            asked.append("stop b")
            await supervisor.stop("b")
        await trio.sleep(4)
        expected = {1: 1, 2: 2}.get(house.runs["b"])
        assert expected == (2 if "restart b" in asked else 1)
        assert sorted(house.living) == (["a", "c"] if "stop b" in asked else ["a", "b", "c"])


async def asks_alone(sweep: Sweep) -> None:
    await asks(sweep, "one_for_one")


async def asks_group(sweep: Sweep) -> None:
    await asks(sweep, "rest_for_one")


async def nested(sweep: Sweep) -> None:
    """The victim is the supervisor above; those below end with it."""
    house = House(sweep)
    below = House(sweep, max_restarts=0)

    async def branch(*, task_status: Any) -> None:
        house.runs["branch"] = 1
        house.living.append("branch")
        below.manager = open_supervisor("rest_for_one", backoff=[0.5], max_restarts=1, grace=0.5)
        try:
            async with below as inner:
                await inner.start(below.child("x", 0.5, 0.5, ends=0.25), name="x")
                await inner.start(below.child("y", obeys=0.25), name="y")
                task_status.started()
                await stop_requested().wait()
        finally:
            house.living.remove("branch")

    with sweep.victim():
        async with house as supervisor:
            await supervisor.start(branch, name="branch")
            await trio.sleep(5)


Scenario = Callable[[Sweep], Awaitable[None]]
SCENARIOS: list[Scenario] = [
    restarts,
    group,
    twice,
    again,
    grace,
    limit,
    starter,
    failing_start,
    asks_alone,
    asks_group,
    nested,
]


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_cancelled_at_any_moment_leaves_no_trace(scenario: Scenario) -> None:
    assert cancellation_sweep(scenario, seeds=range(4)).cancelled > 0


# --- the net itself: bugs that it must find --------------------------------------------------------------------------


def restarts_what_was_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    live = Run.live

    async def swallow(self: Run, forward: Any) -> Exception | None:
        try:
            return await live(self, forward)
        except trio.Cancelled as exc:
            return OSError(str(exc))

    monkeypatch.setattr(Run, "live", swallow)


def leaves_the_child_of_a_failed_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(self: Any, fn: Any, *args: Any, restart: Any = "always", name: str | None = None) -> Any:
        child = self._declare(fn, args, restart, name, has_status=True)
        return await self._tasks.start(functools.partial(self._keep, child), name=child.name)

    monkeypatch.setattr(Supervisor, "start", start)
    monkeypatch.setattr(Supervisor, "_forget", lambda self, child: child.leave())


def does_not_wait_for_whom_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stop_members(self: Any, one: Any) -> None:
        for child in reversed(one.members):
            if not child.run.over.is_set():
                self._ask_to_stop(child.run, "")

    monkeypatch.setattr(Supervisor, "_stop_members", stop_members)


def goes_on_with_a_round_that_was_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing() -> None:
        pass

    monkeypatch.setattr(module, "checkpoint_if_cancelled", nothing)


def forgets_a_stop_when_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stop(self: Any, name: str) -> None:
        child = self._find(name)
        self._ask_to_stop(child.run, "")
        await child.run.over.wait()
        child.is_leaving = True
        child.called.set()
        await child.gone.wait()

    monkeypatch.setattr(Supervisor, "stop", stop)


def forgets_those_that_wait_for_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    want = Supervisor._want_round

    def want_round(self: Any, cause: Child, *args: Any) -> None:
        if self._round is not None:
            self._round.pending.clear()
        want(self, cause, *args)

    monkeypatch.setattr(Supervisor, "_want_round", want_round)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "scenario"),
    [
        (restarts_what_was_cancelled, restarts),
        (leaves_the_child_of_a_failed_start, starter),
        (does_not_wait_for_whom_it_stops, group),
        (goes_on_with_a_round_that_was_given_up, again),
        (forgets_a_stop_when_it_is_cancelled, asks_alone),
        (forgets_those_that_wait_for_a_round, again),
    ],
)
def test_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(SweepFailure):
        cancellation_sweep(scenario)
