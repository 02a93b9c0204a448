"""What counts as a failure: the argument `on` of every policy that has one, read in one way."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

from ._errors import is_usage_error

On: TypeAlias = type[Exception] | tuple[type[Exception], ...] | Callable[[Any], bool]
FailureTest: TypeAlias = Callable[[BaseException], bool]


def classes_of(on: On) -> tuple[type[Exception], ...] | None:
    """Return the exception classes that `on` names, or None if it is a predicate."""
    if isinstance(on, tuple):
        return on
    return (on,) if isinstance(on, type) else None


def check_on(on: Any) -> On:
    """Return `on` if it is an exception class, a non-empty tuple of them, or a predicate."""
    wanted = "on must be an exception class, a tuple of exception classes, or a function (Exception) -> bool"
    if isinstance(on, tuple):
        if not on:
            raise ValueError(f"{wanted}, not an empty tuple: nothing would ever match")
        for each in on:
            _check_class(wanted, each)
    elif isinstance(on, type):
        _check_class(wanted, on)
    elif not callable(on):
        raise TypeError(f"{wanted}, not {on!r}")
    elif inspect.iscoroutinefunction(on) or inspect.isgeneratorfunction(on) or inspect.isasyncgenfunction(on):
        raise TypeError(f"{wanted}; the function must be a plain one, not {on!r}")
    return on  # type: ignore[no-any-return]


def _check_class(wanted: str, candidate: Any) -> None:
    if not isinstance(candidate, type):
        raise TypeError(f"{wanted}, not a tuple with {candidate!r} in it")
    if issubclass(candidate, Exception):
        return
    if issubclass(candidate, BaseException):
        raise TypeError(
            f"{wanted}, not {candidate.__name__}: cancellation and KeyboardInterrupt are no failures; "
            "on=Exception matches every failure"
        )
    raise TypeError(f"{wanted}, not {candidate!r}")


def failure_test(on: On) -> FailureTest:
    """Return a function that tells whether an exception is a failure.

    A group is asked about as it is first; if it doesn't match, every leaf of it must. A mistake in the program (as a
    function whose result can't be awaited) never is a failure of what is called.
    """
    classes = classes_of(on)
    predicate: Any = on

    def asked(exc: Exception) -> bool:
        return isinstance(exc, classes) if classes is not None else bool(predicate(exc))

    def is_failure(exc: BaseException) -> bool:
        if not isinstance(exc, Exception) or is_usage_error(exc):
            return False
        if asked(exc):
            return True
        return isinstance(exc, ExceptionGroup) and all(is_failure(leaf) for leaf in exc.exceptions)

    return is_failure
