"""A Pipeline of guards as a block: the order of leaving, exceptions replaced on the way, and entries that are undone."""

from __future__ import annotations

import contextlib
import gc
from types import TracebackType
from typing import Any

import pytest
import trio

import trioresil
from trioresil import (
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    ConsecutiveFailures,
    Fallback,
    Keyed,
    Pipeline,
    RateLimitedError,
    Retry,
    TimedOutError,
    Timeout,
    TokenBucket,
)
from trioresil.testing import Recorder, Sweep, cancellation_sweep


class Guard(trioresil.abc.Policy):
    """A guard as a user writes it: notes what it sees, and may refuse, replace or swallow."""

    def __init__(
        self,
        name: str,
        log: list[str],
        *,
        refuses: BaseException | None = None,
        raises: BaseException | None = None,
        swallows: bool = False,
    ) -> None:
        self.name = name
        self._log = log
        self._refuses = refuses
        self._raises = raises
        self._swallows = swallows

    def link(self, inner: Any) -> Any:
        return inner  # pragma: no cover  # used as a block only

    def statistics(self) -> None:
        """Nothing."""

    async def __aenter__(self) -> None:
        self._log.append(f"enter {self.name}")
        if self._refuses is not None:
            raise self._refuses

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        assert kind is (None if error is None else type(error))
        assert traceback is (None if error is None else error.__traceback__)
        self._log.append(f"leave {self.name}{'' if error is None else f' with {error!r}'}")
        if self._raises is not None:
            raise self._raises
        return self._swallows


# --- leaving -----------------------------------------------------------------------------------------------------------


async def test_guards_are_entered_outermost_first_and_left_innermost_first() -> None:
    log: list[str] = []
    async with Pipeline(Guard("a", log), Pipeline(Guard("b", log)), Guard("c", log)):
        log.append("body")
    assert log == ["enter a", "enter b", "enter c", "body", "leave c", "leave b", "leave a"]


async def test_every_guard_sees_the_bodys_error_and_it_comes_out_as_it_was() -> None:
    log: list[str] = []
    error = ValueError("x")
    cause = KeyError("cause")
    with pytest.raises(ValueError, match="x") as caught:
        async with Pipeline(Guard("a", log), Guard("b", log)):
            raise error from cause
    assert caught.value is error
    assert error.__cause__ is cause
    assert error.__context__ is None
    assert log[2:] == ["leave b with ValueError('x')", "leave a with ValueError('x')"]


async def test_an_error_replaced_on_the_way_is_what_the_guards_further_out_see() -> None:
    log: list[str] = []
    replacement = KeyError("new")
    with pytest.raises(KeyError) as caught:
        async with Pipeline(Guard("a", log), Guard("b", log, raises=replacement), Guard("c", log)):
            raise ValueError("old")
    assert caught.value is replacement
    assert log[3:] == [
        "leave c with ValueError('old')",
        "leave b with ValueError('old')",
        "leave a with KeyError('new')",
    ]


async def test_an_error_that_a_guard_raises_after_a_good_body_goes_through_those_further_out() -> None:
    log: list[str] = []
    late = KeyError("late")
    with pytest.raises(KeyError) as caught:
        async with Pipeline(Guard("a", log), Guard("b", log, raises=late), Guard("c", log)):
            pass
    assert caught.value is late
    assert log[3:] == ["leave c", "leave b", "leave a with KeyError('late')"]


async def test_a_guard_that_swallows_leaves_those_further_out_a_good_end() -> None:
    log: list[str] = []
    async with Pipeline(Guard("a", log), Guard("b", log, swallows=True), Guard("c", log)):
        raise ValueError("x")
    assert log[3:] == ["leave c with ValueError('x')", "leave b with ValueError('x')", "leave a"]


async def test_a_new_error_may_be_swallowed_too() -> None:
    log: list[str] = []
    async with Pipeline(Guard("a", log, swallows=True), Guard("b", log, raises=KeyError("new"))):
        raise ValueError("x")
    assert log[-1] == "leave a with KeyError('new')"


async def test_the_time_out_of_an_inner_timeout_is_a_failure_to_a_breaker_around_it(autojump_clock: Any) -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(1))
    with pytest.raises(TimedOutError) as caught:
        async with Pipeline(breaker, Timeout(2)):
            await trio.sleep(3)
    assert caught.value.started is None
    assert breaker.state is trioresil.CircuitState.OPEN
    assert trio.current_time() == 2


