"""The sweep finds every planted bug, passes every correct twin, and tells the truth about what it did."""

from __future__ import annotations

import itertools
import logging
import pickle
import random
import signal
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio._core._run as trio_run

from tests.testing import planted_bugs as bugs
from trioresil.testing._sweep import Moment, Sweep, SweepFailure, SweepReport, cancellation_sweep

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Scenario = Callable[[Sweep], Awaitable[object]]


# ---- scenarios: each is given the primitive, so that the bug and its twin are swept alike


async def slots_scenario(kind: type[bugs.Slots], sweep: Sweep) -> None:
    slots = kind()
    sweep.when_quiet(slots.check)
    done: list[str] = []

    async def other(name: str, seconds: float) -> None:
        await slots.use(seconds)
        done.append(name)

    async def victim() -> None:
        with sweep.victim():
            await slots.use(1)
            done.append("victim")

    async with trio.open_nursery() as nursery:
        for name, seconds in (("first", 1.0), ("second", 0.5)):
            nursery.start_soon(other, name, seconds)
        nursery.start_soon(victim)
        nursery.start_soon(other, "last", 1.0)
    slots.check()
    assert slots.free == 1
    assert not slots.queue
    assert set(done) >= {"first", "second", "last"}
    assert ("victim" in done) is not sweep.victim_cancelled


async def ticker_scenario(kind: type[bugs.Ticker], sweep: Sweep) -> None:
    ticker = kind()
    sweep.when_quiet(ticker.check)
    passed_at: list[float] = []

    async def wait() -> None:
        await ticker.wait()
        passed_at.append(trio.current_time())

    async def victim() -> None:
        with sweep.victim():
            await wait()

    async with trio.open_nursery() as nursery:
        for fn in (wait, victim, wait, wait):
            nursery.start_soon(fn)
    ticker.check()
    assert ticker.head is None
    assert passed_at == ([0, 1, 2] if sweep.victim_cancelled else [0, 1, 2, 3])


async def breaker_scenario(kind: type[bugs.Breaker], sweep: Sweep) -> None:
    breaker = kind()
    with sweep.victim():
        await breaker.call(partial(trio.sleep, 1))
    verdicts = len(breaker.verdicts)
    await breaker.call(trio.lowlevel.checkpoint)
    assert verdicts == (0 if sweep.victim_cancelled else 1)


async def hedge_scenario(hedge: Callable[..., Awaitable[bugs.Connection]], sweep: Sweep) -> None:
    opened: list[bugs.Connection] = []
    delays = iter((3.0, 1.0))

    async def connect() -> bugs.Connection:
        await trio.sleep(next(delays))
        return bugs.Connection(opened)

    returned: bugs.Connection | None = None
    with sweep.victim():
        returned = await hedge(connect, delay=1)
    assert [connection for connection in opened if connection.is_open] == ([returned] if returned else [])


async def sleep_scenario(sleep: Callable[[float], Awaitable[None]], sweep: Sweep) -> None:
    with sweep.victim():
        await sleep(1)


async def turnstile_scenario(kind: type[bugs.Turnstile], sweep: Sweep) -> None:
    turnstile = kind()

    async def victim() -> None:
        with sweep.victim():
            await turnstile.meet()

    async def late() -> None:
        await trio.sleep(1)
        await turnstile.meet()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(victim)
        nursery.start_soon(late)


# ---- the planted bugs

PLANTED: dict[str, tuple[Callable[..., Awaitable[None]], object, object, str]] = {
    "checkpoint between acquire and try": (slots_scenario, bugs.CheckpointBeforeTry, bugs.Slots, "assert 0 == 1"),
    "wake, then take": (slots_scenario, bugs.WakeThenTake, bugs.WakeThenTakePassedOn, "somebody waits for it"),
    "abort forgets its queue entry": (slots_scenario, bugs.ForgottenEntry, bugs.Slots, "hang|assert"),
    "cancelled head keeps the baton": (ticker_scenario, bugs.KeptBaton, bugs.Ticker, "hang|assert"),
    "leaked half-open probe": (breaker_scenario, bugs.LeakedProbe, bugs.Breaker, "NotAdmittedError"),
    "hedge without the winner guard": (hedge_scenario, bugs.hedge_without_guard, bugs.hedge, "assert"),
    "swallowed cancellation": (sleep_scenario, bugs.swallowing_sleep, bugs.patient_sleep, "swallowed its cancellation"),
    "livelock": (sleep_scenario, bugs.spinning_sleep, bugs.polling_sleep, "livelock: 150 steps.*at virtual time 0"),
    "hang": (turnstile_scenario, bugs.SilentTurnstile, bugs.Turnstile, r"hang: .*late at planted_bugs\.py:\d+"),
}


