"""Every form of every policy: same error out, one check for cancellation, methods, keywords, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio

import trioresil
import trioresil.testing
from tests._ids import shown
from trioresil import (
    Bulkhead,
    CircuitBreaker,
    ConsecutiveFailures,
    Fallback,
    Keyed,
    Pipeline,
    Retry,
    RetryBudget,
    Timeout,
    TokenBucket,
)

Fn = Callable[..., Awaitable[Any]]


async def stand_in(*args: Any, **kwargs: Any) -> str:
    return "stand-in"


POLICIES: dict[str, Callable[[], Any]] = {
    "Retry": lambda: Retry(on=LookupError, budget=RetryBudget()),
    "Timeout": lambda: Timeout(5),
    "CircuitBreaker": lambda: CircuitBreaker(trip=ConsecutiveFailures(2) | trioresil.FailureRatio(0.9, window=30)),
    "Bulkhead": lambda: Bulkhead(2),
    "TokenBucket": lambda: TokenBucket(rate=10, capacity=10),
    "Fallback": lambda: Fallback(stand_in, on=LookupError),
    "Keyed": lambda: Keyed(lambda key: CircuitBreaker(name=key), key=lambda *args, **kwargs: "key"),
    "Pipeline": lambda: Pipeline(
        Fallback(stand_in, on=LookupError),
        Timeout(9),
        Retry(on=(LookupError, trioresil.TimedOutError)),
        CircuitBreaker(),
        TokenBucket(rate=10, capacity=10),
        Bulkhead(2),
        Timeout(2),
    ),
    "guards": lambda: Pipeline(
        Timeout(9), CircuitBreaker(), TokenBucket(rate=10, capacity=10), Pipeline(Bulkhead(2), Timeout(2))
    ),
}
GUARDS = ["Timeout", "CircuitBreaker", "Bulkhead", "TokenBucket", "guards"]


async def by_call(policy: Any, fn: Fn) -> Any:
    return await policy.call(fn)


async def by_decorator(policy: Any, fn: Fn) -> Any:
    return await policy(fn)()


async def by_bind(policy: Any, fn: Fn) -> Any:
    return await policy.bind(fn)()


async def by_pipeline(policy: Any, fn: Fn) -> Any:
    return await Pipeline(policy).call(fn)


async def by_partial_of_call(policy: Any, fn: Fn) -> Any:
    return await Timeout(20).call(functools.partial(policy.call, fn))


async def by_block(policy: Any, fn: Fn) -> Any:
    async with policy:
        return await fn()


async def by_loop(policy: Any, fn: Fn) -> Any:
    async for attempt in policy:
        with attempt:
            return await fn()


async def by_admission(policy: Any, fn: Fn) -> Any:
    with policy.admit():
        return await fn()


CALLS = [by_call, by_decorator, by_bind, by_pipeline, by_partial_of_call]
FORMS = [
    *((name, form) for name in POLICIES for form in CALLS),
    *((name, by_block) for name in GUARDS),
    ("Retry", by_loop),
    ("CircuitBreaker", by_admission),
]


def forms(*without: Any) -> pytest.MarkDecorator:
    wanted = [(name, form) for name, form in FORMS if form not in without]
    ids = [f"{name}-{form.__name__.removeprefix('by_')}" for name, form in wanted]
    return pytest.mark.parametrize(("name", "form"), wanted, ids=ids)


all_forms = forms()
all_policies = pytest.mark.parametrize("name", POLICIES)


# --- what comes out --------------------------------------------------------------------------------------------------------


@all_forms
async def test_the_result_comes_out(name: str, form: Any) -> None:
    result = object()

    async def fn() -> object:
        return result

    policy = POLICIES[name]()
    assert await form(policy, fn) is result
    assert await form(policy, fn) is result


@all_forms
async def test_a_value_error_comes_out_as_the_same_object_and_in_no_group(name: str, form: Any) -> None:
    cause = KeyError("cause")
    error = ValueError("x")

    async def fn() -> None:
        await trio.lowlevel.checkpoint()
        raise error from cause

    with pytest.raises(ValueError, match="x") as caught:
        await form(POLICIES[name](), fn)
    assert caught.value is error
    assert error.__cause__ is cause
    assert error.__context__ is None
    assert not hasattr(error, "__notes__")


@all_forms
async def test_an_error_out_of_a_users_nursery_is_still_the_users_group(name: str, form: Any) -> None:
    error = ValueError("x")

    async def fail() -> None:
        raise error

    async def fn() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)

    with pytest.raises(ExceptionGroup) as caught:
        await form(POLICIES[name](), fn)
    assert caught.value.exceptions == (error,)


class Interrupt(BaseException):
    pass


@all_forms
async def test_what_is_no_exception_passes_and_leaves_nothing_behind(name: str, form: Any) -> None:
    interrupt = Interrupt()

    async def fn() -> None:
        raise interrupt

    policy = POLICIES[name]()
    for _ in range(3):
        with pytest.raises(Interrupt) as caught:
            await form(policy, fn)
        assert caught.value is interrupt
    for part in [policy, *getattr(policy, "policies", ())]:
        for field in ("inside", "waiting"):
            assert not getattr(part.statistics(), field, 0)


@forms(by_bind, by_admission)  # which check for no cancellation, and say so
async def test_a_cancelled_scope_stops_the_call_before_the_function(name: str, form: Any) -> None:
    called: list[int] = []

    async def fn() -> None:
        called.append(1)  # pragma: no cover

    policy = POLICIES[name]()
    with trio.CancelScope() as scope:
        scope.cancel()
        await form(policy, fn)
    assert scope.cancelled_caught
    assert called == []
    assert await form(policy, stand_in) == "stand-in"


# --- checkpoints -----------------------------------------------------------------------------------------------------------


class Points:
    """How often the task checked for cancellation and let others run inside of the block, by Trio's own count."""

    def __enter__(self) -> Points:
        self._task: Any = trio.lowlevel.current_task()
        self._before = self._count()
        return self

    def __exit__(self, *_: object) -> None:
        now = self._count()
        self.cancel, self.schedule = now[0] - self._before[0], now[1] - self._before[1]

    def _count(self) -> tuple[int, int]:
        return self._task._cancel_points, self._task._schedule_points


