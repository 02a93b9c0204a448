"""TokenBucket: a waiter cancelled at any moment takes nothing, delays nobody, and leaves nobody asleep."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable

import pytest
import trio

import trioresil
from tests._limits import ModelQueue
from trioresil import Pipeline, TokenBucket
from trioresil._kernel.token_bucket import Bucket
from trioresil.testing import Sweep, cancellation_sweep

RATE, CAPACITY = 2, 4

Form = Callable[[TokenBucket, Callable[[], Awaitable[None]]], Awaitable[None]]


async def acquire(bucket: TokenBucket, granted: Callable[[], Awaitable[None]]) -> None:
    await bucket.acquire(1)
    await granted()


async def block(bucket: TokenBucket, granted: Callable[[], Awaitable[None]]) -> None:
    async with bucket:
        await granted()


async def call(bucket: TokenBucket, granted: Callable[[], Awaitable[None]]) -> None:
    await bucket.call(granted)


async def decorated(bucket: TokenBucket, granted: Callable[[], Awaitable[None]]) -> None:
    await bucket(granted)()


async def bound(bucket: TokenBucket, granted: Callable[[], Awaitable[None]]) -> None:
    await bucket.bind(granted)()


async def piped(bucket: TokenBucket, granted: Callable[[], Awaitable[None]]) -> None:
    await Pipeline(trioresil.Timeout(1000), bucket).call(granted)


async def all_of_one(bucket: TokenBucket, granted: Callable[[], Awaitable[None]]) -> None:
    await trioresil.acquire_all((bucket, 1))
    await granted()


FORMS: list[Form] = [acquire, block, call, decorated, bound, piped, all_of_one]


class Street:
    """A bucket, its customers, and the model that they are told to as they come and go."""

    def __init__(self, sweep: Sweep, level: float) -> None:
        self.sweep = sweep
        self.bucket = TokenBucket(rate=RATE, capacity=CAPACITY)
        self.model = ModelQueue(Bucket(RATE, CAPACITY))
        self.bucket.acquire_nowait(CAPACITY - level)
        self.model.level.take(CAPACITY - level, 0, False)
        self.grants: list[tuple[object, float]] = []
        sweep.when_quiet(self.check)

    def check(self) -> None:
        """Whoever waits has a head that sleeps, until the instant at which its tokens are there."""
        now, statistics = trio.current_time(), self.bucket.statistics()
        if not statistics.waiting:
            assert self.bucket._head is None
            assert not self.bucket._turnstile.borrowed_tokens
            assert statistics.waiting_tokens == 0
        else:
            assert self.bucket._head is not None
            ((_, tokens),) = self.bucket._head._demands
            ready_at = self.bucket._level.ready_at(tokens, now, True)
            assert self.bucket._head._scope.deadline == ready_at > now
        assert statistics.granted == 1 + len(self.grants)

    async def customer(self, name: str, tokens: float) -> None:
        self.model.advance(trio.current_time())
        self.model.arrive(name, tokens)
        await self.bucket.acquire(tokens)
        self.grants.append((name, trio.current_time()))

    async def victim(self, form: Form, after: float = 0.0) -> None:
        if after:
            await trio.sleep(after)
        self.model.advance(trio.current_time())
        self.model.arrive("victim", 1)

        async def granted() -> None:
            self.grants.append(("victim", trio.current_time()))

        with self.sweep.victim():
            await form(self.bucket, granted)
        if ("victim", trio.current_time()) not in self.grants:
            assert self.sweep.victim_cancelled
            self.model.advance(trio.current_time(), inclusive=False)
            self.model.leave("victim")

    def finish(self) -> None:
        """Compare with the model, which saw the victim leave if it left before its grant."""
        self.model.advance(trio.current_time())
        assert self.grants == self.model.grants
        assert self.bucket.statistics().tokens == self.model.level.level(trio.current_time())
        self.check()


async def crowd(form: Form, sweep: Sweep) -> None:
    street = Street(sweep, level=0)
    async with trio.open_nursery() as nursery:
        for name, tokens in (("a", 2), ("b", 0.5), ("c", 4)):
            nursery.start_soon(street.customer, name, tokens)
        nursery.start_soon(street.victim, form)
        nursery.start_soon(street.customer, "d", 1)
    street.finish()


async def changes(form: Form, sweep: Sweep) -> None:
    street = Street(sweep, level=0)

    async def meddle() -> None:  # at instants that are nobody's grant
        for change in (
            lambda level, *now: level.pause(1, *now),
            lambda level, *now: level.adjust(1, *now),
            lambda level, *now: level.pause(0.25, *now),
            lambda level, *now: level.adjust(-0.75, *now),
        ):
            await trio.sleep(0.28125)
            street.model.advance(trio.current_time())
            change(street.bucket)
            change(street.model.level, trio.current_time())
        for rate in (0.5, 16, 1):
            await trio.sleep(0.28125)
            street.model.advance(trio.current_time())
            street.bucket.rate = rate
            street.model.level.set_rate(rate, trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(meddle)
        nursery.start_soon(street.customer, "a", 2)
        nursery.start_soon(street.victim, form)
        nursery.start_soon(street.customer, "b", 3)
        nursery.start_soon(street.customer, "c", 0.5)
    street.finish()


async def uncontended(form: Form, sweep: Sweep) -> None:
    street = Street(sweep, level=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(street.victim, form)
        nursery.start_soon(trio.lowlevel.checkpoint)
    taken = street.bucket.statistics().granted - 1
    assert street.bucket.statistics().tokens == 1 - taken
    # A function that was entered got its token; an acquire that raised took none.
    assert taken == len(street.grants)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scenario", [crowd, changes, uncontended])
def test_cancelled_waiter_leaves_no_trace(scenario: Callable[..., Awaitable[None]], form: Form) -> None:
    report = cancellation_sweep(functools.partial(scenario, form), seeds=range(4))
    assert (report.cancelled == 0) is (form is bound and scenario is uncontended)  # no checkpoint, nothing to cancel


async def refused(sweep: Sweep) -> None:
    bucket = TokenBucket(rate=1, max_wait=0)
    bucket.acquire_nowait()
    with sweep.victim():
        with pytest.raises(trioresil.RateLimitedError):
            await bucket.acquire()
    assert bucket.statistics().waiting == 0
    assert bucket.statistics().granted == 1


def test_cancelled_refusal_leaves_no_trace() -> None:
    cancellation_sweep(refused)