def sweep_planted(name: str, *, buggy: bool, **options: object) -> SweepReport:
    scenario, bug, twin, _ = PLANTED[name]
    return cancellation_sweep(partial(scenario, bug if buggy else twin), max_steps=150, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PLANTED)
def test_planted_bug_is_flagged_with_a_clear_message(name: str, record_property: Callable[[str, object], None]) -> None:
    report = sweep_planted(name, buggy=True, collect=True)
    record_property("flagged", str(report))
    print(f"{name}: {report}")
    assert 0 < len(report.failures) <= report.moments
    first = report.failures[0]
    with pytest.raises(SweepFailure, match=f"(?s){PLANTED[name][3]}") as caught:
        sweep_planted(name, buggy=True)
    assert caught.value.moment == first.moment


@pytest.mark.parametrize("name", PLANTED)
def test_correct_twin_passes_at_every_moment(name: str) -> None:
    report = sweep_planted(name, buggy=False)
    assert report.failures == ()
    assert 0 < report.cancelled <= report.moments
    assert report.runs == report.moments + 2 * 3


# ---- moments and replay


async def small(sweep: Sweep) -> None:
    with sweep.victim():
        await trio.lowlevel.checkpoint()


def test_moments_are_complete_for_a_scenario_small_enough_to_count() -> None:
    seen: list[tuple[str, int, bool]] = []

    async def scenario(sweep: Sweep) -> None:
        with sweep.victim():
            await trio.lowlevel.checkpoint()
        seen.append((sweep.moment.when, sweep.moment.step, sweep.victim_cancelled))

    report = cancellation_sweep(scenario, seeds=[7])
    rehearsals, moments = seen[:2], seen[2:]
    assert rehearsals == [("never", 0, False)] * 2
    assert moments == [("entry", 3, True), ("after", 3, True), ("before", 4, True)]
    assert report == SweepReport(moments=3, runs=5, cancelled=3, failures=())
    assert str(report) == "0 of 3 moments failed"


def test_a_grant_that_was_not_yet_resumed_is_a_moment_of_its_own() -> None:
    granted_and_cancelled: list[Moment] = []

    async def set_later(event: trio.Event) -> None:
        await trio.sleep(1)
        event.set()

    async def scenario(sweep: Sweep) -> None:
        event = trio.Event()
        with sweep.victim() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(set_later, event)
                await event.wait()
                if scope.cancel_called:
                    granted_and_cancelled.append(sweep.moment)

    cancellation_sweep(scenario)
    assert {moment.when for moment in granted_and_cancelled} == {"before", "after"}


def test_one_moment_is_replayed_alone() -> None:
    failure = sweep_planted("wake, then take", buggy=True, collect=True).failures[-1]
    with pytest.raises(SweepFailure) as caught:
        sweep_planted("wake, then take", buggy=True, only=failure.moment)
    assert caught.value.moment == failure.moment
    assert str(caught.value) == str(failure)
    report = sweep_planted("wake, then take", buggy=False, only=failure.moment)
    assert (report.moments, report.runs) == (1, 3)


def test_a_rehearsal_is_replayed_alone() -> None:
    report = cancellation_sweep(small, only=Moment(seed=3, when="never"))
    assert (report.moments, report.runs, report.cancelled) == (0, 2, 0)


def test_a_moment_that_the_scenario_does_not_have_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"only must be a moment of this scenario \(steps \d+ to \d+\), not Moment\(seed=0"
    ):
        cancellation_sweep(small, only=Moment(seed=0, when="after", step=999))


def test_a_moment_prints_as_its_own_replay() -> None:
    moment = Moment(seed=0, when="before", step=12, task="worker")
    assert str(moment) == "seed 0, before step 12 of worker"
    assert eval(repr(moment)) == moment
    assert moment == Moment(seed=0, when="before", step=12)
    assert str(Moment(seed=1, when="never")) == "seed 1, without a cancellation"
    assert str(Moment(seed=1, when="entry", step=4)) == "seed 1, on entry, in step 4"


