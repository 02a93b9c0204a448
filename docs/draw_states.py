"""Draws the state diagrams of docs/reference from the tables of transitions that the code runs on.

Run it when a table changes; a test compares. A table decides what is drawn; this file only knows where the states stand and how
an arrow between two of them bends.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from pathlib import Path
from typing import Any

from trioresil._kernel import circuit, health
from trioresil._kernel.circuit import CircuitState
from trioresil._kernel.health import HealthState

REFERENCE = Path(__file__).parent / "reference"

BOX = (150, 56)
LINE, LONGEST = 17, 26  # of a line of text: its height, and its most characters

Arrow = tuple[str, tuple[int, int], str]
"""The arrow as an SVG path, where its first line of text stands, and how that is anchored."""


@dataclass(frozen=True)
class Machine:
    """One picture: what is drawn, and where."""

    file: str
    label: str
    size: tuple[int, int]
    transitions: Mapping[tuple[Any, Any], Any]
    states: Mapping[Enum, tuple[tuple[int, int], str]]
    """Of each state: its centre, and a note under its name."""
    arrows: Mapping[tuple[Enum, Enum], Arrow]


CIRCUIT = Machine(
    file="circuit.svg",
    label="The states of a circuit",
    size=(760, 380),
    transitions=circuit.TRANSITIONS,
    states={
        CircuitState.CLOSED: ((150, 100), "all calls pass"),
        CircuitState.OPEN: ((610, 100), "none pass"),
        CircuitState.HALF_OPEN: ((380, 330), "only probes pass"),
    },
    arrows={
        (CircuitState.CLOSED, CircuitState.OPEN): ("M225,84 C330,54 430,54 531,82", (380, 32), "middle"),
        (CircuitState.OPEN, CircuitState.CLOSED): ("M535,116 C430,134 330,134 229,118", (380, 148), "middle"),
        (CircuitState.OPEN, CircuitState.HALF_OPEN): ("M620,128 C610,240 560,310 459,328", (604, 240), "start"),
        (CircuitState.HALF_OPEN, CircuitState.OPEN): ("M410,302 C420,240 480,170 552,131", (462, 216), "start"),
        (CircuitState.HALF_OPEN, CircuitState.CLOSED): ("M305,330 C200,310 150,240 142,132", (184, 214), "start"),
        (CircuitState.CLOSED, CircuitState.CLOSED): ("M110,72 C90,22 190,22 172,68", (140, 24), "middle"),
        (CircuitState.OPEN, CircuitState.OPEN): ("M590,72 C570,22 670,22 652,68", (620, 24), "middle"),
    },
)
HEALTH = Machine(
    file="health.svg",
    label="The states of what is checked",
    size=(900, 460),
    transitions=health.TRANSITIONS,
    states={
        HealthState.UNKNOWN: ((100, 210), "not healthy yet"),
        HealthState.HEALTHY: ((440, 50), "healthy"),
        HealthState.DEGRADED: ((440, 370), "healthy, but slow"),
        HealthState.UNHEALTHY: ((790, 210), "not healthy"),
    },
    arrows={
        (HealthState.UNKNOWN, HealthState.HEALTHY): ("M110,180 C130,80 250,50 361,50", (30, 40), "start"),
        (HealthState.UNKNOWN, HealthState.DEGRADED): ("M130,240 C160,330 250,368 361,370", (214, 290), "start"),
        (HealthState.UNKNOWN, HealthState.UNHEALTHY): ("M90,240 C90,500 800,500 800,242", (22, 400), "start"),
        (HealthState.HEALTHY, HealthState.DEGRADED): ("M410,80 C390,180 390,240 408,338", (388, 200), "end"),
        (HealthState.DEGRADED, HealthState.HEALTHY): ("M470,340 C490,240 490,180 472,82", (494, 200), "start"),
        (HealthState.HEALTHY, HealthState.UNHEALTHY): ("M516,36 C680,36 800,80 810,178", (700, 40), "start"),
        (HealthState.UNHEALTHY, HealthState.HEALTHY): ("M770,180 C730,110 620,80 520,64", (545, 150), "start"),
        (HealthState.DEGRADED, HealthState.UNHEALTHY): ("M516,370 C640,350 740,300 778,242", (532, 396), "start"),
        (HealthState.UNHEALTHY, HealthState.DEGRADED): ("M740,240 C680,290 600,330 519,352", (505, 258), "start"),
    },
)
MACHINES = (CIRCUIT, HEALTH)

HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"
     font-family="sans-serif" font-size="13" role="img" aria-label="{label}">
<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">
<path d="M0,0 L10,5 L0,10 z" fill="#555"/></marker></defs>
<rect width="{width}" height="{height}" rx="8" fill="#fff"/>
"""


def draw(machine: Machine) -> str:
    """Return the picture as SVG."""
    width, height = machine.size
    parts = [HEAD.format(width=width, height=height, label=machine.label)]
    changes = sorted(machine.transitions.items(), key=lambda item: (item[0][0].value, item[1].value))
    for pair, group in groupby(changes, key=lambda item: (item[0][0], item[1])):
        parts.append(_arrow(machine.arrows[pair], [f"· {signal.value}" for (_, signal), _ in group]))
    parts += [_box(state, centre, note) for state, (centre, note) in machine.states.items()]
    return "".join(parts) + "</svg>\n"


def _arrow(arrow: Arrow, labels: list[str]) -> str:
    path, (x, y), anchor = arrow
    wrapped = [line for label in labels for line in textwrap.wrap(label, LONGEST)]
    lines = "".join(f'<tspan x="{x}" y="{y + LINE * at}">{line}</tspan>' for at, line in enumerate(wrapped))
    return (
        f'<path d="{path}" fill="none" stroke="#555" stroke-width="1.5" marker-end="url(#head)"/>\n'
        f'<text text-anchor="{anchor}" fill="#333">{lines}</text>\n'
    )


def _box(state: Enum, centre: tuple[int, int], note: str) -> str:
    (x, y), (width, height) = centre, BOX
    return (
        f'<rect x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width}" height="{height}" rx="8" '
        'fill="#eef4fb" stroke="#336" stroke-width="1.5"/>\n'
        f'<text x="{x}" y="{y - 3}" text-anchor="middle" font-weight="bold" fill="#113">{state.name}</text>\n'
        f'<text x="{x}" y="{y + 15}" text-anchor="middle" fill="#333">{note}</text>\n'
    )


if __name__ == "__main__":
    for each in MACHINES:
        (REFERENCE / each.file).write_text(draw(each), encoding="utf-8")