async def test_the_same_pipeline_is_shared_and_nested(autojump_clock: Any) -> None:
    bulkhead, bucket = Bulkhead(4), TokenBucket(rate=1, capacity=4)
    pipeline = Pipeline(Timeout(60), bulkhead, bucket)

    async def work() -> None:
        async with pipeline:
            async with pipeline:
                await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(work)
    assert bulkhead.statistics().inside == 0
    assert bucket.statistics().granted == 4


async def test_interrupts_and_cancellations_are_no_verdict_on_the_way_out(autojump_clock: Any) -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(1))
    bulkhead = Bulkhead(1)
    pipeline = Pipeline(Timeout(9), breaker, bulkhead)
    with trio.move_on_after(1):
        async with pipeline:
            await trio.sleep(3)
    with pytest.raises(KeyboardInterrupt):
        async with pipeline:
            raise KeyboardInterrupt
    assert breaker.state is trioresil.CircuitState.CLOSED
    assert bulkhead.statistics().inside == 0
    async with pipeline:
        pass


# --- an entry that is undone -------------------------------------------------------------------------------------------


async def test_guards_entered_before_a_refusal_are_left_with_it_innermost_first() -> None:
    log: list[str] = []
    refusal = OSError("no")
    with pytest.raises(OSError, match="no") as caught:
        async with Pipeline(Guard("a", log), Guard("b", log), Guard("c", log, refuses=refusal), Guard("d", log)):
            pytest.fail("entered")  # pragma: no cover
    assert caught.value is refusal
    assert log == ["enter a", "enter b", "enter c", "leave b with OSError('no')", "leave a with OSError('no')"]


async def test_a_refusal_comes_out_even_if_a_guard_would_swallow_it_for_the_body_cannot_be_skipped() -> None:
    log: list[str] = []
    refusal = OSError("no")
    with pytest.raises(OSError, match="no") as caught:
        async with Pipeline(Guard("a", log), Guard("b", log, swallows=True), Guard("c", log, refuses=refusal)):
            pytest.fail("entered")  # pragma: no cover
    assert caught.value is refusal
    assert log[-1] == "leave a"


async def test_what_a_guard_raises_while_an_entry_is_undone_replaces_the_refusal() -> None:
    log: list[str] = []
    worse = KeyError("worse")
    with pytest.raises(KeyError) as caught:
        async with Pipeline(Guard("a", log), Guard("b", log, raises=worse), Guard("c", log, refuses=OSError("no"))):
            pytest.fail("entered")  # pragma: no cover
    assert caught.value is worse
    assert not hasattr(worse, "started")
    assert log[-1] == "leave a with KeyError('worse')"


def full_bulkhead() -> Bulkhead:
    return Bulkhead(0, max_wait=0)


async def test_a_rejection_is_no_verdict_for_the_breaker_around_it_and_gives_every_permit_back() -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(1))
    bulkhead = Bulkhead(1)
    with pytest.raises(BulkheadFullError) as caught:
        async with Pipeline(Timeout(5), bulkhead, breaker, full_bulkhead()):
            pytest.fail("entered")  # pragma: no cover
    assert caught.value.started is False
    assert bulkhead.statistics().inside == 0
    assert breaker.statistics().inside == 0
    assert breaker.state is trioresil.CircuitState.CLOSED


async def test_time_that_went_in_a_later_guards_queue_is_no_failure_to_a_breaker_between(autojump_clock: Any) -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(1))
    empty = TokenBucket(rate=0.01)
    empty.acquire_nowait()
    with pytest.raises(TimedOutError) as caught:
        async with Pipeline(Timeout(30, name="outer"), breaker, Timeout(2, name="inner"), Bulkhead(1), empty):
            pytest.fail("entered")  # pragma: no cover
    assert caught.value.policy == "inner"
    assert caught.value.started is False
    assert breaker.state is trioresil.CircuitState.CLOSED
    assert trio.current_time() == 2


async def test_it_is_the_outer_timeout_that_is_named_if_its_time_is_up_in_a_queue(autojump_clock: Any) -> None:
    empty = TokenBucket(rate=0.01)
    empty.acquire_nowait()
    with pytest.raises(TimedOutError) as caught:
        async with Pipeline(Timeout(2, name="outer"), Pipeline(Bulkhead(1), Pipeline(empty))):
            pytest.fail("entered")  # pragma: no cover
    assert (caught.value.policy, caught.value.started) == ("outer", False)


