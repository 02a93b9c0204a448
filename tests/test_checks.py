"""Argument checks: what passes, what is refused, and that the message names the argument, the range and the value."""

from __future__ import annotations

import functools
import math
import random
import types
from typing import Any

import pytest

from trioresil import _checks

NO_FLOAT = 10**400  # a whole number that no float can hold


def refusal(error: type[Exception], check: Any, *args: Any, **keywords: Any) -> str:
    with pytest.raises(error) as caught:
        check(*args, **keywords)
    assert type(caught.value) is error
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


# --- numbers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1, 2.5, -3, math.inf, -math.inf])
def test_a_number_without_bounds_passes_as_a_float(value: float) -> None:
    result = _checks.number("x", value)
    assert result == value
    assert type(result) is float


@pytest.mark.parametrize("value", [True, False, None, "1", 1j, [1], b"1"])
def test_what_is_no_number_is_a_type_error(value: object) -> None:
    assert refusal(TypeError, _checks.number, "x", value) == f"x must be a number, not {value!r}"


def test_nan_and_numbers_beyond_a_float_are_refused() -> None:
    assert refusal(ValueError, _checks.number, "x", math.nan) == "x must be a number, not nan"
    assert refusal(ValueError, _checks.number, "x", NO_FLOAT) == f"x must be a number, not {NO_FLOAT!r}"


@pytest.mark.parametrize(
    ("bounds", "passes", "refused", "wanted"),
    [
        ({"least": 0}, [0, 0.0, 5e-324, math.inf], [-5e-324, -1, -math.inf, math.nan], "a number >= 0"),
        ({"above": 0}, [5e-324, math.inf], [0, -0.0, -1, math.nan], "a number > 0"),
        ({"most": 1}, [1, -math.inf], [1.1, 2, math.inf, math.nan], "a number <= 1"),
        ({"above": 0, "most": 1}, [1, 0.5], [0, 1.5], "a number > 0 and <= 1"),
        ({"least": 2.5, "most": 9}, [2.5, 9], [2, 10], "a number >= 2.5 and <= 9"),
        ({"finite": True}, [0, 1e308], [math.inf, -math.inf], "a finite number"),
        ({"finite": True, "least": 0, "unit": "seconds"}, [0], [math.inf, -1], "a finite number of seconds >= 0"),
    ],
)
def test_bounds_are_kept_and_named(bounds: Any, passes: list[float], refused: list[float], wanted: str) -> None:
    for value in passes:
        assert _checks.number("x", value, **bounds) == value
    for value in refused:
        assert refusal(ValueError, _checks.number, "x", value, **bounds) == f"x must be {wanted}, not {value!r}"


def test_seconds_are_zero_or_more_unless_zero_is_excluded() -> None:
    assert _checks.seconds("wait", 0) == 0
    assert _checks.seconds("wait", math.inf) == math.inf
    assert _checks.seconds("wait", 5, zero=False, finite=True) == 5
    assert refusal(ValueError, _checks.seconds, "wait", -1) == "wait must be a number of seconds >= 0, not -1"
    assert refusal(ValueError, _checks.seconds, "wait", 0, zero=False) == "wait must be a number of seconds > 0, not 0"
    for zero, bound in ((True, ">= 0"), (False, "> 0")):
        message = refusal(ValueError, _checks.seconds, "wait", math.inf, zero=zero, finite=True)
        assert message == f"wait must be a finite number of seconds {bound}, not inf"


def test_a_ratio_is_above_zero_and_at_most_one() -> None:
    assert _checks.ratio("ratio", 1) == 1.0
    assert _checks.ratio("ratio", 5e-324) == 5e-324
    for value in (0, 1.01, -0.5, math.nan):
        assert refusal(ValueError, _checks.ratio, "ratio", value) == f"ratio must be a number > 0 and <= 1, not {value}"


# --- whole numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [_checks.count, _checks.whole])
def test_a_count_is_a_whole_number_of_at_least_one_or_as_told(check: Any) -> None:
    assert check("n", 1) == 1
    assert check("n", NO_FLOAT) == NO_FLOAT
    assert check("n", 0, least=0) == 0
    assert refusal(ValueError, check, "n", 0) == "n must be a whole number >= 1, not 0"
    assert refusal(ValueError, check, "n", 2, least=3) == "n must be a whole number >= 3, not 2"
    for value in (1.0, True, "1", None, math.inf, math.nan):
        assert refusal(TypeError, check, "n", value) == f"n must be a whole number >= 1, not {value!r}"


def test_a_count_may_be_infinite_where_that_is_allowed() -> None:
    assert _checks.count("n", math.inf, infinite=True) == math.inf
    assert _checks.count("n", 3, infinite=True) == 3
    wanted = "n must be a whole number >= 1 or math.inf, not "
    assert refusal(ValueError, _checks.count, "n", 0, infinite=True) == wanted + "0"
    for value in (2.0, -math.inf, True, math.nan):
        assert refusal(TypeError, _checks.count, "n", value, infinite=True) == wanted + repr(value)


# --- texts, flags, functions, chance -------------------------------------------------------------------------------