async def without_await() -> None:
    pass


@all_policies
async def test_call_and_decorator_check_for_cancellation_exactly_once_and_let_nobody_else_run(name: str) -> None:
    policy = POLICIES[name]()
    decorated = policy(without_await)
    for awaitable in (policy.call(without_await), decorated(), policy.call(without_await), decorated()):
        with Points() as points:
            await awaitable
        assert (points.cancel, points.schedule) == (1, 0)
    with Points() as points:
        await policy.bind(without_await)()
    assert (points.cancel, points.schedule) == (0, 0)


async def test_a_chain_of_decorators_checks_once_too() -> None:
    decorated: Any = without_await
    for make in POLICIES.values():
        decorated = make()(decorated)
    with Points() as points:
        await decorated()
    assert (points.cancel, points.schedule) == (1, 0)


async def test_an_instrument_adds_no_checkpoint() -> None:
    with trioresil.instrument(trioresil.testing.Recorder()):
        for make in POLICIES.values():
            policy = make()
            with Points() as points:
                await policy.call(without_await)
            assert (points.cancel, points.schedule) == (1, 0)


async def test_the_block_of_a_timeout_or_breaker_only_checks_and_that_of_a_queue_is_a_full_checkpoint() -> None:
    expected = {"Timeout": False, "CircuitBreaker": False, "Bulkhead": True, "TokenBucket": True, "guards": True}
    for name, full in expected.items():
        policy = POLICIES[name]()
        with Points() as points:
            async with policy:
                pass
        assert points.cancel >= 1, name
        assert (points.schedule > 0) is full, name


