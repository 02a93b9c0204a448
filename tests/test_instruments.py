"""Instruments: who hears what, that listening never changes a call, and what is logged when nobody listens."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from typing import Any

import pytest
import trio
import trio.testing

import trioresil
from trioresil import (
    Bulkhead,
    CircuitBreaker,
    ConsecutiveFailures,
    Event,
    Fallback,
    Pipeline,
    PolicySeen,
    Retry,
    RetryScheduled,
    Timeout,
    TokenBucket,
    _instruments,
    _links,
)
from trioresil._redaction import without_secrets
from trioresil.testing import Recorder


class Policy:
    """Whatever an event is about."""

    def __init__(self, name: str = "mine") -> None:
        self.name = name


def report(policy: Any = None, **fields: Any) -> None:
    """Let something happen that an operator must see."""
    fields = {"attempt": 1, "delay": 0.5, "error": OSError("x"), **fields}
    _instruments.emit(RetryScheduled, policy=policy or Policy(), **fields)


def happened(recorder: Recorder) -> list[str]:
    return [each.name for each in recorder.events]


class Broken:
    """An instrument that raises at each event from the nth on."""

    def __init__(self, first: int = 1) -> None:
        self.first = first
        self.heard = 0

    def record(self, event: Event, /) -> None:
        self.heard += 1
        if self.heard >= self.first:
            raise ValueError("broken")

    def __repr__(self) -> str:
        return "<a broken instrument>"


@pytest.fixture(autouse=True)
def _nothing_is_left_installed() -> Any:
    assert _instruments.installed == 0
    yield
    assert _instruments.installed == 0


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, logger="trioresil")
    return caplog


# --- who hears -------------------------------------------------------------------------------------------------------------


async def test_a_block_hears_what_happens_in_it_and_nothing_before_or_after() -> None:
    recorder = Recorder()
    report(Policy("before"))
    with trioresil.instrument(recorder):
        report(Policy("within"))
    report(Policy("after"))
    assert happened(recorder) == ["within"]


async def test_nested_blocks_add_up_and_end_one_by_one() -> None:
    outer, inner = Recorder(), Recorder()
    with trioresil.instrument(outer):
        with trioresil.instrument(inner):
            assert _instruments.installed == 2
            report(Policy("both"))
        report(Policy("outer"))
    assert (happened(outer), happened(inner)) == (["both", "outer"], ["both"])


async def test_several_instruments_in_one_block() -> None:
    recorders = [Recorder(), Recorder(), Recorder()]
    with trioresil.instrument(*recorders), trioresil.instrument():
        report()
    assert [len(each.events) for each in recorders] == [1, 1, 1]


async def test_the_same_instrument_hears_each_event_once_however_often_it_is_installed() -> None:
    recorder = Recorder()
    with trioresil.instrument(recorder, recorder), trioresil.instrument(recorder):
        report(Policy("once"))
        _instruments.announce(Timeout(5, name="seen"))
    assert happened(recorder) == ["once", "seen"]


async def test_instruments_that_are_equal_are_still_two() -> None:
    class Equal(Recorder):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    first, second = Equal(), Equal()
    with trioresil.instrument(first, second):
        report()
    assert len(first.events) == len(second.events) == 1


async def test_tasks_started_in_a_block_report_to_it_and_others_do_not() -> None:
    recorder = Recorder()

    async def task(name: str, event: trio.Event) -> None:
        await event.wait()
        report(Policy(name))

    go, late = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(task, "before the block", go)
        with trioresil.instrument(recorder):
            nursery.start_soon(task, "in the block", go)
            nursery.start_soon(task, "in it, but too late", late)
            go.set()
            await trio.testing.wait_all_tasks_blocked()
        late.set()
    assert happened(recorder) == ["in the block"]


async def test_a_block_left_before_one_that_was_entered_after_it_takes_only_its_own_away() -> None:
    first, second = Recorder(), Recorder()
    outer, inner = trioresil.instrument(first), trioresil.instrument(second)
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    report(Policy("second only"))
    inner.__exit__(None, None, None)
    report(Policy("nobody"))
    assert (happened(first), happened(second)) == ([], ["second only"])


async def test_a_block_may_be_left_in_another_task_than_it_was_entered_in() -> None:
    recorder = Recorder()
    block = trioresil.instrument(recorder)
    block.__enter__()

    async def leave() -> None:
        block.__exit__(None, None, None)
        report(Policy("after"))

    trio.lowlevel.spawn_system_task(leave)
    await trio.testing.wait_all_tasks_blocked()
    assert _instruments.installed == 0
    report(Policy("after"))
    assert happened(recorder) == []


async def test_a_block_is_entered_once_at_a_time_and_again_afterwards() -> None:
    recorder = Recorder()
    block = trioresil.instrument(recorder)
    for _ in range(2):
        with block:
            with pytest.raises(RuntimeError, match="already open: make a new one for each with-statement"):
                block.__enter__()
            assert _instruments.installed == 1
            report()
    assert len(recorder.events) == 2


async def test_a_block_lets_the_error_of_its_body_out_and_is_closed() -> None:
    error = ValueError("x")
    with pytest.raises(ValueError, match="x") as caught:
        with trioresil.instrument(Recorder()):
            raise error
    assert caught.value is error


async def test_an_event_carries_the_live_policy_and_its_name() -> None:
    recorder = Recorder()
    bucket = TokenBucket(rate=1, max_wait=0, name="search")
    with trioresil.instrument(recorder):
        await bucket.acquire()
        with pytest.raises(trioresil.RateLimitedError) as caught:
            await bucket.acquire()
    seen, rejected = recorder.events
    assert isinstance(seen, PolicySeen)
    assert isinstance(rejected, trioresil.CallRejected)
    assert rejected.policy is bucket
    assert rejected.name == "search"
    assert rejected.error is caught.value
    assert rejected.enforced
    with pytest.raises(AttributeError):
        rejected.error = OSError()  # type: ignore[misc]


# --- a run -----------------------------------------------------------------------------------------------------------------


def test_instrument_run_hears_every_task_of_its_run_and_ends_with_it() -> None:
    recorder = Recorder()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            started = trio.Event()

            async def before() -> None:
                await started.wait()
                report(Policy("started before"))

            nursery.start_soon(before)
            await trio.testing.wait_all_tasks_blocked()
            trioresil.instrument_run(recorder)
            report(Policy("main"))
            started.set()
        trio.lowlevel.spawn_system_task(system)
        await trio.testing.wait_all_tasks_blocked()

    async def system() -> None:
        report(Policy("system task"))

    trio.run(main)
    assert happened(recorder) == ["main", "started before", "system task"]
    assert _instruments.installed == 0

    async def another() -> None:
        report(Policy("another run"))

    trio.run(another)
    assert len(recorder.events) == 3


def test_instrument_run_ends_with_a_run_that_fails_too() -> None:
    async def main() -> None:
        trioresil.instrument_run(Recorder(), Recorder())
        assert _instruments.installed == 2
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        trio.run(main)
    assert _instruments.installed == 0


def test_what_still_works_for_a_run_that_has_ended_no_longer_reports() -> None:
    recorder = Recorder()

    async def main() -> None:
        trioresil.instrument_run(recorder)
        kept.extend(_instruments.listeners())

    kept: list[Any] = []
    trio.run(main)
    kept[0].record(PolicySeen(policy=Policy()))
    assert recorder.events == []


async def test_run_and_block_add_up_and_instrument_run_may_be_called_again() -> None:
    one, two, three = Recorder(), Recorder(), Recorder()

    def main() -> None:
        async def inside() -> None:
            trioresil.instrument_run(one)
            trioresil.instrument_run(two)
            with trioresil.instrument(three, one):
                report()

        trio.run(inside)

    await trio.to_thread.run_sync(main)
    assert [len(each.events) for each in (one, two, three)] == [1, 1, 1]


def test_instrument_run_outside_of_a_run_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"start the program with trio\.run"):
        trioresil.instrument_run(Recorder())


# --- threads ---------------------------------------------------------------------------------------------------------------


async def test_a_thread_started_by_trio_reports_to_the_block_and_so_does_what_it_calls_back() -> None:
    recorder = Recorder()

    def work() -> None:
        report(Policy("thread"))
        trio.from_thread.run_sync(report, Policy("back"))

    with trioresil.instrument(recorder):
        await trio.to_thread.run_sync(work)
    assert happened(recorder) == ["thread", "back"]


def test_two_runs_in_two_threads_hear_each_their_own() -> None:
    recorders = {name: Recorder() for name in "ab"}
    ready = threading.Barrier(2, timeout=10)

    async def main(name: str) -> None:
        trioresil.instrument_run(recorders[name])
        with trioresil.instrument(recorders[name]):
            ready.wait()
            for _ in range(50):
                report(Policy(name))
                await trio.lowlevel.checkpoint()
            ready.wait()

    threads = [threading.Thread(target=trio.run, args=(main, name)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: set(happened(each)) for name, each in recorders.items()} == {"a": {"a"}, "b": {"b"}}
    assert [len(each.events) for each in recorders.values()] == [50, 50]


def test_a_plain_thread_that_has_no_run_is_no_listener(log: Any) -> None:
    thread = threading.Thread(target=report)
    with trioresil.instrument(Recorder()):
        thread.start()
        thread.join()
    assert len(log.messages) == 1


# --- one that raises ---------------------------------------------------------------------------------------------------------


async def test_an_instrument_that_raises_is_switched_off_and_logged_once_and_the_call_is_untouched(
    log: Any, autojump_clock: Any
) -> None:
    broken, recorder = Broken(first=2), Recorder()
    pipeline = Pipeline(Fallback(on=Exception, default="default"), Retry(on=OSError), CircuitBreaker(), Bulkhead(1))

    async def fail() -> str:
        raise ConnectionError

    with trioresil.instrument(broken, recorder):
        for _ in range(3):
            assert await pipeline.call(fail) == "default"
    assert broken.heard == 2
    assert len(recorder.events) > 10
    (record,) = log.records
    assert record.levelname == "ERROR"
    first, *frames = record.getMessage().splitlines()
    assert first == "the instrument <a broken instrument> raised and is switched off: ValueError: broken"
    assert any("in record" in line for line in frames)


async def test_what_is_logged_of_one_that_raises_holds_no_secret_of_the_call(log: Any, autojump_clock: Any) -> None:
    class Chatty:
        def record(self, event: Event) -> None:
            error = getattr(event, "error", None)
            if error is not None:
                raise ValueError(f"no idea what {error} is") from error

    async def fail() -> None:
        raise OSError("GET https://joe:hunter2@a.example/?hunter2")

    with trioresil.instrument(Chatty()), pytest.raises(OSError, match="hunter2"):
        await Pipeline(Retry(on=OSError, max_attempts=1)).call(fail)
    (record,) = log.records
    assert "no idea what GET https://a.example/ is" in record.getMessage()
    assert "hunter2" not in logging.Formatter().format(record)


async def test_one_that_was_switched_off_is_heard_again_in_another_block() -> None:
    broken = Broken()
    for expected in (1, 2):
        with trioresil.instrument(broken):
            report()
            report()
        assert broken.heard == expected


async def test_an_inner_block_still_hears_if_the_outer_one_of_the_same_instrument_is_switched_off() -> None:
    class Once(Broken):
        def record(self, event: Event, /) -> None:
            self.heard += 1
            if self.heard == 1:
                raise ValueError("broken")

    once = Once()
    with trioresil.instrument(once):
        report()
        with trioresil.instrument(once):
            report()
    assert once.heard == 2


async def test_an_interrupt_in_an_instrument_is_not_swallowed() -> None:
    class Interrupted:
        def record(self, event: Event, /) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with trioresil.instrument(Interrupted()):
            report()


# --- nothing for nobody --------------------------------------------------------------------------------------------------------


async def test_no_event_is_built_when_nobody_listens(monkeypatch: pytest.MonkeyPatch, autojump_clock: Any) -> None:
    def must_not(self: Event, *args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"built {type(self).__name__}")  # pragma: no cover

    kinds = [each for each in vars(trioresil).values() if isinstance(each, type) and issubclass(each, Event)]
    assert len(kinds) >= 11
    for kind in kinds:
        monkeypatch.setattr(kind, "__init__", must_not)

    async def fail() -> None:
        raise ConnectionError

    parts = [Retry(on=Exception), CircuitBreaker(trip=ConsecutiveFailures(2)), TokenBucket(rate=1), Bulkhead(1)]
    pipeline = Pipeline(Fallback(on=OSError, default=0), Timeout(90), *parts, Timeout(5))
    assert await pipeline.call(fail) == 0
    unrelated = Recorder()
    trio.lowlevel.spawn_system_task(_listen_for_a_while, unrelated)  # installed, but not for us
    await trio.testing.wait_all_tasks_blocked()
    assert _instruments.installed == 1
    assert await pipeline.call(fail) == 0
    await trio.sleep(200)
    assert unrelated.events == []


async def _listen_for_a_while(recorder: Recorder) -> None:
    with trioresil.instrument(recorder):
        await trio.sleep(150)


async def test_policies_are_held_weakly_and_one_at_the_place_of_another_that_is_gone_is_announced() -> None:
    class Counting:
        count = 0

        def record(self, event: Event, /) -> None:
            self.count += 1

    counting = Counting()
    with trioresil.instrument(counting):
        for _ in range(4):  # each is given the place in memory, and so the id, of the one before
            timeout = Timeout(5)
            await timeout.call(trio.lowlevel.checkpoint)
            await timeout.call(trio.lowlevel.checkpoint)
            reference = weakref.ref(timeout)
            del timeout
            gc.collect()
            assert reference() is None
    assert counting.count == 4


# --- what is logged when nobody listens --------------------------------------------------------------------------------


async def test_retries_and_circuits_are_logged_and_nothing_else_is(log: Any, autojump_clock: Any) -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(2), open_for=1500, name="search")
    retry = Retry(on=OSError, max_attempts=2, backoff=[0.25], name="again")
    fallback = Fallback(on=Exception, default=0)

    async def fail() -> None:
        raise ConnectionError("no route")

    assert await Pipeline(fallback, Timeout(9), retry, breaker, Bulkhead(1), TokenBucket(rate=9)).call(fail) == 0
    await Pipeline(fallback, breaker).call(fail)
    await trio.sleep(2000)
    await breaker.call(trio.lowlevel.checkpoint)
    breaker.open(3)
    assert log.messages == [
        "again: attempt 1 failed, the next in 0.25 s: ConnectionError('no route')",
        "search: the circuit opened for 1500 s: ConnectionError('no route')",
        "again: gave up after attempt 2 and 0.25 s of waiting (attempts): ConnectionError('no route')",
        "search: the circuit closed",
        "search: the circuit opened for 3 s: by hand",
    ]
    assert {(record.name, record.levelname) for record in log.records} == {("trioresil", "WARNING")}


async def test_failures_that_are_results_are_logged_as_such(log: Any, autojump_clock: Any) -> None:
    async def nothing() -> None:
        return None

    await Retry(on=OSError, max_attempts=2, backoff=[1], on_result=lambda result: result is None).call(nothing)
    assert log.messages == [
        "retry: attempt 1 failed, the next in 1 s: its result was a failure",
        "retry: gave up after attempt 2 and 1 s of waiting (attempts): its result was a failure",
    ]


async def test_who_listens_is_told_instead_of_the_log(log: Any) -> None:
    with trioresil.instrument(Recorder()):
        report()
    assert log.messages == []


async def test_at_most_ten_a_second_for_each_name(log: Any, autojump_clock: Any) -> None:
    for _ in range(25):
        report(Policy("a"))
    report(Policy("b"))
    assert len(log.messages) == 11
    await trio.sleep(1)
    for _ in range(25):
        report(Policy("a"))
    assert len(log.messages) == 21
    assert log.messages[10].startswith("b: ")


def test_what_one_run_has_logged_is_not_held_against_the_next(log: Any) -> None:
    async def main() -> None:
        for _ in range(15):
            report()

    for _ in range(3):
        trio.run(main, clock=trio.testing.MockClock())
    assert len(log.messages) == 30


def test_a_breaker_reset_outside_of_a_run_is_logged(log: Any) -> None:
    breaker = CircuitBreaker(name="search")

    async def main() -> None:
        breaker.open(5)

    trio.run(main)
    breaker.reset()
    assert log.messages == ["search: the circuit opened for 5 s: by hand", "search: the circuit closed"]


async def test_many_names_are_no_way_around_the_limit(log: Any, mock_clock: trio.testing.MockClock) -> None:
    for expected in (1_010, 2_020):
        for number in range(2500):
            report(Policy(str(number)))
        assert len(log.messages) == expected  # one of each of a thousand names, and ten of all others
        assert len(_instruments._warned.get()) == 1_001
        mock_clock.jump(1)


async def test_a_warning_is_one_line(log: Any) -> None:
    class Wordy(OSError):
        def __repr__(self) -> str:
            return "Wordy('first\n  second')"

    await refuse_twice(Wordy())
    assert log.messages[0] == "retry: attempt 1 failed, the next in 0 s: Wordy('first second')"


async def refuse_twice(error: Exception) -> None:
    async def work() -> None:
        raise error

    with pytest.raises(type(error)):
        await Retry(on=OSError, max_attempts=2, backoff=[0]).call(work)


async def test_nothing_is_formatted_for_a_log_that_does_not_take_warnings(caplog: Any) -> None:
    printed: list[str] = []

    class Printed(OSError):
        def __repr__(self) -> str:
            printed.append("x")
            return "x"

    for level, expected in ((logging.ERROR, 0), (logging.WARNING, 1)):
        caplog.set_level(level, logger="trioresil")
        report(error=Printed())
        assert len(caplog.messages) == len(printed) == expected


async def test_an_error_that_can_not_be_printed_does_not_break_the_call(log: Any) -> None:
    class Unprintable(OSError):
        def __repr__(self) -> str:
            raise ValueError("no repr")

    report(error=Unprintable())
    assert log.messages == ["mine: attempt 1 failed, the next in 0.5 s: <Unprintable>"]


@pytest.mark.parametrize(
    ("text", "logged"),
    [
        ("https://user:secret@host.example/a/b?token=1&x=2#frag", "https://host.example/a/b"),
        ("http://host.example:8080/a", "http://host.example:8080/a"),
        ("redis://:secret@10.0.0.1:6379/0", "redis://10.0.0.1:6379/0"),
        ("postgresql+asyncpg://u:p@db/x?sslpassword=1", "postgresql+asyncpg://db/x"),
        ("https://host?token=1", "https://host"),
        ("https://host#access_token=1", "https://host"),
        ("https://[::1]:80/x?y", "https://[::1]:80/x"),
        ("two: https://u:p@a/?k=1 and https://b/?k=2.", "two: https://a/ and https://b/"),
        ('"https://u:p@a/x?k=1", then more', '"https://a/x", then more'),
        ("mail me@example.org about /a?b=c", "mail me@example.org about /a"),
        ("a :// b", "a :// b"),
        ("nothing at all", "nothing at all"),
    ],
)
async def test_credentials_and_query_strings_of_urls_are_not_logged(log: Any, text: str, logged: str) -> None:
    assert without_secrets(text) == logged
    report(error=OSError(text))
    assert log.messages == [f"mine: attempt 1 failed, the next in 0.5 s: {without_secrets(repr(OSError(text)))}"]
    assert "secret" not in log.text
    assert "token=1" not in log.text


def test_a_long_text_is_searched_in_linear_time() -> None:
    for text in ("a" * 200_000, "://" * 60_000, "https://" + "a" * 200_000, "a.b@" * 50_000, "://" + "@" * 200_000):
        assert len(without_secrets(text)) <= len(text)  # quadratic, it would run into the time limit


async def test_a_rejection_that_is_cancelled_in_its_checkpoint_says_that_nothing_had_started() -> None:
    scope = trio.CancelScope()

    class Cancelling:
        def record(self, event: Event, /) -> None:
            if isinstance(event, trioresil.CallRejected):
                scope.cancel()

    breaker = CircuitBreaker()
    breaker.isolate()
    seen: list[bool | None] = []
    with trioresil.instrument(Cancelling()), scope:
        try:
            await breaker.call(trio.sleep_forever)
        except trio.Cancelled as exc:
            seen.append(_links.passage(exc).started)
            raise
    assert scope.cancelled_caught
    assert seen == [False]
