"""Argument checks that every constructor shares, and the fix of public module names.

A wrong argument is refused at once, by a message with the argument's name, the range and the value. A number given as the
wrong *type* (a bool, a string) is a TypeError; the right type out of range (NaN too) is a ValueError.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

MISSING: Final = object()


def number(
    argument: str,
    value: object,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float = math.inf,
    finite: bool = False,
    unit: str = "",
) -> float:
    """Return value as a float in [least, most] or (above, most]; finite=True refuses infinity as well."""
    wanted = _range(least, above, most, finite, unit)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{argument} must be {wanted}, not {value!r}")
    try:
        result = float(value)
    except OverflowError:
        raise ValueError(f"{argument} must be {wanted}, not {value!r}") from None
    too_low = (least is not None and not result >= least) or (above is not None and not result > above)
    if math.isnan(result) or too_low or result > most or (finite and math.isinf(result)):
        raise ValueError(f"{argument} must be {wanted}, not {value!r}")
    return result


def _range(least: float | None, above: float | None, most: float, finite: bool, unit: str) -> str:
    words = f"a {'finite ' if finite else ''}number{' of ' + unit if unit else ''}"
    bounds = [f">= {least:g}"] if least is not None else []
    bounds += [f"> {above:g}"] if above is not None else []
    bounds += [f"<= {most:g}"] if most != math.inf else []
    return f"{words} {' and '.join(bounds)}".rstrip()


def seconds(argument: str, value: object, *, zero: bool = True, finite: bool = False) -> float:
    """Return value as float seconds: >= 0, or > 0 with zero=False."""
    if zero:
        return number(argument, value, least=0, finite=finite, unit="seconds")
    return number(argument, value, above=0, finite=finite, unit="seconds")


def ratio(argument: str, value: object) -> float:
    """Return value as a float in (0, 1]."""
    return number(argument, value, above=0, most=1)


def count(argument: str, value: object, *, least: int = 1, infinite: bool = False) -> int | float:
    """Return value if it is a whole number >= least, or math.inf where infinite=True allows it."""
    wanted = f"a whole number >= {least}{' or math.inf' if infinite else ''}"
    if infinite and isinstance(value, float) and value == math.inf:
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be {wanted}, not {value!r}")
    if value < least:
        raise ValueError(f"{argument} must be {wanted}, not {value!r}")
    return value


def whole(argument: str, value: object, *, least: int = 1) -> int:
    """Return value if it is a whole number >= least."""
    result = count(argument, value, least=least)
    assert isinstance(result, int)
    return result


def text(argument: str, value: object) -> str:
    """Return value if it is a string with something in it."""
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a string, not {value!r}")
    if not value:
        raise ValueError(f"{argument} must be a string with at least one character, not ''")
    return value


def flag(argument: str, value: object) -> bool:
    """Return value if it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{argument} must be True or False, not {value!r}")
    return value


def one_of(argument: str, value: Any, choices: tuple[str, ...]) -> Any:
    """Return value if it is one of the names."""
    wanted = f"{argument} must be one of {', '.join(map(repr, choices))}, not {value!r}"
    if not isinstance(value, str):
        raise TypeError(wanted)
    if value not in choices:
        raise ValueError(wanted)
    return value


def function(argument: str, value: Any, *, signature: str) -> Any:
    """Return value if it is a synchronous callable; None passes, as "not given"."""
    if value is None:
        return None
    if not callable(value):
        raise TypeError(f"{argument} must be a function {signature}, not {value!r}")
    if inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value) or inspect.isgeneratorfunction(value):
        raise TypeError(
            f"{argument} must be a plain function {signature}, not an async or generator function: {value!r}"
        )
    return value


def chance(argument: str, value: Any) -> Any:
    """Return value if it can give random numbers; None passes, as "choose for me"."""
    if value is not None and not callable(getattr(value, "random", None)):
        raise TypeError(f"{argument} must be a random.Random, or None for one seeded by the system, not {value!r}")
    return value


def fix_module_names(module: str, namespace: Mapping[str, Any]) -> None:
    """Let public classes and functions say that they live in `module`, where users import them from."""
    package = module.rpartition(".")[0]
    private = (
        f"{module}._",
        f"{package}._http.",
        f"{package}._shared.",
        f"{package}._web.",
    )  # rooms that faces have in common
    for name, value in namespace.items():
        home = getattr(value, "__module__", None)
        public = not name.startswith("_") and isinstance(value, (type, Callable))  # type: ignore[arg-type]
        if public and isinstance(home, str) and home.startswith(private):
            value.__module__ = module
            for member in vars(value).values() if isinstance(value, type) else ():
                if getattr(member, "__module__", None) == home and inspect.isfunction(member):
                    member.__module__ = module
