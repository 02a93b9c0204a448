"""`on`: what counts as a failure, for every policy in one way."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from trioresil._errors import NotAwaitableError, RejectedError
from trioresil._failures import check_on, classes_of, failure_test


def leaf_group(*errors: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("g", errors)


@pytest.mark.parametrize("on", [OSError, (OSError,), (KeyError, OSError), lambda exc: isinstance(exc, OSError)])
def test_a_class_a_tuple_and_a_predicate_mean_the_same(on: Any) -> None:
    is_failure = failure_test(check_on(on))
    assert is_failure(OSError()) is True
    assert is_failure(ConnectionError()) is True
    assert is_failure(ValueError()) is False


def test_a_predicates_answer_is_taken_for_its_truth() -> None:
    assert failure_test(lambda exc: "yes")(ValueError()) is True
    assert failure_test(lambda exc: [])(ValueError()) is False


@pytest.mark.parametrize("on", [Exception, lambda exc: True])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), BaseExceptionGroup("g", [OSError(), GeneratorExit()]), NotAwaitableError()], ids=repr
)
def test_what_is_no_exception_or_a_mistake_in_the_program_never_matches(on: Any, error: BaseException) -> None:
    assert failure_test(on)(error) is False


def test_a_mistake_in_a_group_keeps_the_group_from_matching_by_its_leaves() -> None:
    is_failure = failure_test((OSError, TypeError))
    assert is_failure(leaf_group(OSError(), TypeError())) is True
    assert is_failure(leaf_group(OSError(), NotAwaitableError())) is False


def test_a_group_matches_if_each_of_its_leaves_does() -> None:
    is_failure = failure_test((OSError, KeyError))
    assert is_failure(leaf_group(OSError(), KeyError())) is True
    assert is_failure(leaf_group(OSError(), leaf_group(KeyError(), ConnectionError()))) is True
    assert is_failure(leaf_group(OSError(), ValueError())) is False
    assert is_failure(leaf_group(OSError(), leaf_group(KeyError(), ValueError()))) is False


def test_a_group_is_asked_about_itself_first() -> None:
    asked: list[Exception] = []

    def groups_of_two(exc: Exception) -> bool:
        asked.append(exc)
        return isinstance(exc, ExceptionGroup) and len(exc.exceptions) == 2

    two = leaf_group(ValueError(), ValueError())
    assert failure_test(groups_of_two)(two) is True
    assert asked == [two]
    assert failure_test(groups_of_two)(leaf_group(two)) is True
    assert failure_test(groups_of_two)(leaf_group(ValueError())) is False
    assert failure_test(ExceptionGroup)(leaf_group(ValueError())) is True
    assert failure_test(ExceptionGroup)(ValueError()) is False


def test_classes_are_told_from_predicates() -> None:
    def predicate(exc: Exception) -> bool:
        raise AssertionError  # pragma: no cover

    assert classes_of(OSError) == (OSError,)
    assert classes_of((OSError, KeyError)) == (OSError, KeyError)
    assert classes_of(predicate) is None


@pytest.mark.parametrize("on", [OSError, (OSError,), (OSError, RejectedError), Exception, ExceptionGroup, len, print])
def test_what_can_be_matched_is_taken_as_it_is(on: Any) -> None:
    assert check_on(on) is on


WANTED = "on must be an exception class, a tuple of exception classes, or a function (Exception) -> bool"
NO_FAILURES = "cancellation and KeyboardInterrupt are no failures; on=Exception matches every failure"


async def async_predicate(exc: Exception) -> bool:
    raise AssertionError  # pragma: no cover


@pytest.mark.parametrize(
    ("on", "kind", "message"),
    [
        ((), ValueError, f"{WANTED}, not an empty tuple: nothing would ever match"),
        (None, TypeError, f"{WANTED}, not None"),
        ([OSError], TypeError, f"{WANTED}, not [<class 'OSError'>]"),
        ((OSError, "x"), TypeError, f"{WANTED}, not a tuple with 'x' in it"),
        (int, TypeError, f"{WANTED}, not <class 'int'>"),
        ((OSError, int), TypeError, f"{WANTED}, not <class 'int'>"),
        (BaseException, TypeError, f"{WANTED}, not BaseException: {NO_FAILURES}"),
        (trio.Cancelled, TypeError, f"{WANTED}, not Cancelled: {NO_FAILURES}"),
        ((OSError, KeyboardInterrupt), TypeError, f"{WANTED}, not KeyboardInterrupt: {NO_FAILURES}"),
        (async_predicate, TypeError, f"{WANTED}; the function must be a plain one, not {async_predicate!r}"),
    ],
)
def test_what_can_not_be_matched_is_refused_with_what_is_wanted(on: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        check_on(on)
    assert str(caught.value) == message
