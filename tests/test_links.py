"""Links: what a chain knows of its function, and what it notes on an exception that passes."""

from __future__ import annotations

import functools
import gc
import types
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import trio

import trioresil
from trioresil import Bulkhead, Keyed, Pipeline, RejectedError, Retry, TimedOutError, Timeout
from trioresil._links import Link, is_policy_call, make_link, mark_started, mark_unstarted, passage


async def add(x: int, y: int = 1) -> int:
    return x + y


class Seeing(trioresil.abc.Policy):
    """Keeps the link that it was given, to tell what a chain is made of."""

    name = "seeing"

    def __init__(self) -> None:
        self.inner: Link | None = None

    def link(self, inner: Link) -> Link:
        self.inner = inner

        async def link(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            return await inner(args, kwargs)

        return link

    def statistics(self) -> None:
        """Nothing."""

    async def helper(self) -> None:
        raise RejectedError("helper")


def kind_of(link: Link) -> str:
    return link.__name__  # type: ignore[attr-defined,no-any-return]


def test_a_users_function_is_entered_and_a_policy_is_looked_through() -> None:
    timeout = Timeout(5)
    wrapped = timeout(add)

    class Client:
        @timeout
        async def fetch(self) -> None: ...

        async def own(self) -> None: ...

    with_attributes = functools.partial(timeout.call, add)
    vars(with_attributes)["note"] = "a partial of a partial that has attributes is not flattened"
    for users in (
        add,
        functools.partial(add, 1),
        lambda: wrapped(1),
        functools.partial(lambda: wrapped(1)),
        Client().own,
        Client,
        functools.wraps(wrapped)(lambda: wrapped(1)),
        types.MethodType(functools.partial(add), 1),
    ):
        assert not is_policy_call(users), users
    for policys in (
        timeout.call,
        functools.partial(timeout.call, add),
        functools.partial(functools.partial(timeout.call), add),
        functools.partial(with_attributes, 1),
        functools.partial(wrapped, 1),
        functools.partial(timeout.bind(add), 1),
        Client().fetch,
        functools.partial(Client().fetch),
        Seeing().helper,
    ):
        assert is_policy_call(policys), policys


async def test_a_wrapper_within_a_chain_gives_its_own_chain_without_the_entrance() -> None:
    inner, outer = Seeing(), Seeing()
    wrapped = inner(add)
    for chained in (wrapped, outer.bind(wrapped), outer(wrapped)):
        assert kind_of(make_link(chained)) == "link"
    await outer.call(wrapped, 1)
    assert outer.inner is make_link(wrapped)
    assert kind_of(inner.inner) == "entered"  # type: ignore[arg-type]


async def test_a_copy_of_our_attributes_does_not_make_a_function_ours() -> None:
    wrapped = Timeout(5)(add)
    calls: list[str] = []

    @functools.wraps(wrapped)
    async def users(x: int) -> int:
        calls.append("users")
        return await wrapped(x)

    class Lookalike:
        def __getattr__(self, name: str) -> Any:
            return self  # claims to have every attribute

        async def __call__(self, x: int) -> int:
            calls.append("lookalike")
            return x

    assert await Retry(on=OSError).call(users, 1) == 2
    assert await Retry(on=OSError)(users)(1) == 2
    assert await Retry(on=OSError).call(functools.partial(users, 1)) == 2
    assert await Retry(on=OSError).call(Lookalike(), 1) == 1
    assert calls == ["users"] * 3 + ["lookalike"]


def collected(make: Callable[[], Callable[..., Any]]) -> bool:
    reference = weakref.ref(make())
    gc.collect()
    return reference() is None


@pytest.mark.parametrize("policy", [Timeout(5), Pipeline(Retry(on=OSError), Bulkhead(2))], ids=lambda p: p.name)
def test_a_wrapper_is_freed_even_if_its_function_calls_itself_through_it(policy: Any) -> None:
    def recursive() -> Callable[..., Any]:
        @policy  # type: ignore[untyped-decorator]
        async def visit(n: int) -> None:
            await visit(n - 1)  # pragma: no cover

        return visit  # type: ignore[no-any-return]

    def bound() -> Callable[..., Any]:
        return policy.bind(add)  # type: ignore[no-any-return]

    assert collected(recursive)
    gc.disable()
    try:
        reference = weakref.ref(bound())
        assert reference() is None  # at once: a wrapper alone is in no cycle
    finally:
        gc.enable()


async def test_a_wrapper_is_freed_after_calls_through_a_keyed_too() -> None:
    keyed = Keyed(lambda key: Bulkhead(2), key=lambda n: n)

    def recursive() -> Callable[..., Any]:
        @keyed
        async def visit(n: int) -> None:
            if n:
                await visit(n - 1)

        return visit

    visit = recursive()
    await visit(3)
    assert len(keyed) == 4
    reference = weakref.ref(visit)
    del visit
    gc.collect()
    assert reference() is None


# --- notes on what passes ----------------------------------------------------------------------------------------------------


def test_what_comes_out_of_a_function_is_marked_as_started_down_to_the_leaves() -> None:
    leaf, deep, other = RejectedError("a"), TimedOutError("b", started=False), ValueError()
    group = ExceptionGroup("g", [leaf, other, ExceptionGroup("h", [deep])])
    mark_started(group)
    assert leaf.started is True
    assert deep.started is True
    assert vars(other) == {}
    assert "__trioresil_passage__" not in vars(group)


def test_what_is_no_exception_is_marked_beside_it() -> None:
    leaf = RejectedError("a")
    group = BaseExceptionGroup("g", [KeyboardInterrupt(), leaf])
    mark_unstarted(group)
    assert passage(group).started is False
    mark_started(group)
    assert passage(group).started is True
    assert passage(group.exceptions[0]).started is True
    assert leaf.started is True


def test_an_exception_is_never_marked_as_unstarted() -> None:
    error = ValueError()
    mark_unstarted(error)
    assert vars(error) == {}


def test_an_exception_has_one_passage_which_starts_empty() -> None:
    interrupt = KeyboardInterrupt()
    first = passage(interrupt)
    assert (first.started, first.notes) == (None, [])
    first.notes.append("x")
    assert passage(interrupt) is first


async def test_an_instance_of_a_users_error_is_not_written_to() -> None:
    error = ValueError("x")

    async def fail() -> None:
        raise error

    with pytest.raises(ValueError, match="x"):
        await Pipeline(Timeout(5), Bulkhead(1)).call(fail)
    assert vars(error) == {}


async def test_a_sleeping_function_cancelled_has_started_and_a_queue_has_not(autojump_clock: Any) -> None:
    seen: list[bool | None] = []

    class Watching(Seeing):
        def link(self, inner: Link) -> Link:
            async def link(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
                try:
                    return await inner(args, kwargs)
                except trio.Cancelled as exc:
                    seen.append(passage(exc).started)
                    raise

            return link

    for policy, fn in (
        (Timeout(9), trio.sleep_forever),
        (Bulkhead(0), trio.sleep_forever),
        (Seeing(), trio.sleep_forever),
    ):
        with trio.move_on_after(1):
            await Pipeline(Watching(), policy).call(fn)
    assert seen == [True, False, True]


async def test_a_stranger_that_has_no_name_is_shown_as_it_is() -> None:
    class Stranger:
        def __call__(self) -> int:
            return 5

        def __repr__(self) -> str:
            return "a stranger"

    with pytest.raises(
        TypeError, match=r"^a stranger must return something to await \(is it async\?\), .* returned 5$"
    ):
        await Timeout(5).call(Stranger())  # type: ignore[arg-type]
