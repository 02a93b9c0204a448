"""What a Retry refuses, says of itself, and doesn't let anybody change."""

from __future__ import annotations

import asyncio
import copy
import math
from random import Random
from typing import Any

import pytest
import trio

import trioresil
from tests._scripts import FORMS, OTHER_FORMS, Form, Script


async def async_predicate(error: Exception) -> bool:
    return True


def generator_predicate(error: Exception) -> Any:
    yield True


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, TypeError, "missing 1 required keyword-only argument: 'on'"),
        (
            {"on": BaseException},
            TypeError,
            "on must be .* not BaseException: cancellation and KeyboardInterrupt are no",
        ),
        ({"on": trio.Cancelled}, TypeError, "on must be .* not Cancelled: cancellation"),
        ({"on": (OSError, KeyboardInterrupt)}, TypeError, "on must be .* not KeyboardInterrupt: cancellation"),
        ({"on": ()}, ValueError, "on must be .* not an empty tuple"),
        ({"on": int}, TypeError, "on must be .* not <class 'int'>"),
        ({"on": OSError()}, TypeError, "on must be an exception class"),
        ({"on": None}, TypeError, "on must be .* not None"),
        ({"on": async_predicate}, TypeError, "on must be .* must be a plain one"),
        ({"max_attempts": 0}, ValueError, "max_attempts must be a whole number >= 1 or math.inf, not 0"),
        ({"max_attempts": -1}, ValueError, "max_attempts must be .* not -1"),
        ({"max_attempts": True}, TypeError, "max_attempts must be .* not True"),
        ({"max_attempts": 2.5}, TypeError, "max_attempts must be .* not 2.5"),
        ({"max_attempts": math.nan}, TypeError, "max_attempts must be .* not nan"),
        ({"max_attempts": None}, TypeError, "max_attempts must be .* not None"),
        ({"backoff": iter([1.0])}, TypeError, "backoff must be usable more than once, and an iterator is not"),
        ({"backoff": (delay for delay in [1.0])}, TypeError, "backoff must be usable more than once"),
        ({"backoff": 5}, TypeError, r"backoff must be .* write constant\(5\)"),
        ({"backoff": True}, TypeError, "backoff must be"),
        ({"backoff": []}, ValueError, "backoff must have at least one delay"),
        ({"backoff": [1, -1]}, ValueError, "each delay of backoff must be a finite number of seconds >= 0, not -1"),
        ({"backoff": [math.inf]}, ValueError, "each delay of backoff must be"),
        ({"budget": 0.2}, TypeError, "budget must be a RetryBudget or None, not 0.2"),
        ({"on_result": 5}, TypeError, r"on_result must be a function \(result\) -> bool, not 5"),
        ({"on_result": async_predicate}, TypeError, "on_result must be a plain function"),
        ({"delay_hint": "5"}, TypeError, r"delay_hint must be a function \(Exception or result\) -> seconds or None"),
        ({"delay_hint": generator_predicate}, TypeError, "delay_hint must be a plain function"),
        ({"max_hint": -1}, ValueError, "max_hint must be a number of seconds >= 0, not -1"),
        ({"max_hint": math.nan}, ValueError, "max_hint must be .* not nan"),
        ({"max_hint": False}, TypeError, "max_hint must be .* not False"),
        ({"max_hint": None}, TypeError, "max_hint must be .* not None"),
        ({"rng": 5}, TypeError, "rng must be a random.Random, or None for one seeded by the system, not 5"),
        ({"name": ""}, ValueError, "name must be a string with at least one character"),
        ({"name": 5}, TypeError, "name must be a string, not 5"),
        ({"attempts": 5}, TypeError, "unexpected keyword argument 'attempts'"),
    ],
)
def test_wrong_argument_is_refused_by_name(arguments: Any, error: type[Exception], message: str) -> None:
    defaults = {"on": OSError} if arguments else {}
    with pytest.raises(error, match=message):
        trioresil.Retry(**{**defaults, **arguments})


def test_every_argument_is_keyword_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        trioresil.Retry(OSError)  # type: ignore[call-arg,misc]


def test_borderline_arguments_are_taken() -> None:
    trioresil.Retry(on=lambda error: False, max_attempts=1, backoff=[0], max_hint=0, rng=Random(1))
    trioresil.Retry(on=ExceptionGroup, max_attempts=math.inf, backoff=(0.5,), max_hint=math.inf)


async def values() -> Any:
    yield 1


def items() -> Any:
    yield 1


@pytest.mark.parametrize("generator", [values, items])
def test_generator_function_cant_be_decorated(generator: Any) -> None:
    with pytest.raises(TypeError, match="is a generator function, whose failures come after the call has returned"):
        trioresil.Retry(on=OSError)(generator)


