"""open_stream: sessions that follow each other, what is received, and what ends it; each instant exact."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
from typing import Any

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

import trioresil
from tests.services._streams import FOREVER, Sessions, read, read_all
from trioresil import StreamBroken, StreamConnected, StreamGaveUp, StreamLink, TimedOutError, constant, open_stream
from trioresil._kernel.mailbox import Mailbox
from trioresil.testing import Recorder

Autojump = trio.testing.MockClock


def stream_of(*scripts: list[Any], **options: Any) -> tuple[Sessions, open_stream[Any]]:
    sessions = Sessions(*scripts)
    options = {"on": OSError, "backoff": constant(1)} | options
    return sessions, open_stream(sessions, **options)


def elapsed(instants: list[float], start: float) -> list[float]:
    return [each - start for each in instants]


# --- one session after the other -------------------------------------------------------------------------------------


async def test_a_broken_session_is_run_again_after_the_back_off(autojump_clock: Autojump) -> None:
    start = trio.current_time()
    sessions, manager = stream_of(["a", 2, OSError()], ["b", 3, OSError()], ["c", FOREVER], backoff=[0.5, 4])
    async with manager as stream:
        assert await read(stream, 3) == ["a", "b", "c"]
    assert elapsed(sessions.began_at, start) == [0, 2.5, 9.5]
    assert [link.number for link in sessions.links] == [1, 2, 3]


async def test_a_session_that_returns_is_run_again_like_one_that_broke(autojump_clock: Autojump) -> None:
    start = trio.current_time()
    sessions, manager = stream_of(["a", 2], ["b", FOREVER], backoff=[0.5])
    async with manager as stream:
        assert await read(stream, 2) == ["a", "b"]
        assert stream.statistics().last_error is None
    assert elapsed(sessions.began_at, start) == [0, 2.5]


@pytest.mark.parametrize(("lived", "next_delay"), [(29.75, 2.0), (30, 1.0)])
async def test_the_back_off_starts_afresh_after_a_stable_session(
    lived: float, next_delay: float, autojump_clock: Autojump
) -> None:
    sessions, manager = stream_of([OSError()], [lived, OSError()], [FOREVER], backoff=[1, 2])
    async with manager:
        await trio.sleep(100)
    assert sessions.began_at[2] - sessions.ended_at[1] == next_delay


async def test_a_group_whose_leaves_all_match_is_a_broken_session(autojump_clock: Autojump) -> None:
    group = ExceptionGroup("", [OSError(), ExceptionGroup("", [ConnectionError()])])
    _, manager = stream_of([group], ["a", FOREVER])
    async with manager as stream:
        assert await anext(stream) == "a"
        assert stream.statistics().last_error is group


async def test_sessions_never_overlap_and_the_next_waits_for_the_clean_up(autojump_clock: Autojump) -> None:
    async def slow_to_leave(link: StreamLink[Any]) -> None:
        try:
            await trio.sleep(FOREVER)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)

    sessions, manager = stream_of([slow_to_leave], [FOREVER], heartbeat_timeout=5)
    async with manager:
        await trio.sleep(9.5)
    assert sessions.began_at[1] - sessions.began_at[0] == 5 + 3 + 1


# --- what ends it ----------------------------------------------------------------------------------------------------


class Unauthorized(Exception):
    pass


async def test_what_on_does_not_match_ends_the_stream_in_one_attempt_and_is_bare() -> None:
    error = Unauthorized(401)
    sessions, manager = stream_of([error])
    with pytest.raises(Unauthorized) as caught:
        async with manager as stream:
            async for _ in stream:
                raise AssertionError
    assert caught.value is error
    assert error.__cause__ is error.__context__ is None
    assert len(sessions.began_at) == 1


async def test_items_received_come_out_before_the_error() -> None:
    error = Unauthorized(401)
    _, manager = stream_of(["a", "b", error])
    items: list[Any] = []
    with pytest.raises(Unauthorized) as caught:
        async with manager as stream:
            await wait_all_tasks_blocked()
            items += await read(stream, 2)
            await anext(stream)
    assert items == ["a", "b"]
    assert caught.value is error


async def test_the_error_is_raised_by_iteration_and_by_send_each_time() -> None:
    error = Unauthorized(401)
    _, manager = stream_of(["a", error])
    async with manager as stream:
        await wait_all_tasks_blocked()
        for _ in range(2):
            with pytest.raises(Unauthorized) as caught, assert_checkpoints():
                await stream.send("x")
            assert caught.value is error
        assert await anext(stream) == "a"
        for _ in range(2):
            with pytest.raises(Unauthorized) as caught, assert_checkpoints():
                await anext(stream)
            assert caught.value is error


async def test_an_error_that_is_raised_many_times_has_the_traceback_of_the_first_time() -> None:
    _, manager = stream_of([Unauthorized(401)])
    lengths = set()
    async with manager as stream:
        await wait_all_tasks_blocked()
        for _ in range(3):
            with pytest.raises(Unauthorized) as caught:
                await stream.send("x")
            lengths.add(len(caught.traceback))
    assert len(lengths) == 1


async def test_a_clean_body_that_has_not_met_the_error_gets_it_at_the_end() -> None:
    error = Unauthorized(401)
    _, manager = stream_of(["a", error])
    with pytest.raises(Unauthorized) as caught:
        async with manager as stream:
            await wait_all_tasks_blocked()
            assert await anext(stream) == "a"
    assert caught.value is error
    assert error.__context__ is None


async def test_a_body_that_raises_keeps_its_own_error_bare() -> None:
    _, manager = stream_of([Unauthorized(401)])
    mine = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with manager:
            await wait_all_tasks_blocked()
            raise mine
    assert caught.value is mine


async def test_a_cancelled_body_leaves_as_it_is_with_the_error_unmet() -> None:
    _, manager = stream_of([Unauthorized(401)])
    with trio.CancelScope() as scope:
        async with manager:
            await wait_all_tasks_blocked()
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_an_unmet_error_wins_over_a_cancellation_that_comes_while_it_closes() -> None:
    error = Unauthorized(401)
    _, manager = stream_of([error])
    with pytest.raises(Unauthorized) as caught, trio.CancelScope() as scope:
        async with manager:
            await wait_all_tasks_blocked()
            scope.cancel()
    assert caught.value is error


async def test_an_error_that_ends_the_stream_while_it_closes_comes_out_bare() -> None:
    error = Unauthorized(401)

    async def fails_to_leave(link: StreamLink[Any]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    _, manager = stream_of([fails_to_leave])
    with pytest.raises(Unauthorized) as caught:
        async with manager:
            await wait_all_tasks_blocked()
    assert caught.value is error


async def test_an_error_that_matches_while_it_closes_is_nothing() -> None:
    async def breaks_on_leaving(link: StreamLink[Any]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError

    sessions, manager = stream_of([breaks_on_leaving], backoff=constant(0))
    async with manager:
        await wait_all_tasks_blocked()
    assert len(sessions.began_at) == 1


def breaks_on_leaving_in_a_nursery(error: Exception) -> Any:
    """As a WebSocket does, whose nursery has a task that closes it."""

    async def close(_: StreamLink[Any]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise error

    return close


async def test_an_error_that_matches_beside_the_cancellation_while_it_closes_is_nothing() -> None:
    _, manager = stream_of([breaks_on_leaving_in_a_nursery(OSError())])
    async with manager:
        await wait_all_tasks_blocked()
    mine = KeyError("mine")
    _, manager = stream_of([breaks_on_leaving_in_a_nursery(OSError())])
    with pytest.raises(KeyError) as caught:
        async with manager:
            await wait_all_tasks_blocked()
            raise mine
    assert caught.value is mine
    assert caught.value.__context__ is None


async def test_an_error_that_matches_beside_the_cancellation_from_outside_is_nothing() -> None:
    _, manager = stream_of([breaks_on_leaving_in_a_nursery(OSError())])
    with trio.CancelScope() as scope:
        async with manager:
            await wait_all_tasks_blocked()
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_another_error_beside_the_cancellation_while_it_closes_comes_out() -> None:
    error = Unauthorized(401)
    _, manager = stream_of([breaks_on_leaving_in_a_nursery(error)])
    with pytest.RaisesGroup(Unauthorized) as caught:
        async with manager:
            await wait_all_tasks_blocked()
    assert caught.value.exceptions == (error,)


async def test_it_neither_gives_up_nor_tells_of_a_next_session_while_it_closes() -> None:
    async def breaks_on_leaving(link: StreamLink[Any]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError

    recorder = Recorder()
    _, manager = stream_of([breaks_on_leaving], give_up_after=0.5)
    with trioresil.instrument(recorder):
        async with manager as stream:
            await wait_all_tasks_blocked()
    assert recorder.events == [trioresil.PolicySeen(policy=stream)]


async def test_finish_ends_the_loop_after_the_items() -> None:
    sessions, manager = stream_of(["a", "b", "finish"])
    async with manager as stream:
        assert await read_all(stream) == ["a", "b"]
        assert await read_all(stream) == []
        with pytest.raises(trio.BrokenResourceError, match="stream: the stream has ended"), assert_checkpoints():
            await stream.send("x")
        assert stream.statistics().state == "ended"
    assert len(sessions.began_at) == 1


async def test_a_session_that_finishes_and_breaks_by_what_matches_has_finished() -> None:
    sessions, manager = stream_of(["a", "finish", OSError()])
    async with manager as stream:
        assert await read_all(stream) == ["a"]
        assert isinstance(stream.statistics().last_error, OSError)
    assert len(sessions.began_at) == 1


async def test_a_session_that_finishes_and_fails_otherwise_has_failed() -> None:
    _, manager = stream_of(["finish", Unauthorized(401)])
    async with manager as stream:
        with pytest.raises(Unauthorized):
            await anext(stream)


async def test_a_session_that_finishes_and_falls_silent_has_finished(autojump_clock: Autojump) -> None:
    _, manager = stream_of(["finish", FOREVER], heartbeat_timeout=5)
    start = trio.current_time()
    async with manager as stream:
        assert await read_all(stream) == []
    assert trio.current_time() - start == 5


async def test_a_reader_and_a_sender_that_wait_meet_the_error(autojump_clock: Autojump) -> None:
    error = Unauthorized(401)
    _, manager = stream_of([5, error], outgoing=0)
    met = []

    async def meet(fn: Any, *args: Any) -> None:
        with pytest.raises(Unauthorized) as caught:
            await fn(*args)
        met.append((caught.value, trio.current_time() - start))

    start = trio.current_time()
    async with manager as stream, trio.open_nursery() as nursery:
        nursery.start_soon(meet, stream.__anext__)
        nursery.start_soon(meet, stream.send, "x")
        nursery.start_soon(meet, stream.__anext__)
    assert met == [(error, 5)] * 3


async def test_a_session_that_is_not_async_ends_the_stream() -> None:
    async with open_stream(lambda link: 5, on=Exception) as stream:  # type: ignore[arg-type,return-value]
        with pytest.raises(TypeError, match="must be an async function, but it returned 5"):
            await anext(stream)


async def test_what_on_itself_raises_ends_the_stream() -> None:
    def on(exc: Exception) -> bool:
        raise ZeroDivisionError

    _, manager = stream_of([OSError()], on=on)
    async with manager as stream:
        with pytest.raises(ZeroDivisionError):
            await anext(stream)


# --- giving up -------------------------------------------------------------------------------------------------------


async def test_it_gives_up_when_the_next_session_would_begin_too_late(autojump_clock: Autojump) -> None:
    errors = [OSError(1), OSError(2), OSError(3)]
    sessions, manager = stream_of(*([error] for error in errors), backoff=constant(4), give_up_after=12)
    start = trio.current_time()
    async with manager as stream:
        with pytest.raises(OSError, match="3") as caught:
            await anext(stream)
        assert trio.current_time() - start == 8  # 8 + 4 >= 12: at once, without the wait
    assert caught.value is errors[2]
    assert elapsed(sessions.began_at, start) == [0, 4, 8]


async def test_just_before_the_limit_it_goes_on(autojump_clock: Autojump) -> None:
    _, manager = stream_of([OSError(1)], [OSError(2)], ["a", FOREVER], backoff=constant(4), give_up_after=8.25)
    async with manager as stream:
        assert await anext(stream) == "a"


async def test_the_time_to_give_up_counts_from_the_last_item(autojump_clock: Autojump) -> None:
    sessions, manager = stream_of([10, "a", 2, OSError(1)], [OSError(2)], backoff=constant(4), give_up_after=12)
    start = trio.current_time()
    async with manager as stream:
        assert await anext(stream) == "a"
        with pytest.raises(OSError, match="2"):
            await anext(stream)
    assert elapsed(sessions.began_at, start) == [0, 16, 20]
    assert trio.current_time() - start == 20


async def test_a_dropped_item_counts_as_the_last_item(autojump_clock: Autojump) -> None:
    _, manager = stream_of(
        ["a", 10, "b", OSError()], ["c", FOREVER], give_up_after=5, buffer=1, when_full="drop_newest"
    )
    async with manager as stream:
        await trio.sleep(12)
        assert stream.statistics().sessions == 2


async def test_the_last_real_error_is_raised_also_if_the_last_session_returned(autojump_clock: Autojump) -> None:
    _, manager = stream_of([OSError("real")], [], backoff=constant(4), give_up_after=8)
    async with manager as stream:
        with pytest.raises(OSError, match="real"):
            await anext(stream)


async def test_sessions_that_only_returned_give_up_with_a_time_out(autojump_clock: Autojump) -> None:
    _, manager = stream_of([OSError()], ["a"], [], backoff=constant(4), give_up_after=8)
    async with manager as stream:
        assert await anext(stream) == "a"
        with pytest.raises(TimedOutError, match="stream: timed out after 8 s") as caught:
            await anext(stream)
        assert stream.statistics().last_error is caught.value


# --- heartbeat -------------------------------------------------------------------------------------------------------


async def test_a_silent_session_is_run_again_to_the_second_whatever_on_says(autojump_clock: Autojump) -> None:
    start = trio.current_time()
    sessions, manager = stream_of([FOREVER], on=ValueError, heartbeat_timeout=5)
    async with manager as stream:
        await trio.sleep(13)
        error = stream.statistics().last_error
    assert elapsed(sessions.ended_at[:2], start) == [5, 11]
    assert elapsed(sessions.began_at, start) == [0, 6, 12]
    assert isinstance(error, TimedOutError)
    assert str(error) == "stream: timed out after 5 s"


@pytest.mark.parametrize("sign", ["item", "alive"])
async def test_items_and_alive_are_signs_of_life(sign: str, autojump_clock: Autojump) -> None:
    start = trio.current_time()
    sessions, manager = stream_of([4, sign, 4.5, sign, 4.75, sign, FOREVER], heartbeat_timeout=5)
    async with manager:
        await trio.sleep(19)
    assert elapsed(sessions.ended_at[:1], start) == [13.25 + 5]


async def test_the_time_that_an_item_waits_for_a_slow_reader_is_no_silence(autojump_clock: Autojump) -> None:
    start = trio.current_time()
    sessions, manager = stream_of(["a", "b", "alive", FOREVER], heartbeat_timeout=5, buffer=1)
    async with manager as stream:
        await trio.sleep(1000)
        assert sessions.ended_at == []
        assert await anext(stream) == "a"
        await trio.sleep(5.5)
    assert elapsed(sessions.ended_at[:1], start) == [1005]


async def test_two_items_that_wait_are_no_silence_until_both_have_entered(autojump_clock: Autojump) -> None:
    async def send_both(link: StreamLink[Any]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(functools.partial(link.send_item, "b"))
            nursery.start_soon(functools.partial(link.send_item, "c"))
            await trio.sleep(10)
            link.alive()

    start = trio.current_time()
    sessions, manager = stream_of(["a", send_both, FOREVER], heartbeat_timeout=5, buffer=1)
    async with manager as stream:
        for _ in range(2):
            await trio.sleep(100)
            assert sessions.ended_at == []
            await anext(stream)
        await trio.sleep(5.5)
    assert elapsed(sessions.ended_at[:1], start) == [205]


async def test_a_waiting_item_that_is_cancelled_ends_the_pause_of_the_heartbeat(autojump_clock: Autojump) -> None:
    async def give_up(link: StreamLink[Any]) -> None:
        with trio.move_on_after(20):
            await link.send_item("b")

    start = trio.current_time()
    sessions, manager = stream_of(["a", give_up, FOREVER], heartbeat_timeout=5, buffer=1)
    async with manager as stream:
        await trio.sleep(26)
        assert await anext(stream) == "a"
    assert elapsed(sessions.ended_at[:1], start) == [25]


async def test_an_error_of_the_clean_up_of_a_silent_session_is_the_cause(autojump_clock: Autojump) -> None:
    error = Unauthorized("while closing")

    async def fails_to_leave(link: StreamLink[Any]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    _, manager = stream_of([fails_to_leave], ["a", FOREVER], heartbeat_timeout=5)
    async with manager as stream:
        assert await anext(stream) == "a"
        silence = stream.statistics().last_error
    assert isinstance(silence, TimedOutError)
    assert silence.__cause__ is error


async def test_an_error_in_the_instant_of_the_silence_is_judged_as_what_it_is(autojump_clock: Autojump) -> None:
    """The deadline passes when the session is about to run, so that the cancellation doesn't reach it any more."""
    answered = trio.Event()

    async def hear_401(link: StreamLink[Any]) -> None:
        await answered.wait()
        raise Unauthorized(401)

    sessions, manager = stream_of([hear_401], heartbeat_timeout=5)
    async with manager as stream:
        await wait_all_tasks_blocked()
        answered.set()
        autojump_clock.jump(5)
        with pytest.raises(Unauthorized):
            await anext(stream)
        assert sessions.links[0]._scope.cancel_called
    assert len(sessions.began_at) == 1


