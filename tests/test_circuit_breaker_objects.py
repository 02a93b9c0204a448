"""The breaker as an object: what can't be assigned, and that what it raises is freed at once."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator

import pytest
from trio.testing import MockClock

from tests._circuit_breaker import half_open, succeed
from trioresil import CircuitBreaker, CircuitOpenError, ConsecutiveFailures, Fallback, Pipeline


@pytest.mark.parametrize("name", ["name", "trip", "on", "on_result"])
def test_what_decisions_were_made_from_cannot_be_assigned(name: str) -> None:
    breaker = CircuitBreaker(on=OSError, on_result=bool, name="search")
    before = getattr(breaker, name)
    with pytest.raises(AttributeError) as caught:
        setattr(breaker, name, None)
    assert str(caught.value) == (
        f"search: a breaker's {name} can't be changed: make another with CircuitBreaker({name}=...)"
    )
    with pytest.raises(AttributeError):
        delattr(breaker, name)
    assert getattr(breaker, name) is before


def test_its_attributes_are_what_it_was_made_with() -> None:
    trip = ConsecutiveFailures(2)
    breaker = CircuitBreaker(trip=trip, on=OSError, on_result=bool, name="search")
    assert (breaker.trip, breaker.on, breaker.on_result, breaker.name) == (trip, OSError, bool, "search")


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


async def call(breaker: CircuitBreaker) -> None:
    await breaker.call(succeed)


async def decorated(breaker: CircuitBreaker) -> None:
    await breaker(succeed)()


async def in_pipeline(breaker: CircuitBreaker) -> None:
    await Pipeline(Fallback(default=None, on=OSError), breaker).call(succeed)


async def block(breaker: CircuitBreaker) -> None:
    async with breaker:
        pass  # pragma: no cover


async def admitted(breaker: CircuitBreaker) -> None:
    with breaker.admit():
        pass  # pragma: no cover


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("form", [call, decorated, in_pipeline, block, admitted], ids=lambda form: form.__name__)
async def test_a_rejection_is_freed_without_the_collector(form: Callable[[CircuitBreaker], Awaitable[None]]) -> None:
    breaker = CircuitBreaker()
    breaker.open(30)
    reference = None
    try:
        await form(breaker)
    except CircuitOpenError as exc:
        reference = weakref.ref(exc)
    assert reference is not None
    assert reference() is None


class Down(OSError):
    """An exception that weak references can point to."""


async def go_down() -> None:
    raise Down


@pytest.mark.usefixtures("no_collector")
async def test_the_failure_of_a_probe_is_freed_without_the_collector(autojump_clock: MockClock) -> None:
    breaker = await half_open(CircuitBreaker(trip=ConsecutiveFailures(1)))
    reference = None
    try:
        await breaker.call(go_down)
    except Down as exc:
        reference = weakref.ref(exc)
    assert breaker.statistics().opened == 2
    assert reference is not None
    assert reference() is None