def test_cancellation_carries_the_moment_as_its_reason() -> None:
    reasons: set[str | None] = set()
    moments: set[str] = set()

    async def scenario(sweep: Sweep) -> None:
        with sweep.victim():
            try:
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as cancelled:
                moments.add(f"cancellation sweep: {sweep.moment}")
                reasons.add(cancelled.reason)
                raise

    cancellation_sweep(scenario)
    assert reasons == moments
    assert len(reasons) > 3


# ---- schedules


async def order_of_starts(sweep: Sweep, orders: dict[int, set[str]]) -> None:
    order: list[str] = []

    async def note(name: str) -> None:
        order.append(name)
        await trio.lowlevel.checkpoint()

    with sweep.victim():
        await trio.lowlevel.checkpoint()
    async with trio.open_nursery() as nursery:
        for name in "abcd":
            nursery.start_soon(note, name)
    if sweep.moment.when == "never":
        orders.setdefault(sweep.moment.seed, set()).add("".join(order))


def test_seeds_vary_the_schedule_and_each_repeats_its_own() -> None:
    orders: dict[int, set[str]] = {}
    cancellation_sweep(partial(order_of_starts, orders=orders), seeds=range(8))
    assert all(len(seen) == 1 for seen in orders.values())
    assert len(set.union(*orders.values())) > 3


def test_chance_from_the_sweep_is_the_same_in_every_run_of_a_seed() -> None:
    drawn: dict[int, set[float]] = {}

    async def scenario(sweep: Sweep) -> None:
        drawn.setdefault(sweep.moment.seed, set()).add(sweep.rng.random())
        with sweep.victim():
            await trio.sleep(sweep.rng.random())

    cancellation_sweep(scenario, seeds=[0, 1])
    assert [len(values) for values in drawn.values()] == [1, 1]
    assert drawn[0] != drawn[1]


def test_globals_of_trio_are_restored_after_success_and_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    for flag in (False, True):
        monkeypatch.setattr(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", flag)
        state = trio_run._r.getstate()
        cancellation_sweep(small)
        assert (trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r.getstate()) == (flag, state)
        with pytest.raises(SweepFailure):
            sweep_planted("livelock", buggy=True)
        assert (trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r.getstate()) == (flag, state)
    assert trio.run(trio.sleep, 0) is None


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (trio_run, "_r"),
        (trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING"),
        (trio.lowlevel.Task, "_next_send"),
    ],
)
def test_a_changed_trio_is_reported_and_not_guessed_at(
    owner: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(owner, name)
    with pytest.raises(RuntimeError, match=r"can't pin the schedule of trio \d"):
        cancellation_sweep(small)


# ---- scenarios that can't be swept


def test_a_scenario_that_takes_other_steps_each_time_is_refused() -> None:
    runs = itertools.count(1)

    async def scenario(sweep: Sweep) -> None:
        with sweep.victim():
            for _ in range(next(runs)):
                await trio.lowlevel.checkpoint()

    with pytest.raises(
        RuntimeError, match=r"not deterministic: two runs with seed 0, uncancelled, differ: 10 steps at first, then 11"
    ):
        cancellation_sweep(scenario)


def test_a_scenario_that_goes_another_way_later_is_refused() -> None:
    runs = itertools.count(1)

    async def scenario(sweep: Sweep) -> None:
        if next(runs) > 4:
            return
        with sweep.victim():
            await trio.sleep(1)

    with pytest.raises(RuntimeError, match="went another way before that moment"):
        cancellation_sweep(scenario)


def test_state_that_outlives_a_run_is_refused_with_the_error_it_caused() -> None:
    shared: list[int] = []

    async def scenario(sweep: Sweep) -> None:
        assert not shared
        with sweep.victim():
            await trio.sleep(1)
        shared.append(1)

    with pytest.raises(RuntimeError, match="an object that outlives the run") as caught:
        cancellation_sweep(scenario)
    assert isinstance(caught.value.__cause__, AssertionError)


def test_a_scenario_without_a_victim_is_refused() -> None:
    async def scenario(sweep: Sweep) -> None:
        await trio.sleep(1)

    with pytest.raises(RuntimeError, match=r"never opened sweep\.victim\(\)"):
        cancellation_sweep(scenario)


def test_a_second_victim_is_refused() -> None:
    async def scenario(sweep: Sweep) -> None:
        for _ in range(2):
            with sweep.victim():
                await trio.sleep(1)

    with pytest.raises(SweepFailure, match=r"opened twice"):
        cancellation_sweep(scenario)


async def test_a_sweep_inside_a_trio_run_is_refused() -> None:
    with pytest.raises(RuntimeError, match="call it from a plain def"):
        cancellation_sweep(small)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (TypeError, {"seeds": ["0"]}, "seeds must be a whole number >= 0, not '0'"),
        (ValueError, {"seeds": [-1]}, "seeds must be a whole number >= 0, not -1"),
        (ValueError, {"seeds": []}, "seeds must hold at least one seed"),
        (ValueError, {"max_steps": 0}, "max_steps must be a whole number >= 1, not 0"),
        (TypeError, {"max_steps": True}, "max_steps must be a whole number >= 1, not True"),
        (TypeError, {"collect": 1}, "collect must be True or False, not 1"),
        (TypeError, {"only": 3}, "only must be a Moment, not 3"),
    ],
)
def test_wrong_arguments_are_refused_by_name(kind: type[Exception], options: dict[str, object], message: str) -> None:
    with pytest.raises(kind, match=message):
        cancellation_sweep(small, **options)  # type: ignore[arg-type]


