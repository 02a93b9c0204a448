"""Draws docs/reference/circuit.svg from the circuit's transition table. Run it when the table changes; a test compares.

The table decides what is drawn; this file only knows where the states stand and how an arrow between two of them bends.
"""

from __future__ import annotations

import textwrap
from itertools import groupby
from pathlib import Path

from trioresil._kernel.circuit import TRANSITIONS, CircuitState

PICTURE = Path(__file__).parent / "reference" / "circuit.svg"

WIDTH, HEIGHT = 760, 380
CENTRES = {CircuitState.CLOSED: (150, 100), CircuitState.OPEN: (610, 100), CircuitState.HALF_OPEN: (380, 330)}
NOTES = {
    CircuitState.CLOSED: "all calls pass",
    CircuitState.OPEN: "none pass",
    CircuitState.HALF_OPEN: "only probes pass",
}
BOX = (150, 56)
LINE, LONGEST = 17, 26  # of a line of text: its height, and its most characters

# For each pair of states: the arrow as an SVG path, and where its first line of text stands and how it is anchored.
ARROWS = {
    (CircuitState.CLOSED, CircuitState.OPEN): ("M225,84 C330,54 430,54 531,82", (380, 32), "middle"),
    (CircuitState.OPEN, CircuitState.CLOSED): ("M535,116 C430,134 330,134 229,118", (380, 148), "middle"),
    (CircuitState.OPEN, CircuitState.HALF_OPEN): ("M620,128 C610,240 560,310 459,328", (604, 240), "start"),
    (CircuitState.HALF_OPEN, CircuitState.OPEN): ("M410,302 C420,240 480,170 552,131", (462, 216), "start"),
    (CircuitState.HALF_OPEN, CircuitState.CLOSED): ("M305,330 C200,310 150,240 142,132", (184, 214), "start"),
    (CircuitState.CLOSED, CircuitState.CLOSED): ("M110,72 C90,22 190,22 172,68", (140, 24), "middle"),
    (CircuitState.OPEN, CircuitState.OPEN): ("M590,72 C570,22 670,22 652,68", (620, 24), "middle"),
}

HEAD = f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"
     font-family="sans-serif" font-size="13" role="img" aria-label="The states of a circuit">
<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">
<path d="M0,0 L10,5 L0,10 z" fill="#555"/></marker></defs>
<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#fff"/>
"""


def draw() -> str:
    """Return the picture as SVG."""
    parts = [HEAD]
    changes = sorted(TRANSITIONS.items(), key=lambda item: (item[0][0].value, item[1].value))
    for (before, after), group in groupby(changes, key=lambda item: (item[0][0], item[1])):
        parts.append(_arrow(before, after, [f"· {signal.value}" for (_, signal), _ in group]))
    parts += [_box(state) for state in CENTRES]
    return "".join(parts) + "</svg>\n"


def _arrow(before: CircuitState, after: CircuitState, labels: list[str]) -> str:
    path, (x, y), anchor = ARROWS[before, after]
    wrapped = [line for label in labels for line in textwrap.wrap(label, LONGEST)]
    lines = "".join(f'<tspan x="{x}" y="{y + LINE * at}">{line}</tspan>' for at, line in enumerate(wrapped))
    return (
        f'<path d="{path}" fill="none" stroke="#555" stroke-width="1.5" marker-end="url(#head)"/>\n'
        f'<text text-anchor="{anchor}" fill="#333">{lines}</text>\n'
    )


def _box(state: CircuitState) -> str:
    (x, y), (width, height) = CENTRES[state], BOX
    return (
        f'<rect x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width}" height="{height}" rx="8" '
        'fill="#eef4fb" stroke="#336" stroke-width="1.5"/>\n'
        f'<text x="{x}" y="{y - 3}" text-anchor="middle" font-weight="bold" fill="#113">{state.name}</text>\n'
        f'<text x="{x}" y="{y + 15}" text-anchor="middle" fill="#333">{NOTES[state]}</text>\n'
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