async def test_admitting_and_attempts_are_no_checkpoints() -> None:
    breaker, retry = CircuitBreaker(), Retry(on=OSError)
    with Points() as points, breaker.admit():
        pass
    assert (points.cancel, points.schedule) == (0, 0)
    async for attempt in retry:
        with Points() as points, attempt:
            pass
        assert (points.cancel, points.schedule) == (0, 0)


def an_open_breaker() -> CircuitBreaker:
    breaker = CircuitBreaker()
    breaker.open(1000)
    return breaker


def an_isolated_breaker() -> CircuitBreaker:
    breaker = CircuitBreaker()
    breaker.isolate()
    return breaker


def a_full_bulkhead() -> Bulkhead:
    return Bulkhead(0, max_waiting=0)


def a_closed_bulkhead() -> Bulkhead:
    bulkhead = Bulkhead(1)
    bulkhead.close_admission()
    return bulkhead


def an_empty_bucket() -> TokenBucket:
    bucket = TokenBucket(rate=0.001, max_wait=0)
    bucket.acquire_nowait()
    return bucket


REJECTING = [an_open_breaker, an_isolated_breaker, a_full_bulkhead, a_closed_bulkhead, an_empty_bucket]


@pytest.mark.parametrize("form", [by_call, by_decorator, by_block, by_pipeline], ids=lambda form: form.__name__)
@pytest.mark.parametrize("make", REJECTING, ids=lambda make: make.__name__)
async def test_a_rejection_is_a_full_checkpoint(make: Any, form: Any) -> None:
    policy = make()
    with Points() as points, pytest.raises(trioresil.RejectedError):
        await form(policy, without_await)
    assert points.cancel >= 1
    assert points.schedule >= 1


@pytest.mark.parametrize("make", REJECTING, ids=lambda make: make.__name__)
async def test_a_cancellation_wins_over_a_rejection(make: Any) -> None:
    policy = make()
    with trio.CancelScope() as scope:
        scope.cancel()
        await policy.call(without_await)
    assert scope.cancelled_caught


# --- functions of all kinds --------------------------------------------------------------------------------------------------


@all_policies
async def test_methods_static_methods_class_methods_and_keywords(name: str) -> None:
    policy = POLICIES[name]()

    class Client:
        """A client."""

        prefix = "class"

        def __init__(self) -> None:
            self.prefix = "self"

        @policy  # type: ignore[untyped-decorator]
        async def fetch(self, path: str, *, host: str = "h") -> str:
            """Fetch it."""
            return f"{self.prefix} {host}{path}"

        @staticmethod
        @policy  # type: ignore[untyped-decorator]
        async def static(path: str, *, host: str = "h") -> str:
            return host + path

        @classmethod
        @policy  # type: ignore[untyped-decorator]
        async def of_class(cls, path: str, *, host: str = "h") -> str:
            return f"{cls.prefix} {host}{path}"

        async def __call__(self, path: str) -> str:
            return f"called {path}"

    client = Client()
    assert await client.fetch("/a", host="b") == "self b/a"
    assert await Client.fetch(client, "/a") == "self h/a"
    assert await client.static("/a", host="b") == await Client.static("/a", host="b") == "b/a"
    assert await client.of_class("/a", host="b") == await Client.of_class("/a", host="b") == "class b/a"
    assert await policy.call(client.fetch, "/a") == "self h/a"
    assert await policy.call(functools.partial(client.fetch, host="b"), "/a") == "self b/a"
    assert await policy.call(client, "/a") == "called /a"
    assert await policy(client)("/a") == "called /a"


@all_policies
def test_the_decorator_keeps_name_documentation_and_signature(name: str) -> None:
    async def fetch(url: str, *, retries: float = 3) -> bytes:
        """Fetch a page."""
        return b""

    for wrapped in (POLICIES[name]()(fetch), POLICIES[name]().bind(fetch)):
        assert wrapped.__name__ == "fetch"
        assert wrapped.__qualname__ == fetch.__qualname__
        assert wrapped.__doc__ == "Fetch a page."
        assert wrapped.__module__ == __name__
        assert wrapped.__wrapped__ is fetch
        assert wrapped.__annotations__ == fetch.__annotations__