def test_a_scenario_that_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match="scenario must be an async function"):
        cancellation_sweep(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("check", [None, 3, trio.sleep])
def test_an_invariant_that_is_no_plain_function_is_refused(check: object) -> None:
    async def scenario(sweep: Sweep) -> None:
        sweep.when_quiet(check)  # type: ignore[arg-type]

    with pytest.raises(SweepFailure, match=r"TypeError: check must be a (plain )?function"):
        cancellation_sweep(scenario)


# ---- what counts as a failure


def test_a_failure_without_any_cancellation_is_raised_even_when_collecting() -> None:
    async def scenario(sweep: Sweep) -> None:
        raise KeyError("broken anyway")

    with pytest.raises(SweepFailure, match="seed 0, without a cancellation: KeyError") as caught:
        cancellation_sweep(scenario, collect=True)
    assert caught.value.moment == Moment(seed=0, when="never")


def test_the_cause_is_the_bare_error_itself() -> None:
    error = LookupError("mine")

    async def fail() -> None:
        raise error

    async def scenario(sweep: Sweep) -> None:
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            with sweep.victim():
                await trio.sleep(1)
            if sweep.victim_cancelled:
                (inner if sweep.rng.random() < 0.5 else outer).start_soon(fail)

    with pytest.raises(SweepFailure, match="LookupError: mine") as caught:
        cancellation_sweep(scenario)
    assert caught.value.error is error
    assert caught.value.__cause__ is error


def test_two_real_errors_stay_a_group() -> None:
    async def fail(kind: type[Exception]) -> None:
        raise kind

    async def scenario(sweep: Sweep) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, KeyError)
            nursery.start_soon(fail, OSError)

    with pytest.raises(SweepFailure) as caught:
        cancellation_sweep(scenario)
    assert isinstance(caught.value.error, ExceptionGroup)


def test_failure_by_pytest_fail_is_located_as_well() -> None:
    async def scenario(sweep: Sweep) -> None:
        with sweep.victim():
            await trio.sleep(1)
        if sweep.victim_cancelled:
            pytest.fail("told so")

    with pytest.raises(SweepFailure, match=r"on entry.*told so"):
        cancellation_sweep(scenario)


@pytest.mark.parametrize("grouped", [False, True])
def test_keyboard_interrupt_is_no_failure_and_ends_the_sweep(grouped: bool) -> None:
    async def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)
        await trio.sleep(1)

    async def scenario(sweep: Sweep) -> None:
        if not grouped:
            await interrupt()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupt)
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)):
        cancellation_sweep(scenario)


def test_failure_survives_pickling() -> None:
    failure = SweepFailure(Moment(seed=0, when="after", step=3), ValueError("no"))
    assert str(pickle.loads(pickle.dumps(failure))) == str(failure)


def test_a_failed_invariant_is_the_cause_and_not_what_its_run_did_next() -> None:
    async def scenario(sweep: Sweep) -> None:
        sweep.when_quiet(lambda: trio.current_time() < 2)
        with sweep.victim():
            await trio.sleep(1)
        try:
            await trio.sleep(5)
            await trio.sleep(5)
        finally:
            raise OSError("in the clean-up")

    with pytest.raises(SweepFailure, match="an invariant is False while every task is blocked: <function") as caught:
        cancellation_sweep(scenario)
    assert isinstance(caught.value.error, AssertionError)