async def test_a_foreign_time_out_that_refuses_an_entry_keeps_what_it_says() -> None:
    log: list[str] = []
    foreign = TimedOutError("elsewhere", 3, started=True)
    with pytest.raises(TimedOutError) as caught:
        async with Pipeline(Guard("a", log, raises=foreign), Guard("b", log, refuses=foreign)):
            pytest.fail("entered")  # pragma: no cover
    assert caught.value is foreign
    assert foreign.started is True


async def test_a_time_out_in_the_body_is_not_said_to_be_unstarted(autojump_clock: Any) -> None:
    with pytest.raises(TimedOutError) as caught:
        async with Pipeline(Timeout(2), Bulkhead(1)):
            await trio.sleep(3)
    assert caught.value.started is None


async def test_a_cancelled_entry_leaves_nothing_behind(autojump_clock: Any) -> None:
    bulkhead, empty = Bulkhead(1), TokenBucket(rate=0.01)
    empty.acquire_nowait()
    with trio.move_on_after(3) as scope:
        async with Pipeline(Timeout(50), bulkhead, empty):
            pytest.fail("entered")  # pragma: no cover
    assert scope.cancelled_caught
    assert bulkhead.statistics().inside == 0
    assert empty.statistics().waiting == 0


def test_an_entry_cancelled_at_any_moment_leaves_nothing_behind() -> None:
    async def scenario(sweep: Sweep) -> None:
        bulkhead, bucket, breaker = Bulkhead(1), TokenBucket(rate=1), CircuitBreaker()
        pipeline = Pipeline(Timeout(90), breaker, bulkhead, Timeout(80), bucket)
        entered = 0

        async def other() -> None:
            nonlocal entered
            async with pipeline:
                entered += 1
                await trio.sleep(0.5)

        async def victim() -> None:
            nonlocal entered
            with sweep.victim():
                async with pipeline:
                    entered += 1
                    await trio.sleep(0.5)

        async with trio.open_nursery() as nursery:
            for each in (other, victim, other):
                nursery.start_soon(each)
        assert bulkhead.statistics().inside == 0
        assert bucket.statistics().waiting == 0
        assert bucket.statistics().granted >= entered >= 2
        assert breaker.statistics().inside == 0

    report = cancellation_sweep(scenario)
    assert report.cancelled > 20


# --- what can't be a block -----------------------------------------------------------------------------------------------

CALLERS = [
    Retry(on=OSError),
    Fallback(on=OSError, default=0),
    Keyed(lambda key: CircuitBreaker(name=key), key=str),
]


@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.name)
async def test_what_has_to_call_can_not_guard_a_block_and_nothing_is_entered(caller: Any) -> None:
    log: list[str] = []
    inner = Pipeline(caller, name="inner")
    for pipeline in (Pipeline(Guard("a", log), caller, name="p"), Pipeline(Guard("a", log), Pipeline(inner), name="p")):
        with pytest.raises(TypeError) as caught:
            async with pipeline:
                pytest.fail("entered")  # pragma: no cover
        assert str(caught.value) == (
            f"p: {caller!r} can't guard a block, because it has to call what it guards: "
            "put the block's work into an async function and use `await pipeline.call(fn)`"
        )
    assert log == []


async def test_a_block_of_a_rejecting_breaker_is_refused(autojump_clock: Any) -> None:
    breaker = CircuitBreaker()
    breaker.open(7)
    recorder = Recorder()
    with trioresil.instrument(recorder), pytest.raises(CircuitOpenError) as caught:
        async with Pipeline(Timeout(2), breaker, Bulkhead(1)):
            pytest.fail("entered")  # pragma: no cover
    assert caught.value.retry_after == 7
    assert len(recorder.of(trioresil.CallRejected)) == 1


async def test_a_block_leaves_no_reference_cycle_through_the_error() -> None:
    class Replacing(Guard):
        async def __aexit__(self, *_: object) -> bool:
            raise KeyError("new")

    async def fail() -> None:
        async with Pipeline(Guard("a", []), Replacing("b", [])):
            raise ValueError("old")

    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(KeyError):
            await fail()
        frames = [each for each in gc.get_objects() if type(each).__name__ == "frame"]
        names = [each.f_code.co_name for each in frames]
    finally:
        gc.enable()
    assert "_leave" not in names


async def test_rejections_of_a_bucket_name_the_wait(autojump_clock: Any) -> None:
    bucket = TokenBucket(rate=0.5, max_wait=1)
    pipeline = Pipeline(Bulkhead(3), bucket)
    async with pipeline:
        pass
    with pytest.raises(RateLimitedError) as caught:
        async with pipeline:
            pytest.fail("entered")  # pragma: no cover
    assert caught.value.retry_after == 2.0