@all_policies
async def test_a_lambda_that_returns_an_awaitable_is_called_anew_for_each_attempt(name: str) -> None:
    policy = POLICIES[name]()
    assert await policy.call(lambda: stand_in()) == "stand-in"
    assert await policy(lambda: stand_in())() == "stand-in"


async def async_generator() -> AsyncIterator[int]:
    yield 1  # pragma: no cover


def generator() -> Iterator[int]:
    yield 1  # pragma: no cover


@contextlib.asynccontextmanager
async def context_manager() -> AsyncIterator[int]:
    yield 1  # pragma: no cover


def collecting(fn: Callable[[], AsyncIterator[int]]) -> Callable[[], Awaitable[list[int]]]:
    @functools.wraps(fn)
    async def collected() -> list[int]:
        return [each async for each in fn()]

    return collected


@collecting
async def numbers() -> AsyncIterator[int]:
    yield 1
    yield 2


@all_policies
@pytest.mark.parametrize("fn", [async_generator, generator, context_manager, functools.partial(generator)])
def test_the_decorator_refuses_a_generator_function(name: str, fn: Any) -> None:
    with pytest.raises(TypeError, match="is a generator function, whose failures come after the call has returned"):
        POLICIES[name]()(fn)


async def test_an_async_function_that_runs_a_generator_to_its_end_is_welcome() -> None:
    assert await Timeout(5)(numbers)() == [1, 2]


@all_policies
@pytest.mark.parametrize("wrong", [None, 5, "fetch", [stand_in]], ids=shown)
async def test_what_is_no_function_is_refused_at_once(name: str, wrong: Any) -> None:
    policy = POLICIES[name]()
    for use in (policy, policy.bind):
        with pytest.raises(TypeError) as caught:
            use(wrong)
        assert str(caught.value) == f"an async function is wanted, not {wrong!r}"
    with pytest.raises(TypeError) as caught:
        await policy.call(wrong)
    assert str(caught.value) == f"an async function is wanted, not {wrong!r}"


@all_policies
async def test_a_coroutine_in_place_of_a_function_is_refused_and_closed(name: str) -> None:
    policy = POLICIES[name]()
    for use in (policy, policy.bind):
        with pytest.raises(TypeError) as caught:
            use(stand_in())
        assert "not the coroutine that calling it gives: pass stand_in, without (...)" in str(caught.value)
    with pytest.raises(TypeError, match=r"not the coroutine .*: pass stand_in, without \(\.\.\.\)"):
        await policy.call(stand_in())