def test_the_first_of_two_problems_in_a_run_is_the_one_reported() -> None:
    async def scenario(sweep: Sweep) -> None:
        sweep.when_quiet(lambda: sweep.moment.when == "never")
        try:
            with sweep.victim():
                await trio.sleep(1)
            await trio.sleep(1)
        finally:
            if sweep.moment.when != "never":
                trio.lowlevel.spawn_system_task(trio.sleep_forever)

    with pytest.raises(SweepFailure, match="an invariant is False"):
        cancellation_sweep(scenario)


def test_invariants_are_not_asked_between_a_deadline_and_its_sleeper() -> None:
    async def scenario(sweep: Sweep) -> None:
        next_at = 1.0
        sweep.when_quiet(lambda: trio.current_time() < next_at)
        with sweep.victim():
            for next_at in (2.0, 3.0, 4.0):
                await trio.sleep_until(next_at - 1)
        next_at = 10.0

    cancellation_sweep(scenario)


def test_invariants_are_asked_while_a_task_waits_for_all_others_to_block() -> None:
    asked = itertools.count()

    async def scenario(sweep: Sweep) -> None:
        sweep.when_quiet(lambda: next(asked) >= 0)
        with sweep.victim():
            await trio.testing.wait_all_tasks_blocked()

    cancellation_sweep(scenario, only=Moment(seed=0, when="never"))
    assert next(asked) == 2  # once in each rehearsal


def test_a_system_task_that_outlives_the_scenario_is_a_failure() -> None:
    async def scenario(sweep: Sweep) -> None:
        with sweep.victim():
            await trio.sleep(1)
        if sweep.victim_cancelled:
            trio.lowlevel.spawn_system_task(trio.sleep_forever, name="stray")

    with pytest.raises(SweepFailure, match="tasks outlived the scenario: stray at"):
        cancellation_sweep(scenario)


def test_a_block_that_may_swallow_is_let_off() -> None:
    async def scenario(sweep: Sweep) -> None:
        with sweep.victim(may_swallow=True):
            await bugs.swallowing_sleep(1)

    report = cancellation_sweep(scenario)
    assert report.cancelled == 0
    assert report.moments > 0


def test_a_timeout_of_the_victim_itself_is_not_taken_for_a_swallowed_cancellation() -> None:
    async def scenario(sweep: Sweep) -> None:
        with sweep.victim(), trio.move_on_after(1):
            await trio.sleep_forever()

    assert cancellation_sweep(scenario).cancelled > 0


def test_a_victim_that_shields_its_last_wait_is_not_taken_for_one_that_swallows() -> None:
    async def scenario(sweep: Sweep) -> None:
        with sweep.victim(), trio.CancelScope(shield=True):
            await trio.sleep(1)

    assert cancellation_sweep(scenario).cancelled == 0


@pytest.mark.filterwarnings("error")
def test_a_hang_behind_a_shield_is_broken_off() -> None:
    async def scenario(sweep: Sweep) -> None:
        with sweep.victim():
            await trio.sleep(1)
        if sweep.victim_cancelled:
            with trio.CancelScope(shield=True):
                await trio.sleep_forever()

    started = time.perf_counter()
    with pytest.raises(SweepFailure, match=r"hang: every task is blocked.*scenario at test_sweep\.py:\d+"):
        cancellation_sweep(scenario)
    assert time.perf_counter() - started < 5


def test_a_loop_that_catches_everything_is_broken_off(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(sweep: Sweep) -> None:
        with sweep.victim():
            await trio.sleep(1)
        while sweep.victim_cancelled:
            try:
                await trio.sleep(1)
            except BaseException:
                continue

    with caplog.at_level(logging.DEBUG), pytest.raises(SweepFailure, match=r"livelock: 300 steps.*busiest .*scenario"):
        cancellation_sweep(scenario, max_steps=300)
    assert caplog.records == []  # an instrument of Trio that raises is logged and dropped


def test_a_sweep_takes_about_a_millisecond_a_run() -> None:
    started = time.perf_counter()
    report = sweep_planted("wake, then take", buggy=False)
    assert (time.perf_counter() - started) / report.runs < 0.05  # generous: this is about the order of magnitude


def test_global_random_state_is_left_alone() -> None:
    random.seed(1)
    state = random.getstate()
    cancellation_sweep(small)
    assert random.getstate() == state