def test_a_text_has_at_least_one_character() -> None:
    assert _checks.text("name", "search") == "search"
    assert refusal(TypeError, _checks.text, "name", 5) == "name must be a string, not 5"
    assert refusal(TypeError, _checks.text, "name", None) == "name must be a string, not None"
    assert refusal(ValueError, _checks.text, "name", "") == (
        "name must be a string with at least one character, not ''"
    )


def test_a_flag_is_true_or_false_and_nothing_like_it() -> None:
    assert _checks.flag("enforce", True) is True
    assert _checks.flag("enforce", False) is False
    for value in (0, 1, None, "yes"):
        assert refusal(TypeError, _checks.flag, "enforce", value) == f"enforce must be True or False, not {value!r}"


async def _coroutine_function() -> None: ...
async def _async_generator() -> Any:
    yield  # pragma: no cover  # never called


def _generator() -> Any:
    yield  # pragma: no cover  # never called


@pytest.mark.parametrize("value", [None, len, refusal, str, functools.partial(print, 1)])
def test_a_plain_function_passes_and_so_does_none(value: Any) -> None:
    assert _checks.function("cost", value, signature="(*args) -> tokens") is value


@pytest.mark.parametrize("value", [5, "len", 0, False, []])
def test_what_is_no_function_is_refused_with_the_signature(value: object) -> None:
    message = refusal(TypeError, _checks.function, "cost", value, signature="(*args) -> tokens")
    assert message == f"cost must be a function (*args) -> tokens, not {value!r}"


@pytest.mark.parametrize("value", [_coroutine_function, _async_generator, _generator])
def test_an_async_or_generator_function_is_refused(value: Any) -> None:
    message = refusal(TypeError, _checks.function, "on", value, signature="(Exception) -> bool")
    assert message == f"on must be a plain function (Exception) -> bool, not an async or generator function: {value!r}"


def test_chance_is_anything_that_gives_random_numbers() -> None:
    class Dice:
        def random(self) -> float:
            return 0.5  # pragma: no cover  # never rolled

    for value in (None, random.Random(1), random, Dice()):
        assert _checks.chance("rng", value) is value
    for wrong in (5, 0, random.random, types.SimpleNamespace(random=0.5)):
        assert refusal(TypeError, _checks.chance, "rng", wrong) == (
            f"rng must be a random.Random, or None for one seeded by the system, not {wrong!r}"
        )


# --- module names --------------------------------------------------------------------------------------------------


def _made(name: str, home: Any, **members: Any) -> type:
    made = type(name, (), members)
    made.__module__ = home
    return made


def _function(home: str) -> types.FunctionType:
    function = types.FunctionType((lambda: None).__code__, {})
    function.__module__ = home
    return function


def test_public_classes_and_functions_say_where_they_are_imported_from() -> None:
    method, foreign = _function("trioresil._policies.retry"), _function("attr._make")
    retry = _made("Retry", "trioresil._policies.retry", call=method, helper=foreign, number=5)
    fetch = _function("trioresil._edge")
    _checks.fix_module_names("trioresil", {"Retry": retry, "fetch": fetch})
    assert (retry.__module__, fetch.__module__, method.__module__) == ("trioresil", "trioresil", "trioresil")
    assert foreign.__module__ == "attr._make"


def test_a_public_module_below_the_package_names_only_what_is_its_own() -> None:
    own, borrowed = _made("Recorder", "trioresil.testing._recorder"), _made("RejectedError", "trioresil._errors")
    _checks.fix_module_names("trioresil.testing", {"Recorder": own, "RejectedError": borrowed})
    assert (own.__module__, borrowed.__module__) == ("trioresil.testing", "trioresil._errors")


def test_what_is_private_foreign_public_already_or_no_class_keeps_its_module() -> None:
    private, foreign = _made("Hidden", "trioresil._errors"), _made("Event", "trio._sync")
    public, odd = _made("Policy", "trioresil.abc"), _made("Odd", None)
    lookalike = _made("Other", "trioresilient._core")
    constant = types.SimpleNamespace(__module__="trioresil._checks")
    names = {"_Hidden": private, "Event": foreign, "Policy": public, "Odd": odd, "Other": lookalike, "X": constant}
    _checks.fix_module_names("trioresil", names)
    kept = [vars(value)["__module__"] for value in (private, foreign, public, odd, lookalike, constant)]
    assert kept == [
        "trioresil._errors",
        "trio._sync",
        "trioresil.abc",
        None,
        "trioresilient._core",
        "trioresil._checks",
    ]


def test_values_without_a_module_and_attributes_of_functions_are_left_alone() -> None:
    outer, inner = _function("trioresil._links"), _function("trioresil._links")
    vars(outer)["inner"] = inner
    _checks.fix_module_names("trioresil", {"LIMIT": 5, "outer": outer})
    assert outer.__module__ == "trioresil"
    assert inner.__module__ == "trioresil._links"


def test_a_class_that_inherits_its_methods_leaves_the_parents_alone() -> None:
    parent = _made("Parent", "trioresil._links", call=_function("trioresil._links"))
    child = type("Child", (parent,), {"__module__": "trioresil._policies.retry"})
    _checks.fix_module_names("trioresil", {"Child": child})
    assert child.__module__ == "trioresil"
    assert parent.call.__module__ == "trioresil._links"  # type: ignore[attr-defined]
