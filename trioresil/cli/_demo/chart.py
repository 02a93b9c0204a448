"""Charts for the report: scales, ticks and paths, in percent of the plot, from the left and from the top. Pure.

The lines are drawn here, by a few functions, and not by a library, on purpose. A report must be readable on a phone and in both
colour schemes, without anything from the network. Matplotlib (with NumPy 25 MB to install) bakes colours into its SVG, and pygal,
which is small, colours and a link to a script on its site besides; the text of both shrinks with the picture. Here the browser
stretches the lines alone, without their width; text is HTML at its own size, and colours are the style sheet's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import attrs

Points = Sequence[tuple[float, float | None]]
"""(seconds, value) pairs; None: a gap."""

_NICE_STEPS: Final = (1.0, 2.0, 5.0, 10.0)


@attrs.frozen
class Tick:
    """A labelled place on an axis."""

    place: float
    text: str
    """What is written there; empty: only a line."""


@attrs.frozen
class Axis:
    """From values to percent of the plot's height, 0 at its top."""

    place: Callable[[float], float]
    ticks: tuple[Tick, ...]


def time_axis(seconds: float) -> tuple[Tick, ...]:
    """Return the ticks of a time from 0, in percent of the width."""
    step = _nice_step(seconds / 5)
    count = math.floor(seconds / step + 1e-9)
    return tuple(Tick(100 * at * step / seconds, f"{_number(at * step)} s") for at in range(count + 1))


def share_axis() -> Axis:
    """Return an axis of shares from 0 to 100 %."""
    return _linear(1.0, [0, 0.25, 0.5, 0.75, 1], lambda value: f"{100 * value:.0f} %")


def rate_axis(values: Iterable[float | None]) -> Axis:
    """Return an axis of rates from 0 to a little more than the greatest."""
    most = max((value for value in values if value is not None), default=0.0) or 1.0
    step = _nice_step(most / 4)
    count = math.ceil(most / step - 1e-9)
    return _linear(count * step, [step * at for at in range(count + 1)], lambda value: f"{_number(value)}/s")


def wait_axis(values: Iterable[float | None]) -> Axis:
    """Return a logarithmic axis of seconds, whole powers of ten around the values; what is below 1 ms is at its bottom."""
    positive = [value for value in values if value]
    low = max(math.floor(math.log10(min(positive, default=0.01)) + 1e-9), -3)
    high = max(math.ceil(math.log10(max(positive, default=1.0)) - 1e-9), low + 1)

    def place(value: float) -> float:
        if value <= 0:
            return 100.0
        return min(100.0, 100 * (high - math.log10(value)) / (high - low))

    marks = [
        (10.0**power * factor, factor == 1)
        for power in range(low, high + 1)
        for factor in (1, 3)
        if power < high or factor == 1
    ]
    return Axis(place, tuple(Tick(place(value), _wait(value) if labelled else "") for value, labelled in marks))


def _linear(most: float, values: Iterable[float], text: Callable[[float], str]) -> Axis:
    def place(value: float) -> float:
        return 100 * (1 - value / most)

    return Axis(place, tuple(Tick(place(value), text(value)) for value in values))


def line(points: Points, seconds: float, axis: Axis) -> str:
    """Return an SVG path through the points; a point between two gaps becomes a dot."""
    parts, pen_down = [], False
    for index, (at, value) in enumerate(points):
        if value is None:
            pen_down = False
            continue
        x, y = _percent(100 * at / seconds), _percent(axis.place(value))
        parts.append(f"{'L' if pen_down else 'M'}{x},{y}")
        if not pen_down and (index + 1 == len(points) or points[index + 1][1] is None):
            parts.append("h0")
        pen_down = True
    return "".join(parts)


def steps(stretches: Iterable[tuple[float, float]], seconds: float) -> str:
    """Return an SVG path of stretches of time, each (begin, height in percent), level until the next one begins."""
    path = ""
    for begins, height in stretches:
        x, y = _percent(100 * begins / seconds), _percent(height)
        path += f"H{x}V{y}" if path else f"M{x},{y}"
    return f"{path}H100" if path else ""


def _nice_step(at_least: float) -> float:
    power = 10.0 ** math.floor(math.log10(at_least))
    return next(power * step for step in _NICE_STEPS if power * step >= at_least * (1 - 1e-9))


def _number(value: float) -> str:
    return f"{value:.6g}"


def _percent(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _wait(seconds: float) -> str:
    return f"{1000 * seconds:.6g} ms" if seconds < 1 else f"{seconds:.6g} s"
