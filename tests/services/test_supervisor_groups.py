"""open_supervisor, children that are restarted together: who, in which order, and what happens when more fails meanwhile."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trioresil
from tests.services._children import Stage
from trioresil import ChildFailed, ChildRestarted, RestartLimitError, open_supervisor
from trioresil.testing import Recorder

exactly = functools.partial(open_supervisor, backoff=[1.0], grace=5.0)
ERROR = OSError()


async def start(supervisor: trioresil.Supervisor, stage: Stage, **children: dict[str, Any]) -> None:
    """Start children that come up at once, and drop what they wrote."""
    for name, options in children.items():
        lives = options.pop("lives", [])
        restart = options.pop("restart", "always")
        await supervisor.start(stage.child(name, *lives, **options), restart=restart)
    stage.take()


# --- order -----------------------------------------------------------------------------------------------------------


async def test_one_for_all_stops_in_reverse_and_starts_in_order_each_awaited(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly("one_for_all") as supervisor:
        for name in "abc":
            lives = [(3.0, ERROR)] if name == "b" else []
            await supervisor.start(stage.child(name, *lives, up=0.5, ends=2))
        stage.take()
        await trio.sleep(12)
        assert stage.take() == [
            "b- 4",
            *("c- 6", "a- 8"),  # one after the other, each takes 2 s
            *("a+ 8", "a! 8.5", "b+ 8.5", "b! 9", "c+ 9", "c! 9.5"),
        ]


async def test_rest_for_one_restarts_those_that_were_declared_later(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly("rest_for_one") as supervisor:
        await start(supervisor, stage, a={}, b={"lives": [(3, ERROR)]}, c={"up": 1}, d={"up": 1})
        await trio.sleep(8)
        assert stage.take() == ["b- 3", "d- 3", "c- 3", "b+ 4", "b! 4", "c+ 4", "c! 5", "d+ 5", "d! 6"]


async def test_last_one_is_restarted_alone_by_rest_for_one(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly("rest_for_one") as supervisor:
        await start(supervisor, stage, a={}, b={"lives": [(3, ERROR)]})
        await trio.sleep(8)
        assert stage.take() == ["b- 3", "b+ 4", "b! 4"]


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
async def test_children_of_start_soon_are_up_at_once(autojump_clock: MockClock, strategy: Any) -> None:
    stage = Stage()
    async with exactly(strategy) as supervisor:
        for name, lives in {"a": [(3.0, ERROR)], "b": [], "c": []}.items():
            supervisor.start_soon(stage.child(name, *lives))
            await wait_all_tasks_blocked()
        stage.take()
        await trio.sleep(8)
        assert [each for each in stage.take() if "!" not in each] == ["a- 3", "c- 3", "b- 3", "a+ 4", "b+ 4", "c+ 4"]


async def test_declared_order_is_that_of_the_calls_and_not_of_who_is_up_first(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly("one_for_all") as supervisor:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.start, stage.child("slow", up=2))
            await wait_all_tasks_blocked()
            nursery.start_soon(supervisor.start, stage.child("quick", up=1))
        stage.take()
        await supervisor.restart("quick")
        assert [each[:-2] for each in stage.take()] == ["quick-", "slow-", "slow+", "slow!", "quick+", "quick!"]


async def test_back_off_is_counted_from_the_failure_and_runs_while_others_stop(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with open_supervisor("one_for_all", backoff=[3, 3, 0]) as supervisor:
        await start(supervisor, stage, a={"lives": [(1, ERROR), (1, ERROR), (1, ERROR)]}, b={"ends": 2})
        await trio.sleep(14)
        assert stage.take() == [
            *("a- 1", "b- 3", "a+ 4", "a! 4", "b+ 4", "b! 4"),
            *("a- 5", "b- 7", "a+ 8", "a! 8", "b+ 8", "b! 8"),
            *("a- 9", "b- 11", "a+ 11", "a! 11", "b+ 11", "b! 11"),
        ]


async def test_soft_stop_of_a_sibling_takes_up_to_the_grace(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly("one_for_all", name="sup") as supervisor:
        await start(supervisor, stage, a={"obeys": 2}, b={"obeys": 9}, c={"lives": [(1, ERROR)]})
        await trio.sleep(10)
        assert stage.take() == ["c- 1", "b- 6", "a- 8", "a+ 8", "a! 8", "b+ 8", "b! 8", "c+ 8", "c! 8"]
        assert stage.reasons == ["sup: restarts with 'c'"]


# --- who is not run again --------------------------------------------------------------------------------------------


async def test_never_and_those_that_have_ended_are_not_run_again(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly("one_for_all") as supervisor:
        await start(
            supervisor,
            stage,
            a={"restart": "never"},
            b={"restart": "never", "lives": [(1, ERROR)]},
            c={"restart": "on_failure", "lives": [(1, None)]},
            d={"restart": "on_failure"},
            e={"lives": [(3, ERROR)]},
        )
        await trio.sleep(2)
        assert sorted(stage.take()) == ["b- 1", "c- 1"]
        await trio.sleep(6)
        assert stage.take() == [*("e- 3", "d- 3", "a- 3"), *("d+ 4", "d! 4", "e+ 4", "e! 4")]
        assert [child.name for child in supervisor.statistics().children] == ["d", "e"]
        assert supervisor.statistics().ended == 3


async def test_child_that_returns_before_its_turn_to_be_stopped_has_ended(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly("one_for_all") as supervisor:
        await start(
            supervisor,
            stage,
            a={"restart": "on_failure", "lives": [(3, None)]},
            b={"restart": "always", "lives": [(3, None)]},
            c={"ends": 4},
            d={"lives": [(2, ERROR)]},
        )
        await trio.sleep(9)
        assert stage.take()[-7:] == ["c- 6", "b+ 6", "b! 6", "c+ 6", "c! 6", "d+ 6", "d! 6"]
        assert supervisor.statistics().ended == 1


async def test_stopped_child_leaves_its_group_alone_and_is_not_run_again(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly("one_for_all") as supervisor:
        await start(supervisor, stage, a={}, b={}, c={"lives": [(3, ERROR)]})
        await supervisor.stop("b")
        assert stage.take() == ["b- 0"]
        await trio.sleep(5)
        assert stage.take() == ["c- 3", "a- 3", "a+ 4", "a! 4", "c+ 4", "c! 4"]


@pytest.mark.parametrize("instant", [2.5, 3.5])
async def test_stop_during_a_restart_of_the_group_keeps_a_child_from_it(
    autojump_clock: MockClock, instant: float
) -> None:
    stage = Stage()
    async with open_supervisor("one_for_all", backoff=[2]) as supervisor:
        await start(supervisor, stage, a={"ends": 1}, b={"ends": 0.25}, c={"lives": [(2, ERROR)]})
        await trio.sleep_until(instant)
        await supervisor.stop("a")  # while it is stopped; while the back-off runs
        await supervisor.stop("c")
        await trio.sleep(5)
        assert stage.take() == ["c- 2", "b- 2.25", "a- 3.25", "b+ 4", "b! 4"]


# --- what counts -----------------------------------------------------------------------------------------------------


async def test_common_cause_counts_once(autojump_clock: MockClock) -> None:
    stage, recorder = Stage(), Recorder()
    with trioresil.instrument(recorder):
        async with exactly("one_for_all", max_restarts=1) as supervisor:
            await start(supervisor, stage, **{name: {"lives": [(3, OSError(name))]} for name in "abc"})
            await trio.sleep(8)
            assert supervisor.statistics().restarts == 3
    assert sorted(event.outcome for event in recorder.of(ChildFailed)) == ["restarts", "stops", "stops"]
    assert sorted(event.reason for event in recorder.of(ChildRestarted)) == ["failed", "sibling", "sibling"]


async def test_failures_of_those_that_are_stopped_do_not_count(autojump_clock: MockClock) -> None:
    stage, recorder = Stage(), Recorder()
    with trioresil.instrument(recorder):
        async with exactly("one_for_all", max_restarts=1) as supervisor:
            await start(
                supervisor,
                stage,
                a={"failing": KeyError()},
                b={"lives": [(2, KeyError())]},  # before its turn
                c={"ends": 3},
                d={"lives": [(1, ERROR)]},
            )
            await trio.sleep(8)
    assert [(event.child, event.outcome) for event in recorder.of(ChildFailed)][:3] == [
        ("d", "restarts"),
        ("b", "stops"),
        ("a", "stops"),
    ]
    assert len(recorder.of(ChildRestarted)) == 4


async def test_limit_is_the_groups(autojump_clock: MockClock) -> None:
    stage = Stage()
    with pytest.raises(RestartLimitError) as caught:
        async with exactly("rest_for_one", max_restarts=2) as supervisor:
            await start(
                supervisor, stage, a={"lives": [(4.5, ERROR)]}, b={"lives": [(1, ERROR), (1, ERROR), (1, ERROR)]}
            )
            await trio.sleep_forever()
    assert trio.current_time() == 4.5
    assert (caught.value.child, caught.value.restarts) == ("a", 2)
    assert caught.value.__cause__ is ERROR
    assert stage.living == []


async def test_back_off_is_the_groups_and_starts_afresh_after_a_stable_time_of_all(autojump_clock: MockClock) -> None:
    stage, recorder = Stage(), Recorder()
    with trioresil.instrument(recorder):
        async with open_supervisor("one_for_all", backoff=[1, 2, 4], max_restarts=9, stable_after=10) as supervisor:
            await start(
                supervisor,
                stage,
                a={"lives": [(5, ERROR), (9, None), (11, None)]},
                b={"lives": [(7, None), (7, ERROR), (20, None), (9.5, ERROR)], "up": 0.5},
            )
            await trio.sleep(60)
    delays = [(event.child, event.delay) for event in recorder.of(ChildRestarted)]
    # The group is up again at 6.0 after a's first failure, since b needs half a second.
    assert delays == [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]


async def test_failure_while_the_group_is_being_restarted_is_no_end_of_a_stable_life(autojump_clock: MockClock) -> None:
    stage, recorder = Stage(), Recorder()
    with trioresil.instrument(recorder):
        async with open_supervisor("one_for_all", backoff=[1, 2, 4], max_restarts=9, stable_after=10) as supervisor:
            await start(supervisor, stage, a={"lives": [(20, ERROR), (3, ERROR)]}, b={"up": 4})
            await trio.sleep(40)
    assert [event.delay for event in recorder.of(ChildRestarted) if event.child == "a"] == [1, 2]


# --- more failures meanwhile -----------------------------------------------------------------------------------------


async def test_earlier_child_that_fails_during_the_back_off_takes_more_along(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with open_supervisor("rest_for_one", backoff=[4, 8]) as supervisor:
        await start(supervisor, stage, a={}, b={"lives": [(3, ERROR)]}, c={}, d={"lives": [(2, ERROR)]}, e={})
        await trio.sleep(15)
        assert stage.take() == [
            *("d- 2", "e- 2"),
            *("b- 3", "c- 3"),
            *("b+ 11", "b! 11", "c+ 11", "c! 11", "d+ 11", "d! 11", "e+ 11", "e! 11"),
        ]


async def test_earlier_child_that_fails_while_later_ones_stop_takes_more_along(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly("rest_for_one") as supervisor:
        await start(supervisor, stage, a={"lives": [(3, ERROR)]}, b={}, c={"lives": [(2, ERROR)]}, d={"ends": 4})
        await trio.sleep(9)
        assert stage.take() == [
            *("c- 2", "a- 3", "d- 6", "b- 6"),
            *("a+ 6", "a! 6", "b+ 6", "b! 6", "c+ 6", "c! 6", "d+ 6", "d! 6"),
        ]


async def test_child_that_fails_before_it_is_up_again_has_the_round_made_anew(autojump_clock: MockClock) -> None:
    stage, recorder = Stage(), Recorder()
    runs = []

    async def flaky(*, task_status: Any) -> None:
        runs.append(trio.current_time())
        if len(runs) in (2, 3):
            await trio.sleep(0.5)
            raise ERROR
        task_status.started()
        await trio.sleep_forever()

    with trioresil.instrument(recorder):
        async with exactly("one_for_all") as supervisor:
            await start(supervisor, stage, a={"lives": [(2, ERROR)]})
            await supervisor.start(flaky)
            await start(supervisor, stage, c={})
            await trio.sleep(9)
    assert runs == [0, 3, 4.5, 6]
    assert [each for each in stage.log if each[0] == "c"] == ["c- 2", "c+ 6", "c! 6", "c- 9"]
    assert [event.outcome for event in recorder.of(ChildFailed)] == ["restarts"] * 3


async def test_child_that_is_up_again_and_fails_while_later_ones_start(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly("rest_for_one") as supervisor:
        await start(supervisor, stage, b={"lives": [(5, ERROR), (1, ERROR)]}, c={"up": 2}, d={})
        await trio.sleep(10)
        assert stage.take() == [
            *("b- 5", "d- 5", "c- 5", "b+ 6", "b! 6", "c+ 6"),
            *("b- 7", "c- 7", "b+ 8", "b! 8", "c+ 8", "c! 10", "d+ 10", "d! 10"),
        ]


async def test_later_child_that_fails_while_others_start_does_not_stop_those_before_it(
    autojump_clock: MockClock,
) -> None:
    stage = Stage()
    async with exactly("rest_for_one") as supervisor:
        await start(
            supervisor, stage, a={"lives": [(5, ERROR)]}, b={"lives": [(9, None), (1, ERROR)]}, c={"up": 3}, d={}
        )
        await trio.sleep(10)
        assert stage.take() == [
            *("a- 5", "d- 5", "c- 5", "b- 5", "a+ 6", "a! 6", "b+ 6", "b! 6", "c+ 6"),
            *("b- 7", "c- 7", "b+ 8", "b! 8", "c+ 8", "c! 11", "d+ 11", "d! 11"),
        ]


async def test_new_child_that_fails_during_a_round_does_not_lose_those_that_wait_for_it(
    autojump_clock: MockClock,
) -> None:
    stage = Stage()
    async with open_supervisor("rest_for_one", backoff=[4, 1]) as supervisor:
        await start(supervisor, stage, a={"lives": [(1, ERROR)]}, b={})
        await trio.sleep(2)
        await supervisor.start(stage.child("new", (1, ERROR)))
        await trio.sleep(9)
        assert stage.take() == [
            *("a- 1", "b- 1", "new+ 2", "new! 2", "new- 3"),
            *("a+ 4", "a! 4", "b+ 4", "b! 4", "new+ 4", "new! 4"),
        ]


# --- by hand, and the end --------------------------------------------------------------------------------------------


async def test_restart_by_hand_takes_the_group_along_at_once_and_counts_for_nothing(autojump_clock: MockClock) -> None:
    stage, recorder = Stage(), Recorder()
    with trioresil.instrument(recorder):
        async with exactly("rest_for_one", max_restarts=0) as supervisor:
            await start(supervisor, stage, a={}, b={"up": 1}, c={"up": 2, "ends": 1})
            await supervisor.restart("b")
            assert trio.current_time() == 3 + 2  # c takes 1 s to stop, b another to come up
            await trio.sleep(2.5)
            assert stage.take() == ["c- 4", "b- 4", "b+ 4", "b! 5", "c+ 5", "c! 7"]
    assert [(event.child, event.reason, event.delay) for event in recorder.of(ChildRestarted)] == [
        ("b", "by hand", 0),
        ("c", "sibling", 0),
    ]


async def test_restart_by_hand_during_the_back_off_ends_it(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with open_supervisor("one_for_all", backoff=[9]) as supervisor:
        await start(supervisor, stage, a={"lives": [(1, ERROR)]}, b={})
        await trio.sleep(3)
        await supervisor.restart("b")
        assert stage.take() == ["a- 1", "b- 1", "a+ 3", "a! 3", "b+ 3", "b! 3"]
        await trio.sleep(20)
        assert stage.take() == []


async def test_restart_by_hand_of_one_that_is_never_restarted_runs_it_again(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly("one_for_all") as supervisor:
        await start(supervisor, stage, a={"restart": "never"}, b={"restart": "never"})
        await supervisor.restart("a")
        assert stage.take() == ["b- 0", "a- 0", "a+ 0", "a! 0"]
        assert [child.name for child in supervisor.statistics().children] == ["a"]


async def test_one_that_is_never_restarted_ends_if_another_is_restarted_before_its_turn(
    autojump_clock: MockClock,
) -> None:
    stage = Stage()
    async with exactly("one_for_all") as supervisor, trio.open_nursery() as nursery:
        await start(supervisor, stage, a={"ends": 2}, b={"restart": "never"})
        nursery.start_soon(supervisor.restart, "b")
        await trio.sleep(1)
        await supervisor.restart("a")
        assert stage.take() == ["b- 0", "a- 2", "a+ 2", "a! 2"]
        assert [child.name for child in supervisor.statistics().children] == ["a"]


async def test_child_may_restart_its_own_group(autojump_clock: MockClock) -> None:
    runs = []

    async def child() -> None:
        runs.append(trio.current_time())
        await trio.sleep(1)
        if len(runs) < 3:
            await supervisor.restart("me")
        await trio.sleep_forever()

    stage = Stage()
    async with exactly("one_for_all", max_restarts=0) as supervisor:
        await start(supervisor, stage, a={})
        supervisor.start_soon(child, name="me")
        await trio.sleep(9)
    assert runs == [0, 1, 2]
    assert len(stage.log) == 7


async def test_clean_end_during_a_round_starts_nobody_any_more(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly("rest_for_one") as supervisor:
        await start(supervisor, stage, slow={"obeys": 4}, a={"lives": [(1, ERROR)]}, b={})
        await trio.sleep(1.5)
        stage.take()
    assert stage.log == ["slow- 5.5"]


async def test_clean_end_while_a_group_is_stopped_leaves_the_others_their_time(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly("rest_for_one") as supervisor:
        await start(supervisor, stage, listens={"obeys": 4}, a={"lives": [(1, ERROR)]}, b={}, c={"ends": 2})
        await trio.sleep(2)
    assert stage.log == ["a- 1", "c- 3", "listens- 6", "b- 6"]


async def test_clean_end_while_a_round_starts_ends_those_that_are_up_or_coming_up(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly("one_for_all") as supervisor:
        await start(supervisor, stage, a={"obeys": 0.25}, b={"lives": [(1, ERROR)], "up": 1}, c={})
        await trio.sleep(2.5)
        assert stage.take()[-3:] == ["a+ 3", "a! 3", "b+ 3"]
        assert trio.current_time() == 3.5
    assert stage.log == ["a- 3.75", "b- 3.75"]


async def test_new_child_of_a_group_joins_when_it_is_up(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly("one_for_all") as supervisor, trio.open_nursery() as nursery:
        await start(supervisor, stage, a={"lives": [(1, ERROR), (4, ERROR)]})
        nursery.start_soon(supervisor.start, stage.child("new", up=3))
        await trio.sleep(9)
        assert stage.take() == [
            *("new+ 0", "a- 1", "a+ 2", "a! 2", "new! 3"),
            *("a- 6", "new- 6", "a+ 7", "a! 7", "new+ 7"),
        ]
        await trio.sleep(2)
        assert stage.take() == ["new! 10"]