async def test_a_group_of_errors_of_the_clean_up_of_a_silent_session_is_the_cause(autojump_clock: Autojump) -> None:
    async def lose(_: StreamLink[Any]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise Unauthorized("while closing")

    async def lose_in_a_nursery(link: StreamLink[Any]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lose, link)
            nursery.start_soon(lose, link)

    async def lose_out_of_a_nursery(link: StreamLink[Any]) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lose, link)
                await trio.sleep_forever()
        except BaseExceptionGroup:
            raise Unauthorized("the group is its context")  # noqa: B904

    for script in (lose_in_a_nursery, lose_out_of_a_nursery):
        _, manager = stream_of([script], ["a", FOREVER], heartbeat_timeout=5)
        async with manager as stream:
            assert await anext(stream) == "a"
            silence = stream.statistics().last_error
            assert isinstance(silence, TimedOutError)
            assert silence.__cause__ is not None


async def test_a_group_in_the_instant_of_the_silence_is_judged_if_one_of_it_is_no_cancellation(
    autojump_clock: Autojump,
) -> None:
    """A 401 cancels its sibling, which turns that into an error; the deadline passes in the same step."""

    async def close(_: StreamLink[Any]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError

    async def hear_401(link: StreamLink[Any]) -> None:
        autojump_clock.jump(5)
        raise Unauthorized(401)

    async def both(link: StreamLink[Any]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(close, link)
            await wait_all_tasks_blocked()
            nursery.start_soon(hear_401, link)

    sessions, manager = stream_of([both], heartbeat_timeout=5)
    async with manager as stream:
        with pytest.RaisesGroup(Unauthorized, OSError):
            await anext(stream)
    assert sessions.links[0]._scope.cancel_called
    assert len(sessions.began_at) == 1


async def test_a_session_that_returns_in_the_instant_of_the_silence_has_returned(autojump_clock: Autojump) -> None:
    async def block(link: StreamLink[Any]) -> None:
        autojump_clock.jump(5)
        link.finish()

    _, manager = stream_of([block], heartbeat_timeout=5)
    async with manager as stream:
        assert await read_all(stream) == []


async def test_the_sign_of_life_of_an_old_link_is_not_that_of_the_new_session(autojump_clock: Autojump) -> None:
    start = trio.current_time()
    sessions, manager = stream_of([OSError()], [FOREVER], heartbeat_timeout=5)
    async with manager as stream:
        await trio.sleep(3)
        sessions.links[0].alive()
        assert stream.statistics().state == "connecting"
        await trio.sleep(4)
    assert elapsed(sessions.ended_at[1:2], start) == [6]


# --- tokens ----------------------------------------------------------------------------------------------------------


async def test_the_token_of_the_last_item_is_where_the_next_session_begins(autojump_clock: Autojump) -> None:
    sessions, manager = stream_of([("a", 1), ("b", 2), "marker", OSError()], [("c", 3), FOREVER], resume=0)
    async with manager as stream:
        assert await read(stream, 4) == ["a", "b", "marker", "c"]
    assert sessions.resumes == [0, 2]


async def test_there_is_no_token_to_begin_with() -> None:
    sessions, manager = stream_of(["finish"])
    async with manager as stream:
        await read_all(stream)
    assert sessions.resumes == [None]


@pytest.mark.parametrize("buffer", [0, 1])
async def test_the_token_changes_when_the_item_enters_and_not_before(buffer: int) -> None:
    _, manager = stream_of([*(("first", 1),) * buffer, ("late", 2), FOREVER], buffer=buffer)
    async with manager as stream:
        await wait_all_tasks_blocked()
        assert stream.statistics().resume == (1 if buffer else None)
        item = await anext(stream)
        assert stream.statistics().resume == 2
        assert item == ("first" if buffer else "late")


async def test_the_token_has_changed_before_anybody_else_runs() -> None:
    """A reader that makes room commits the token in its own step, not when the sender runs again."""
    _, manager = stream_of([("a", 1), ("b", 2), FOREVER], buffer=1)
    async with manager as stream:
        await wait_all_tasks_blocked()
        assert stream._mailbox.take() == "a"  # the synchronous part of a read
        assert stream.statistics().resume == 2


async def test_an_item_whose_sending_was_cancelled_leaves_the_token_alone(autojump_clock: Autojump) -> None:
    async def give_up(link: StreamLink[Any]) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(functools.partial(link.send_item, "b", resume=2))
                await trio.sleep(1)
                scope.cancel()
        link.finish()

    _, manager = stream_of([("a", 1), give_up], buffer=1)
    async with manager as stream:
        await trio.sleep(2)
        assert stream.statistics().resume == 1
        assert await read_all(stream) == ["a"]
        assert stream.statistics().received == 1


async def test_a_dropped_item_moves_the_token() -> None:
    for when_full in ("drop_oldest", "drop_newest"):
        _, manager = stream_of([("a", 1), ("b", 2), FOREVER], buffer=1, when_full=when_full)
        async with manager as stream:
            await wait_all_tasks_blocked()
            assert stream.statistics().resume == 2
            assert stream.statistics().dropped == 1


# --- a full buffer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when_full", "buffer", "kept"),
    [("drop_oldest", 2, ["d", "e"]), ("drop_newest", 2, ["a", "b"]), ("drop_newest", 0, [])],
)
async def test_what_does_not_fit_is_dropped_and_counted(when_full: Any, buffer: int, kept: list[str]) -> None:
    _, manager = stream_of([*"abcde", "finish"], buffer=buffer, when_full=when_full)
    async with manager as stream:
        await wait_all_tasks_blocked()
        assert await read_all(stream) == kept
        statistics = stream.statistics()
    assert (statistics.received, statistics.delivered, statistics.dropped) == (5, len(kept), 5 - len(kept))


async def test_a_full_buffer_holds_the_session_back() -> None:
    sent: list[str] = []

    async def send(link: StreamLink[Any]) -> None:
        for item in "abcde":
            await link.send_item(item)
            sent.append(item)
        link.finish()

    _, manager = stream_of([send], buffer=2)
    async with manager as stream:
        await wait_all_tasks_blocked()
        assert sent == ["a", "b"]
        assert await read_all(stream) == [*"abcde"]
        assert stream.statistics().dropped == 0


@pytest.mark.parametrize("when_full", ["wait", "drop_newest", "drop_oldest"])
async def test_send_item_and_reading_are_checkpoints(when_full: Any) -> None:
    async def send(link: StreamLink[Any]) -> None:
        for _ in range(2):
            with assert_checkpoints():
                await link.send_item("a")
        link.finish()

    _, manager = stream_of([send], buffer=2, when_full=when_full)
    async with manager as stream:
        await wait_all_tasks_blocked()
        with assert_checkpoints():
            await anext(stream)
        await anext(stream)
        with pytest.raises(StopAsyncIteration), assert_checkpoints():
            await anext(stream)


async def test_readers_are_served_in_the_order_of_their_arrival(autojump_clock: Autojump) -> None:
    got = []

    async def take(who: int) -> None:
        got.append((who, await anext(stream)))

    _, manager = stream_of([1, *"abc", "finish"], buffer=0)
    async with manager as stream, trio.open_nursery() as nursery:
        for who in range(3):
            nursery.start_soon(take, who)
            await wait_all_tasks_blocked()
    assert got == [(0, "a"), (1, "b"), (2, "c")]


async def test_a_session_that_is_over_sends_nothing(autojump_clock: Autojump) -> None:
    async with trio.open_nursery() as outside:
        failed = []

        async def send_late(link: StreamLink[Any]) -> None:
            with pytest.raises(RuntimeError, match="stream: session 1 is over"):
                await link.send_item("late", resume=9)
            failed.append(link.number)

        async def hand_out(link: StreamLink[Any]) -> None:
            outside.start_soon(send_late, link)
            await trio.sleep(1)

        sessions, manager = stream_of([("a", 1), hand_out], ["b", "finish"], buffer=1, backoff=constant(0))
        async with manager as stream:
            await trio.sleep(2)
            assert failed == [1]
            assert await read_all(stream) == ["a", "b"]
            assert stream.statistics().resume == 1
            for each in sessions.links:
                with pytest.raises(RuntimeError, match="is over"):
                    await each.send_item("later")
                with pytest.raises(RuntimeError, match="is over"):
                    each.finish()
                each.alive()


# --- messages --------------------------------------------------------------------------------------------------------


async def test_messages_wait_for_the_next_session_and_come_in_order(autojump_clock: Autojump) -> None:
    transmitted: list[Any] = []

    async def transmit(link: StreamLink[Any]) -> None:
        async for message in link.outgoing:
            transmitted.append((link.number, message))
            if message == "break":
                raise OSError

    _, manager = stream_of([transmit])
    async with manager as stream:
        for message in ["x", "break", "y", "z"]:
            await stream.send(message)
        await wait_all_tasks_blocked()
        assert stream.statistics().outgoing == 2
        await trio.sleep(1)
        await wait_all_tasks_blocked()
    assert transmitted == [(1, "x"), (1, "break"), (2, "y"), (2, "z")]


async def test_send_waits_while_too_many_messages_wait(autojump_clock: Autojump) -> None:
    async def transmit(link: StreamLink[Any]) -> None:
        await trio.sleep(5)
        async for _ in link.outgoing:
            pass

    start = trio.current_time()
    _, manager = stream_of([transmit], outgoing=2)
    async with manager as stream:
        await stream.send(1)
        await stream.send(2)
        assert trio.current_time() == start
        with assert_checkpoints():
            await stream.send(3)
        assert trio.current_time() == start + 5


async def test_a_cancelled_send_has_not_sent(autojump_clock: Autojump) -> None:
    _, manager = stream_of([FOREVER], outgoing=1)
    async with manager as stream:
        await stream.send(1)
        with trio.move_on_after(1) as scope:
            await stream.send(2)
        assert scope.cancelled_caught
        assert stream.statistics().outgoing == 1


# --- dials through a limit -------------------------------------------------------------------------------------------


async def test_each_session_waits_for_a_token_and_that_is_no_silence(autojump_clock: Autojump) -> None:
    bucket = trioresil.TokenBucket(rate=1 / 8, capacity=1)
    start = trio.current_time()
    sessions, manager = stream_of([OSError()], limit=bucket, heartbeat_timeout=5)
    async with manager as stream:
        await trio.sleep(17)
        assert stream.statistics().last_error.__class__ is OSError
    assert elapsed(sessions.began_at, start) == [0, 8, 16]


async def test_a_rejection_of_the_limit_is_a_session_that_broke(autojump_clock: Autojump) -> None:
    bucket = trioresil.TokenBucket(rate=1 / 8, capacity=1, max_wait=0)
    start = trio.current_time()
    recorder = Recorder()
    sessions, manager = stream_of([2, OSError()], limit=bucket, on=OSError, backoff=[1, 2])
    with trioresil.instrument(recorder):
        async with manager as stream:
            await trio.sleep(9)
            assert isinstance(stream.statistics().last_error, trioresil.RateLimitedError)
    assert elapsed(sessions.began_at, start) == [0, 8]
    assert [(each.reason, each.session, each.delay) for each in recorder.events if isinstance(each, StreamBroken)] == [
        ("failed", 1, 1),
        ("rejected", 1, 5),
    ]


# --- seen from outside -----------------------------------------------------------------------------------------------


async def test_events_tell_of_each_change(autojump_clock: Autojump) -> None:
    error, last = OSError(), Unauthorized(401)
    recorder = Recorder()
    _, manager = stream_of([2, "alive", "a", error], [1], [FOREVER], [last], heartbeat_timeout=5, name="prices")
    with trioresil.instrument(recorder):
        async with manager as stream:
            with pytest.raises(Unauthorized):
                await read_all(stream)
    events = [each for each in recorder.events if not isinstance(each, trioresil.PolicySeen)]
    silence = events[3].error
    assert isinstance(silence, TimedOutError)
    assert events == [
        StreamConnected(policy=stream, session=1, seconds=2),
        StreamBroken(policy=stream, session=1, reason="failed", error=error, delay=1),
        StreamBroken(policy=stream, session=2, reason="returned", error=None, delay=1),
        StreamBroken(policy=stream, session=3, reason="silent", error=silence, delay=1),
        StreamGaveUp(policy=stream, sessions=4, reason="error", error=last),
    ]
    assert trioresil.PolicySeen(policy=stream) in recorder.events


async def test_without_an_instrument_it_warns(caplog: pytest.LogCaptureFixture, autojump_clock: Autojump) -> None:
    _, manager = stream_of([OSError("reset")], [], [OSError("gone")], give_up_after=3, name="prices")
    with caplog.at_level(logging.WARNING, "trioresil"):
        async with manager as stream:
            with pytest.raises(OSError, match="gone"):
                await anext(stream)
    assert [record.message for record in caplog.records] == [
        "prices: session 1 is over (failed), the next in 1 s: OSError('reset')",
        "prices: session 2 is over (returned), the next in 1 s: it returned",
        "prices: gave up after 3 sessions (time): OSError('gone')",
    ]


async def test_statistics_and_repr_say_how_it_is(autojump_clock: Autojump) -> None:
    _, manager = stream_of(
        [2, "a", "b", "c", 2, OSError()], [], name="prices", buffer=2, when_full="drop_oldest", outgoing=3
    )
    async with manager as stream:
        assert repr(stream) == "<trioresil.Stream 'prices' waiting, session 0, 0/2 items, 0/3 to send>"
        await wait_all_tasks_blocked()
        assert repr(stream) == "<trioresil.Stream 'prices' connecting, session 1, 0/2 items, 0/3 to send>"
        await trio.sleep(3)
        await stream.send("x")
        assert repr(stream) == "<trioresil.Stream 'prices' connected, session 1, 2/2 items, 1 dropped, 1/3 to send>"
        assert await anext(stream) == "b"
        await trio.sleep(1.5)
        statistics = stream.statistics()
        assert repr(statistics.last_error) == "OSError()"
        assert statistics == trioresil.StreamStatistics(
            name="prices",
            state="waiting",
            sessions=1,
            received=3,
            delivered=1,
            dropped=1,
            buffered=1,
            outgoing=1,
            resume=None,
            last_error=statistics.last_error,
        )
    assert stream.statistics().state == "ended"


async def test_the_repr_of_a_link_says_whether_it_is_over() -> None:
    seen = []

    async def look(link: StreamLink[Any]) -> None:
        seen.append(repr(link))

    sessions, manager = stream_of([look, "alive", look, "finish"])
    async with manager as stream:
        await read_all(stream)
    assert [*seen, repr(sessions.links[0])] == [
        f"<trioresil.StreamLink 1 of 'stream' {state}>" for state in ("connecting", "connected", "over")
    ]


# --- opening and leaving ---------------------------------------------------------------------------------------------


async def test_leaving_cancels_the_session_and_waits_for_it(autojump_clock: Autojump) -> None:
    async def slow_to_leave(link: StreamLink[Any]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)

    sessions, manager = stream_of([slow_to_leave])
    start = trio.current_time()
    async with manager:
        await trio.sleep(1)
    assert trio.current_time() - start == 4
    assert sessions.inside == 0


async def test_whoever_waits_when_it_is_left_is_told(autojump_clock: Autojump) -> None:
    told = []

    async def be_told(fn: Any, *args: Any) -> None:
        with pytest.raises(trio.ClosedResourceError, match="stream: the block of this stream has been left"):
            await fn(*args)
        told.append(fn)

    async with trio.open_nursery() as nursery:
        _, manager = stream_of([FOREVER], outgoing=0)
        async with manager as stream:
            nursery.start_soon(be_told, stream.__anext__)
            nursery.start_soon(be_told, stream.send, "x")
            await wait_all_tasks_blocked()
    assert len(told) == 2
    for fn, args in [(stream.__anext__, ()), (stream.send, ("x",))]:
        with assert_checkpoints():
            await be_told(fn, *args)


async def test_what_was_not_read_is_gone_when_the_stream_is_left() -> None:
    _, manager = stream_of(["a", FOREVER])
    async with manager as stream:
        await wait_all_tasks_blocked()
    with pytest.raises(trio.ClosedResourceError):
        await anext(stream)


async def test_a_shielded_reader_is_not_left_waiting_when_the_session_was_cancelled() -> None:
    with trio.CancelScope() as scope:
        _, manager = stream_of(["a", FOREVER])
        async with manager as stream:
            await wait_all_tasks_blocked()
            scope.cancel()
            with trio.CancelScope(shield=True):
                assert await anext(stream) == "a"
                with pytest.raises(trio.ClosedResourceError, match="the stream was cancelled"):
                    await anext(stream)
    assert scope.cancelled_caught


async def test_a_shielded_body_that_ends_well_after_a_cancellation_is_told_of_no_error() -> None:
    with trio.CancelScope() as scope:
        _, manager = stream_of([FOREVER])
        async with manager as stream:
            await wait_all_tasks_blocked()
            scope.cancel()
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()
            assert stream.statistics().state == "ended"
    assert scope.cancel_called


async def test_an_interrupt_beside_an_error_that_matches_leaves_with_it() -> None:
    interrupt, error = KeyboardInterrupt(), OSError()
    _, manager = stream_of([BaseExceptionGroup("", [interrupt, error])])
    with pytest.RaisesGroup(KeyboardInterrupt, OSError) as caught:
        async with manager as stream:
            await anext(stream)
    assert caught.value.exceptions == (interrupt, error)


async def test_an_interrupt_in_a_session_leaves_bare_and_readers_are_cancelled() -> None:
    interrupt = KeyboardInterrupt()
    _, manager = stream_of([interrupt])
    with pytest.raises(KeyboardInterrupt) as caught:
        async with manager as stream:
            await anext(stream)
    assert caught.value is interrupt


async def test_an_interrupt_strikes_in_a_session_but_not_between_two_changes_of_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    protected: dict[str, bool] = {}

    async def look(link: StreamLink[Any]) -> None:
        protected["session"] = trio.lowlevel.currently_ki_protected()
        await link.send_item("a")

    class Watched(Mailbox[Any]):
        def put(self, item: Any) -> Any:
            protected["put"] = trio.lowlevel.currently_ki_protected()
            return super().put(item)

        def take(self) -> Any:
            protected["take"] = trio.lowlevel.currently_ki_protected()
            return super().take()

    monkeypatch.setattr("trioresil._services.stream.Mailbox", Watched)
    _, manager = stream_of([look, "finish"])
    async with manager as stream:
        assert await read_all(stream) == ["a"]
    assert protected == {"session": False, "put": True, "take": True}


def test_outside_of_trio_it_says_so() -> None:
    async def main() -> None:
        async with stream_of([FOREVER])[1]:
            raise AssertionError

    with pytest.raises(RuntimeError, match="this ran under asyncio"):
        asyncio.run(main())


async def test_it_can_be_opened_once() -> None:
    _, manager = stream_of([FOREVER])
    async with manager:
        with pytest.raises(RuntimeError, match="opened already"):
            await manager.__aenter__()


async def test_it_is_left_in_the_task_that_opened_it() -> None:
    _, manager = stream_of([FOREVER])
    async with manager as stream:
        async with trio.open_nursery() as nursery:

            async def leave() -> None:
                with pytest.raises(RuntimeError, match="must be left in the task that opened it"):
                    await manager.__aexit__(None, None, None)

            nursery.start_soon(leave)
        await stream.send("x")  # and nothing was closed


async def test_serve_stream_tells_the_stream_and_runs_until_it_is_cancelled(autojump_clock: Autojump) -> None:
    sessions = Sessions(["a", OSError()], ["b", FOREVER])
    async with trio.open_nursery() as nursery:
        stream = await nursery.start(functools.partial(trioresil.serve_stream, sessions, on=OSError))
        assert await read(stream, 2) == ["a", "b"]
        nursery.cancel_scope.cancel()
    assert sessions.inside == 0


def test_a_stream_belongs_to_its_run() -> None:
    async def other() -> None:
        with pytest.raises(RuntimeError, match="in use in another"):
            await anext(streams[0])
        with pytest.raises(RuntimeError, match="in use in another"):
            await streams[0].send("x")

    async def main() -> None:
        async with stream_of([FOREVER])[1] as stream:
            streams.append(stream)
            await trio.to_thread.run_sync(trio.run, other)

    streams: list[Any] = []
    trio.run(main)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"on": ()}, ValueError, "on must be"),
        ({"on": BaseException}, TypeError, "on must be"),
        ({"backoff": 5}, TypeError, "backoff must be"),
        ({"give_up_after": 0}, ValueError, "give_up_after must be a number of seconds > 0, not 0"),
        ({"stable_after": -1}, ValueError, "stable_after must be a number of seconds >= 0, not -1"),
        ({"heartbeat_timeout": math.nan}, ValueError, "heartbeat_timeout must be a number of seconds > 0, not nan"),
        ({"buffer": -1}, ValueError, "buffer must be a whole number >= 0, not -1"),
        ({"buffer": 0, "when_full": "drop_oldest"}, ValueError, "buffer must be a whole number >= 1 with"),
        ({"outgoing": math.inf}, TypeError, "outgoing must be a whole number >= 0, not inf"),
        (
            {"when_full": "drop"},
            ValueError,
            "when_full must be one of 'wait', 'drop_oldest', 'drop_newest', not 'drop'",
        ),
        ({"limit": trio.CapacityLimiter(1)}, TypeError, "limit must be a trioresil.TokenBucket, not"),
        ({"rng": 5}, TypeError, "rng must be"),
        ({"name": ""}, ValueError, "name must be"),
        ({"session": 5}, TypeError, "session must be an async function"),
    ],
)
def test_wrong_arguments_are_refused_at_once(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_stream(**({"session": Sessions([]), "on": OSError} | options))
