"""When a Retry calls again, and at which instant: every claim in each of its forms."""

from __future__ import annotations

import math
from itertools import islice
from random import Random
from typing import Any

import pytest
import trio

import trioresil
from tests._scripts import FORMS, OTHER_FORMS, After, Form, Script, refuse
from tests.kernel._prove import FixedChance
from trioresil.testing import Recorder


class Passing(Exception):
    """Worth another attempt in these tests."""


class Lasting(Exception):
    """Not worth one."""


every_form = pytest.mark.parametrize("form", [*FORMS.values(), *OTHER_FORMS.values()])


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return FORMS[request.param]


def retry_with(**configuration: Any) -> trioresil.Retry:
    return trioresil.Retry(**{"on": Passing, "backoff": [1, 2, 4], **configuration})


# --- how often, and when


@every_form
async def test_first_success_is_returned_at_once(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    script = Script("value")
    assert await form(retry_with(), script.run) == "value"
    assert script.began_at == [0]
    assert trio.current_time() == 0


@every_form
async def test_calls_again_until_success(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    script = Script(Passing(), After(0.5, Passing()), "value")
    assert await form(retry_with(), script.run) == "value"
    assert script.began_at == [0, 1, 3.5]  # the wait begins when the attempt has failed
    assert trio.current_time() == 3.5


@every_form
async def test_makes_five_attempts_by_default(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    errors = [Passing(number) for number in range(9)]
    script = Script(*errors)
    with pytest.raises(Passing) as caught:
        await form(retry_with(), script.run)
    assert caught.value is errors[4]
    assert script.began_at == [0, 1, 3, 7, 11]  # the last wait of a list repeats
    assert trio.current_time() == 11  # nobody sleeps after the last attempt


@pytest.mark.parametrize("attempts", [1, 2, 7])
async def test_max_attempts_counts_the_first(attempts: int, form: Form, autojump_clock: trio.testing.MockClock) -> None:
    script = Script(Passing())
    with pytest.raises(Passing):
        await form(retry_with(max_attempts=attempts, backoff=[1]), script.run)
    assert script.began_at == list(range(attempts))


async def test_endless_only_if_written_out(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    script = Script(*[Passing()] * 3000, "value")
    assert await form(retry_with(max_attempts=math.inf, backoff=[0.25]), script.run) == "value"
    assert trio.current_time() == 3000 * 0.25


async def test_default_waits_are_exponential_with_full_jitter(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    recorder = Recorder()
    with trioresil.instrument(recorder), pytest.raises(Passing):
        await form(retry_with(backoff=None, rng=Random(7)), Script(Passing()).run)
    expected = trioresil.exponential(initial=0.1, factor=2.0, max=10.0, jitter="full").delays(Random(7))
    assert [event.delay for event in recorder.of(trioresil.RetryScheduled)] == list(islice(expected, 4))


async def test_each_call_begins_its_own_schedule(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    retry = retry_with()
    for began_at in ([0, 1, 3], [3, 4, 6]):
        script = Script(Passing(), Passing(), "value")
        await form(retry, script.run)
        assert script.began_at == began_at


async def test_object_of_the_users_own_is_a_backoff(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    class Halving:
        def delays(self, rng: object) -> Any:
            yield from (1.0, 0.5)

    script = Script(Passing(), Passing(), Passing(), "value")
    await form(retry_with(backoff=Halving()), script.run)
    assert script.began_at == [0, 1, 1.5, 2]


async def test_many_tasks_share_one_retry(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    retry = retry_with()
    scripts = [Script(*[Passing()] * number, number) for number in range(5)]
    async with trio.open_nursery() as nursery:
        for script in scripts:
            nursery.start_soon(form, retry, script.run)
    assert [script.began_at for script in scripts] == [[0, 1, 3, 7, 11][: number + 1] for number in range(5)]


async def test_arguments_reach_every_attempt(autojump_clock: trio.testing.MockClock) -> None:
    seen: list[object] = []

    async def work(first: int, second: int, *, third: int = 0) -> str:
        seen.append((first, second, third))
        if len(seen) % 3:
            raise Passing
        return "value"

    retry = retry_with()
    assert await retry.call(work, 1, 2) == "value"
    assert await retry(work)(1, second=2, third=3) == "value"
    assert await retry.bind(work)(1, 2, third=4) == "value"
    assert seen == [(1, 2, 0)] * 3 + [(1, 2, 3)] * 3 + [(1, 2, 4)] * 3


async def test_decorated_method_is_retried_with_its_self(autojump_clock: trio.testing.MockClock) -> None:
    retry = retry_with()

    class Client:
        failures = 2

        @retry
        async def fetch(self, url: str) -> tuple[Client, str]:
            """Fetch."""
            if self.failures:
                self.failures -= 1
                raise Passing
            return self, url

    client = Client()
    assert await client.fetch("x") == (client, "x")
    assert (Client.fetch.__name__, Client.fetch.__doc__) == ("fetch", "Fetch.")


# --- what is worth another attempt


@pytest.mark.parametrize("on", [Passing, (KeyError, Passing), lambda error: isinstance(error, Passing)])
async def test_on_says_what_is_retried(on: Any, form: Form, autojump_clock: trio.testing.MockClock) -> None:
    lasting = Lasting()
    script = Script(Passing(), Passing(), lasting)
    with pytest.raises(Lasting) as caught:
        await form(retry_with(on=on), script.run)
    assert caught.value is lasting
    assert script.began_at == [0, 1, 3]


async def test_predicate_is_asked_once_about_each_error_itself(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    errors = [Passing(1), Passing(2), Passing(3)]
    asked: list[Exception] = []
    script = Script(*errors, "value")
    assert await form(retry_with(on=lambda error: asked.append(error) or True), script.run) == "value"
    assert all(seen is raised for seen, raised in zip(asked, errors, strict=True))


@pytest.mark.parametrize(
    ("group", "retried"),
    [
        (lambda: ExceptionGroup("", [Passing(), Passing()]), True),
        (lambda: ExceptionGroup("", [Passing(), ExceptionGroup("", [Passing()])]), True),
        (lambda: ExceptionGroup("", [Passing(), Lasting()]), False),
        (lambda: ExceptionGroup("", [Passing(), ExceptionGroup("", [Passing(), Lasting()])]), False),
    ],
)
async def test_every_leaf_of_a_group_must_match(
    group: Any, retried: bool, form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    error = group()
    script = Script(error, "value")
    if retried:
        assert await form(retry_with(), script.run) == "value"
    else:
        with pytest.raises(ExceptionGroup) as caught:
            await form(retry_with(), script.run)
        assert caught.value is error


async def test_group_itself_is_asked_about_first(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    asked: list[str] = []
    script = Script(ExceptionGroup("", [Lasting()]), "value")
    await form(retry_with(on=lambda error: asked.append(type(error).__name__) or True), script.run)
    assert asked == ["ExceptionGroup"]


@pytest.mark.parametrize("passing", [KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_what_is_no_exception_passes(
    passing: type[BaseException], form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    raised = passing()
    for script in (Script(raised), Script(Passing(), raised)):
        attempts = len(script.steps)
        with pytest.raises(passing) as caught:
            await form(retry_with(on=lambda error: True), script.run)
        assert caught.value is raised
        assert len(script.began_at) == attempts


@pytest.mark.parametrize("nurseries", [0, 1, 2])
async def test_cancellation_is_never_retried(
    nurseries: int, form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    asked: list[BaseException] = []

    async def nested(depth: int = nurseries) -> None:
        if not depth:
            await trio.sleep_forever()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(nested, depth - 1)
            nursery.start_soon(trio.sleep_forever)

    with trio.move_on_after(1) as scope:
        await form(retry_with(on=lambda error: asked.append(error) or True), nested)
    assert scope.cancelled_caught
    assert asked == []
    assert trio.current_time() == 1


async def test_cancelled_wait_makes_no_further_attempt(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    script = Script(Passing())
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(form, retry_with(), script.run)
            await trio.sleep(2)
            scope.cancel()
    assert scope.cancelled_caught
    assert script.began_at == [0, 1]
    assert trio.current_time() == 2


async def test_cancelled_task_calls_nothing(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    script = Script("value")
    with trio.CancelScope() as scope:
        scope.cancel()
        await form(retry_with(), script.run)
    assert scope.cancelled_caught
    assert script.began_at == []


async def test_result_that_cant_be_awaited_is_a_type_error_and_not_retried(
    autojump_clock: trio.testing.MockClock,
) -> None:
    calls: list[None] = []

    def plain() -> int:
        calls.append(None)
        return 5

    for retry in (retry_with(on=Exception), retry_with(on=lambda error: True), retry_with(on=TypeError)):
        with pytest.raises(TypeError, match=r"plain must return something to await .* but it returned 5") as caught:
            await retry.call(plain)  # type: ignore[arg-type]
        assert not hasattr(caught.value, "__notes__")
    assert len(calls) == 3


async def test_function_that_returns_an_awaitable_is_called_anew(autojump_clock: trio.testing.MockClock) -> None:
    script = Script(Passing(), "value")
    assert await retry_with().call(lambda: script.run()) == "value"
    assert script.began_at == [0, 1]


# --- deadlines


async def test_wait_that_would_reach_the_deadline_gives_the_real_error_now(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    error = Passing()
    with pytest.raises(Passing) as caught:
        with trio.fail_after(1):
            await form(retry_with(backoff=[1]), Script(error).run)
    assert caught.value is error
    assert trio.current_time() == 0


async def test_wait_that_ends_before_the_deadline_is_waited(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    script = Script(Passing(), Passing(), Passing(), "value")
    with pytest.raises(Passing):
        with trio.fail_after(3):
            await form(retry_with(), script.run)
    assert script.began_at == [0, 1]  # the second wait would end at 3
    assert trio.current_time() == 1


async def test_deadline_of_a_timeout_around_it_counts(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    error = Passing()

    async def inside() -> None:
        await form(retry_with(), Script(Passing(), error).run)

    with pytest.raises(Passing) as caught:
        await trioresil.Timeout(3).call(inside)
    assert caught.value is error
    assert trio.current_time() == 1


async def test_scope_that_is_cancelled_already_gives_the_real_error(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    error = Passing()
    with pytest.raises(Passing) as caught:
        with trio.CancelScope() as scope:

            async def fails_as_it_is_cancelled() -> None:
                scope.cancel()
                raise error

            await form(retry_with(backoff=[0]), fails_as_it_is_cancelled)
    assert caught.value is error


async def test_zero_wait_is_a_checkpoint(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    order: list[str] = []

    async def fails(name: str) -> None:
        order.append(name)
        if len(order) < 4:
            raise Passing

    async with trio.open_nursery() as nursery:
        for name in "ab":
            nursery.start_soon(form, retry_with(backoff=[0]), lambda name=name: fails(name))
    assert sorted(order[:2]) == sorted(order[2:4]) == ["a", "b"]


# --- hints


def hint_of(delay: float | None) -> Any:
    return lambda outcome: delay


@pytest.mark.parametrize("backoff", [[1], trioresil.constant(1), trioresil.linear(1, 1)])
@pytest.mark.parametrize(("hint", "wait"), [(0.25, 0.25), (5, 5), (0, 0), (-3, 0), (60, 60), (None, 1)])
async def test_hint_takes_the_place_of_an_exact_wait(
    hint: float | None, wait: float, backoff: Any, form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    script = Script(Passing(), "value")
    await form(retry_with(backoff=backoff, delay_hint=hint_of(hint), rng=FixedChance(0.5)), script.run)
    assert script.began_at == [0, wait]


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.875])
async def test_hint_is_never_cut_short_by_jitter(
    chance: float, form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    class Unknown:  # an object that doesn't say counts as jittered
        def delays(self, rng: object) -> Any:
            return iter([1.0])

    for backoff in (trioresil.exponential(1, max=2), trioresil.exponential(1, max=2, jitter=0.5), Unknown()):
        began_at = trio.current_time()
        script = Script(Passing(), "value")
        await form(retry_with(backoff=backoff, delay_hint=hint_of(8), rng=FixedChance(chance)), script.run)
        assert script.began_at == [began_at, began_at + 8 * (1 + chance / 2)]  # beyond the backoff's max, too


async def test_hint_is_exact_under_an_exponential_without_jitter(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    backoff = trioresil.exponential(1, jitter="none")
    script = Script(Passing(), "value")
    await form(retry_with(backoff=backoff, delay_hint=hint_of(8), rng=FixedChance(0.5)), script.run)
    assert script.began_at == [0, 8]


@pytest.mark.parametrize("hint", [60.5, 1e300, math.inf])
async def test_hint_above_its_bound_ends_at_once(
    hint: float, form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    error = Passing()
    with pytest.raises(Passing) as caught:
        await form(retry_with(delay_hint=hint_of(hint)), Script(error).run)
    assert caught.value is error
    assert trio.current_time() == 0


async def test_bound_is_judged_before_jitter(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    retry = retry_with(
        max_hint=8, delay_hint=hint_of(8), rng=FixedChance(0.5), backoff=trioresil.exponential(jitter=0.5)
    )
    script = Script(Passing(), "value")
    await form(retry, script.run)
    assert script.began_at == [0, 10]


async def test_endless_hint_without_a_bound_never_sleeps_for_ever(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    error = Passing()
    with pytest.raises(Passing) as caught:
        await form(retry_with(max_hint=math.inf, delay_hint=hint_of(math.inf)), Script(error).run)
    assert caught.value is error
    assert trio.current_time() == 0


async def test_hinted_retry_still_uses_up_one_wait_of_the_schedule(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    hints = iter([0.5, None, None])
    script = Script(Passing(), Passing(), Passing(), "value")
    await form(retry_with(delay_hint=lambda error: next(hints)), script.run)
    assert script.began_at == [0, 0.5, 2.5, 6.5]


async def test_hint_is_asked_about_the_error_or_the_result(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    error, asked = Passing(), []
    script = Script(error, "busy", "value")
    retry = retry_with(on_result=lambda result: result == "busy", delay_hint=lambda outcome: asked.append(outcome))
    assert await form(retry, script.run) == "value"
    assert asked == [error, "busy"]


async def test_hint_past_the_deadline_gives_the_real_error_now(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    error = Passing()
    with pytest.raises(Passing) as caught:
        with trio.fail_after(5):
            await form(retry_with(delay_hint=hint_of(5)), Script(error).run)
    assert caught.value is error
    assert trio.current_time() == 0


async def test_rejection_hints_at_its_own_retry_after(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    script = Script(refuse(0.25), refuse(None), refuse(-1), "value")
    await form(retry_with(on=trioresil.RejectedError), script.run)
    assert script.began_at == [0, 0.25, 2.25, 2.25]


async def test_rejection_out_of_a_started_attempt_is_no_hint(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    script = Script(trioresil.RejectedError("elsewhere", 0.25), "value")
    await form(retry_with(on=trioresil.RejectedError), script.run)
    assert script.began_at == [0, 1]


async def test_given_hint_takes_the_place_of_the_rejections_own(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    script = Script(refuse(0.25), "value")
    await form(retry_with(on=trioresil.RejectedError, delay_hint=hint_of(None)), script.run)
    assert script.began_at == [0, 1]


async def test_hint_into_the_past_is_told_as_a_wait_of_zero(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    recorder = Recorder()
    with trioresil.instrument(recorder):
        await form(retry_with(delay_hint=hint_of(-3)), Script(Passing(), "value").run)
    assert [event.delay for event in recorder.of(trioresil.RetryScheduled)] == [0]


@pytest.mark.parametrize(("hint", "error"), [(math.nan, ValueError), ("5", TypeError), (True, TypeError)])
async def test_hint_that_is_no_number_is_refused(
    hint: Any, error: type[Exception], form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    failure = Passing()
    with pytest.raises(error, match="the result of delay_hint must be a number") as caught:
        await form(retry_with(delay_hint=hint_of(hint)), Script(failure).run)
    assert caught.value.__cause__ is failure


async def test_what_a_hint_raises_tells_of_the_attempts_error(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    def hint(error: Exception) -> float:
        raise wrong

    failure, wrong = Passing(), ZeroDivisionError()
    with pytest.raises(ZeroDivisionError) as caught:
        await form(retry_with(delay_hint=hint), Script(failure).run)
    assert caught.value is wrong
    assert wrong.__cause__ is failure


async def test_hint_may_raise_the_attempts_error_itself(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    def hint(error: Exception) -> float:
        raise error

    failure = Passing()
    with pytest.raises(Passing) as caught:
        await form(retry_with(delay_hint=hint), Script(failure).run)
    assert caught.value is failure
    assert failure.__cause__ is None


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration])
async def test_hint_that_ends_an_iteration_is_no_success(
    kind: type[Exception], form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    def hint(error: Exception) -> float:
        raise kind("no more")

    failure = Passing()
    with pytest.raises(RuntimeError, match=rf"delay_hint or backoff raised {kind.__name__}\('no more'\)") as caught:
        await form(retry_with(delay_hint=hint), Script(failure).run)
    assert isinstance(caught.value.__cause__, kind)
    assert caught.value.__cause__.__cause__ is failure


# --- results


@every_form
async def test_failing_result_is_retried(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    script = Script(None, Passing(), None, "value")
    assert await form(retry_with(on_result=lambda result: result is None), script.run) == "value"
    assert script.began_at == [0, 1, 3, 7]


@every_form
async def test_last_failing_result_is_returned(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    script = Script(Passing(), "first", "second", "third", "fourth")
    assert await form(retry_with(on_result=lambda result: True, max_attempts=4), script.run) == "third"
    assert script.began_at == [0, 1, 3, 7]


async def test_result_is_kept_while_later_attempts_never_start(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    retry = retry_with(on=trioresil.RejectedError, on_result=lambda result: result == "poor", max_attempts=3)
    assert await form(retry, Script("poor", refuse()).run) == "poor"


async def test_error_after_a_failing_result_comes_out(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    error = Passing()
    with pytest.raises(Passing) as caught:
        await form(retry_with(on_result=lambda result: True, max_attempts=2), Script("poor", error).run)
    assert caught.value is error


async def test_on_result_is_asked_once_about_each_result(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    asked: list[object] = []
    script = Script("a", "b", Passing(), "c")
    await form(retry_with(on_result=lambda result: asked.append(result) or result != "c"), script.run)
    assert asked == ["a", "b", "c"]
