"""What a careful expert writes instead of a policy: correct under cancellation, and no faster path left out.

Each permit has its own borrower (a CapacityLimiter refuses the same one twice), the free permit is tried for before the queue,
verdicts of calls from before a change of the circuit don't count, a cancelled call counts as nothing and frees the probe.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import trio
from trio import CancelScope, CapacityLimiter, current_effective_deadline, current_time

Fetch = Callable[[int], Awaitable[object]]

ATTEMPTS = 5


class CircuitOpen(Exception):
    """The circuit is open."""


class Circuit:
    """Opens after five failures in a row, for thirty seconds; then one probe decides."""

    __slots__ = ("failures", "generation", "is_open", "open_until", "probe_out")

    def __init__(self) -> None:
        self.is_open = False
        self.open_until = 0.0
        self.probe_out = False
        self.generation = 0
        self.failures = 0

    def probe(self) -> None:
        if self.probe_out or current_time() < self.open_until:
            raise CircuitOpen
        self.probe_out = True

    def succeeded(self, generation: int) -> None:
        if generation != self.generation:
            return
        self.failures = 0
        if self.is_open:
            self.is_open = self.probe_out = False
            self.generation += 1

    def failed(self, generation: int) -> None:
        if generation != self.generation:
            return
        self.failures += 1
        if self.failures >= 5 or self.is_open:
            self.is_open, self.probe_out = True, False
            self.open_until = current_time() + 30
            self.generation += 1

    def abandoned(self, generation: int) -> None:
        if generation == self.generation:
            self.probe_out = False


def retry(fetch: Fetch, on: type[Exception] = OSError, base: float = 0.1) -> Fetch:
    """Retry with full jitter, but not beyond the deadline."""

    async def retried(value: int) -> object:
        number = 1
        while True:
            try:
                return await fetch(value)
            except on:
                delay = random.uniform(0, min(10, base * 2**number))
                if number == ATTEMPTS or current_time() + delay >= current_effective_deadline():
                    raise
            await trio.sleep(delay)
            number += 1

    return retried


def timeout(fetch: Fetch) -> Fetch:
    """Trio's own, written as its documentation does."""

    async def timed(value: int) -> object:
        with trio.fail_after(2):
            return await fetch(value)

    return timed


def breaker(fetch: Fetch, circuit: Circuit) -> Fetch:
    """Count failures in a row; reject while open."""

    async def protected(value: int) -> object:
        if circuit.is_open:
            circuit.probe()
        generation = circuit.generation
        try:
            result = await fetch(value)
        except Exception:
            circuit.failed(generation)
            raise
        except BaseException:
            circuit.abandoned(generation)
            raise
        circuit.succeeded(generation)
        return result

    return protected


def bulkhead(fetch: Fetch, limiter: CapacityLimiter) -> Fetch:
    """Take a permit, from the queue only if none is free."""

    async def limited(value: int) -> object:
        borrower = object()
        try:
            limiter.acquire_on_behalf_of_nowait(borrower)
        except trio.WouldBlock:
            await limiter.acquire_on_behalf_of(borrower)
        try:
            return await fetch(value)
        finally:
            limiter.release_on_behalf_of(borrower)

    return limited


def token_bucket(fetch: Fetch, rate: float, capacity: float) -> Fetch:
    """Keep the instant at which the level was 0; sleep until the token is there. Not fair, unlike a queue."""
    zero = -1e9

    async def limited(value: int) -> object:
        nonlocal zero
        while (ready_at := max(zero, (now := current_time()) - capacity / rate) + 1 / rate) > now:  # noqa: ASYNC110  # a sleep until an instant, not polling
            await trio.sleep_until(ready_at)
        zero = ready_at
        return await fetch(value)

    return limited


def fallback(fetch: Fetch) -> Fetch:
    """Answer errors with a default."""

    async def answered(value: int) -> object:
        try:
            return await fetch(value)
        except OSError:
            return None

    return answered


def four(fetch: Fetch, limiter: CapacityLimiter, circuit: Circuit) -> Fetch:
    """Write fallback, retry, bulkhead and breaker as one function."""

    async def guarded(value: int) -> object:
        number = 1
        while True:
            borrower = object()
            try:
                limiter.acquire_on_behalf_of_nowait(borrower)
            except trio.WouldBlock:
                await limiter.acquire_on_behalf_of(borrower)
            try:
                if circuit.is_open:
                    circuit.probe()
                generation = circuit.generation
                try:
                    result = await fetch(value)
                except Exception:
                    circuit.failed(generation)
                    raise
                except BaseException:
                    circuit.abandoned(generation)
                    raise
                circuit.succeeded(generation)
                return result
            except (OSError, CircuitOpen):
                pass
            finally:
                limiter.release_on_behalf_of(borrower)
            delay = random.uniform(0, min(10, 0.1 * 2**number))
            if number == ATTEMPTS or current_time() + delay >= current_effective_deadline():
                return None
            await trio.sleep(delay)
            number += 1

    return guarded


def five(fetch: Fetch, limiter: CapacityLimiter, circuit: Circuit) -> Fetch:
    """Write the same with a time-out of two seconds for each attempt; `fail_after` opened up, which saves a microsecond."""

    async def guarded(value: int) -> object:
        number = 1
        while True:
            borrower = object()
            try:
                limiter.acquire_on_behalf_of_nowait(borrower)
            except trio.WouldBlock:
                await limiter.acquire_on_behalf_of(borrower)
            try:
                if circuit.is_open:
                    circuit.probe()
                generation = circuit.generation
                try:
                    with CancelScope(deadline=current_time() + 2):
                        result = await fetch(value)
                        circuit.succeeded(generation)
                        return result
                    raise trio.TooSlowError
                except Exception:
                    circuit.failed(generation)
                    raise
                except BaseException:
                    circuit.abandoned(generation)
                    raise
            except (OSError, trio.TooSlowError, CircuitOpen):
                pass
            finally:
                limiter.release_on_behalf_of(borrower)
            delay = random.uniform(0, min(10, 0.1 * 2**number))
            if number == ATTEMPTS or current_time() + delay >= current_effective_deadline():
                return None
            await trio.sleep(delay)
            number += 1

    return guarded