@pytest.mark.parametrize("form", CALLS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("returned", [None, 5, "text", [], stand_in], ids=shown)
async def test_a_result_that_can_not_be_awaited_is_a_type_error_that_no_policy_handles(
    form: Any, returned: Any, autojump_clock: Any
) -> None:
    calls: list[int] = []

    def plain() -> Any:
        calls.append(1)
        return returned

    async def alternative() -> None:
        raise AssertionError("fell back")  # pragma: no cover

    breaker = CircuitBreaker(trip=ConsecutiveFailures(1))
    keyed = Keyed(lambda key: Timeout(3), key=lambda: "key")
    policies = [Fallback(alternative, on=Exception, default=0), Timeout(9), Retry(on=Exception), breaker, keyed]
    for policy in (*policies, *(Pipeline(each, Bulkhead(2)) for each in policies), Bulkhead(1), TokenBucket(rate=9)):
        calls.clear()
        with pytest.raises(TypeError) as caught:
            await form(policy, plain)
        assert calls == [1]
        told = str(caught.value)
        assert told.endswith(f"plain must return something to await (is it async?), but it returned {returned!r}")
    assert breaker.state is trioresil.CircuitState.CLOSED
    assert trio.current_time() == 0


async def test_a_synchronous_method_of_a_policy_is_told_from_an_async_one() -> None:
    bucket = TokenBucket(rate=1)
    breaker = CircuitBreaker(trip=ConsecutiveFailures(1))
    for policy in (Retry(on=Exception), breaker, Fallback(on=Exception, default=0)):
        with pytest.raises(TypeError, match=r"acquire_nowait must return something to await .* returned None"):
            await policy.call(bucket.acquire_nowait, 0.25)  # type: ignore[arg-type]
    assert bucket.statistics().granted == 3
    assert breaker.state is trioresil.CircuitState.CLOSED


async def test_a_type_error_of_the_functions_own_is_an_ordinary_error(autojump_clock: Any) -> None:
    async def fn(x: int) -> None:
        raise TypeError("own")

    class Strange:
        def __await__(self) -> Any:
            return 5

    assert await Fallback(on=TypeError, default=0).call(fn, 1) == 0
    assert await Fallback(on=TypeError, default=0).call(fn) == 0  # type: ignore[call-arg,arg-type]
    assert await Fallback(on=TypeError, default=0).call(Strange) == 0


# --- outside of Trio -----------------------------------------------------------------------------------------------------------

UNDER_ASYNCIO = "trioresil runs on Trio: start the program with trio.run(...); this ran under asyncio"
NOWHERE = "trioresil runs on Trio: start the program with trio.run(...); this ran outside of a Trio program"


def message_of(awaitable: Awaitable[Any]) -> str:
    async def main() -> str:
        with pytest.raises(RuntimeError) as caught:
            await awaitable
        assert caught.value.__suppress_context__
        return str(caught.value)

    return asyncio.run(main())


@forms(by_bind)  # which is for use inside of a chain that has checked already
def test_under_asyncio_the_message_says_what_to_do(name: str, form: Any) -> None:
    async def fn() -> None:
        raise AssertionError("called")  # pragma: no cover

    assert message_of(form(POLICIES[name](), fn)) == UNDER_ASYNCIO


def test_under_asyncio_the_other_entrances_say_so_too() -> None:
    bulkhead, bucket, breaker = Bulkhead(1), TokenBucket(rate=1), CircuitBreaker()

    async def synchronously(fn: Callable[[], object]) -> None:
        fn()

    assert message_of(bulkhead.acquire()) == UNDER_ASYNCIO
    assert message_of(bucket.acquire()) == UNDER_ASYNCIO
    assert message_of(trioresil.acquire_all((bucket, 1))) == UNDER_ASYNCIO
    assert message_of(breaker.wait_admittable()) == UNDER_ASYNCIO
    for fn in (
        bucket.acquire_nowait,
        lambda: bucket.adjust(1),
        lambda: bucket.pause(1),
        lambda: breaker.open(1),
        breaker.admit().__enter__,
        lambda: trioresil.instrument_run(trioresil.testing.Recorder()),
        RetryBudget().deposit,
    ):
        assert message_of(synchronously(fn)) == UNDER_ASYNCIO


def test_outside_of_any_loop_the_message_says_so() -> None:
    for policy in (Timeout(5), Retry(on=OSError), Pipeline()):
        coroutine = policy.call(stand_in)
        with pytest.raises(RuntimeError) as caught:
            coroutine.send(None)
        assert str(caught.value) == NOWHERE
    with pytest.raises(RuntimeError) as caught:
        TokenBucket(rate=1).acquire_nowait()
    assert str(caught.value) == NOWHERE


async def test_a_runtime_error_that_is_not_about_trio_is_left_alone() -> None:
    error = RuntimeError("own")

    async def fn() -> None:
        raise error

    for make in POLICIES.values():
        with pytest.raises(RuntimeError) as caught:
            await make().call(fn)
        assert caught.value is error