async def test_coroutine_instead_of_a_function_is_a_type_error() -> None:
    async def work() -> None: ...

    with pytest.raises(TypeError, match=r"not the coroutine that calling it gives: pass .*work, without"):
        await trioresil.Retry(on=OSError).call(work())  # type: ignore[arg-type]


@pytest.mark.parametrize("form", [form for name, form in {**FORMS, **OTHER_FORMS}.items() if name != "bind"])
def test_asyncio_is_told_what_to_do(form: Form) -> None:
    script = Script("value")
    retry = trioresil.Retry(on=Exception)
    with pytest.raises(
        RuntimeError, match=r"trioresil runs on Trio: start the program with trio.run\(\.\.\.\)"
    ) as caught:
        asyncio.run(form(retry, script.run))  # type: ignore[arg-type]
    assert "this ran under asyncio" in str(caught.value)


# --- what it says of itself


def test_repr_is_a_status_line() -> None:
    retry = trioresil.Retry(on=OSError, backoff=[1, 2], name="search")
    assert repr(retry) == "<trioresil.Retry 'search' 5 attempts, [1, 2]>"
    endless = trioresil.Retry(on=OSError, max_attempts=math.inf)
    assert repr(endless).startswith("<trioresil.Retry 'retry' inf attempts, exponential(initial=0.1,")


def test_statistics_are_its_configuration() -> None:
    retry = trioresil.Retry(on=OSError, max_attempts=3, name="search")
    assert retry.statistics() == trioresil.RetryStatistics(name="search", max_attempts=3)


def test_arguments_can_be_read() -> None:
    given: dict[str, Any] = {
        "on": (OSError, KeyError),
        "max_attempts": 3,
        "backoff": trioresil.constant(2),
        "budget": trioresil.RetryBudget(),
        "on_result": bool,
        "delay_hint": float,
        "max_hint": 5.0,
        "rng": Random(1),
        "name": "search",
    }
    retry = trioresil.Retry(**given)
    assert {name: getattr(retry, name) for name in given} == given
    assert retry.stateful is False


def test_defaults() -> None:
    retry = trioresil.Retry(on=OSError)
    assert retry.max_attempts == 5
    assert retry.backoff == trioresil.exponential(initial=0.1, factor=2.0, max=10.0, jitter="full")
    assert retry.budget is retry.on_result is retry.delay_hint is None
    assert retry.max_hint == 60
    assert retry.name == "retry"


def test_chance_differs_between_retries_and_is_shared_by_nobody() -> None:
    first, second = trioresil.Retry(on=OSError), trioresil.Retry(on=OSError)
    assert first.rng is not second.rng
    assert first.rng.random() != second.rng.random()


# --- .replace, and nothing else, changes it


def test_replace_gives_a_changed_copy() -> None:
    budget = trioresil.RetryBudget()
    retry = trioresil.Retry(
        on=OSError,
        backoff=[1],
        budget=budget,
        on_result=bool,
        delay_hint=float,
        max_hint=5,
        rng=Random(1),
        name="search",
    )
    changed = retry.replace(max_attempts=2)
    assert (retry.max_attempts, changed.max_attempts) == (5, 2)
    for name in ("on", "backoff", "budget", "on_result", "delay_hint", "max_hint", "rng", "name"):
        assert getattr(changed, name) == getattr(retry, name)
    assert retry.replace(name="other").name == "other"


def test_replace_checks_its_arguments() -> None:
    with pytest.raises(ValueError, match="max_attempts must be"):
        trioresil.Retry(on=OSError).replace(max_attempts=0)
    with pytest.raises(TypeError, match="'max_atempts'"):
        trioresil.Retry(on=OSError).replace(max_atempts=2)


def test_attribute_cant_be_set_or_deleted() -> None:
    retry = trioresil.Retry(on=OSError, name="search")
    for name in ("max_attempts", "on", "name", "max_atempts"):
        with pytest.raises(
            AttributeError, match=rf"'search'.* can't be changed: \.replace\({name}=\.\.\.\) returns"
        ) as caught:
            setattr(retry, name, 2)
        assert (caught.value.name, caught.value.obj) == (name, retry)
    with pytest.raises(AttributeError, match=r"can't be changed: \.replace\(\.\.\.\) returns a changed copy"):
        del retry.name
    assert (retry.max_attempts, retry.on, retry.name) == (5, OSError, "search")


def test_copy_is_as_unchangeable() -> None:
    copied = copy.copy(trioresil.Retry(on=OSError, max_attempts=2))
    assert copied.max_attempts == 2
    with pytest.raises(AttributeError):
        copied.max_attempts = 3
